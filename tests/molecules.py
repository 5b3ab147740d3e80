"""Made molecules: atoms and bonds as pairs of class numbers, as `graphmae_chem` reads them."""

from pathlib import Path

import torch
from torch import Tensor

ATOM_TYPES, CHIRALITIES, BOND_TYPES, DIRECTIONS = 119, 3, 4, 3  # a file's own bonds: the other two types are ours


def molecule(atoms: int, generator: torch.Generator) -> dict[str, Tensor]:
    """A chain with a few further bonds: x (N, 2), edge_index (2, E) both ways, edge_attr (E, 2), all long."""
    chain = torch.stack([torch.arange(atoms - 1), torch.arange(1, atoms)])
    further = torch.randint(atoms, (2, atoms // 4), generator=generator)
    bonds = torch.cat([chain, further], 1)
    kinds = torch.stack([draw(BOND_TYPES, bonds.shape[1], generator), draw(DIRECTIONS, bonds.shape[1], generator)], 1)

    return {
        "x": torch.stack([draw(ATOM_TYPES, atoms, generator), draw(CHIRALITIES, atoms, generator)], 1),
        "edge_index": torch.cat([bonds, bonds.flip(0)], 1),
        "edge_attr": torch.cat([kinds, kinds]),
    }


def write(folder: Path, count: int, seed: int = 0) -> None:
    """`count` molecules of 5 to 20 atoms, one .pt file each."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    for number in range(count):
        atoms = int(torch.randint(5, 21, (1,), generator=generator))
        torch.save(molecule(atoms, generator), folder / f"{number:03d}.pt")


def draw(classes: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(classes, (count,), generator=generator)
