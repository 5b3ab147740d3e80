"""Three small molecules, one of them of two atoms: classes of atoms and bonds in place of features."""

from dataclasses import replace

import torch

from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Batch, Mask
from modalities.graph.graphs import Graphs, join
from tests.contracts.firewall import unread
from tests.molecules import ATOM_TYPES, CHIRALITIES, draw, molecule

LOOP = [4, 0]  # bond type and direction of an atom to itself
SMALL = ["modality.features=2", f"modality.files.loop={LOOP}", f"modality.tokenizer.loop={LOOP}"]
ATOMS = (7, 2, 12)


def batch(method: MaskedAutoencoder, config: dict) -> Batch:
    generator = torch.Generator().manual_seed(0)
    parts = [molecule(atoms, generator) for atoms in ATOMS]
    graphs = [Graphs.of(part["x"], part["edge_index"], edge_attr=part["edge_attr"], loop=LOOP) for part in parts]
    return Batch({"graph": join(graphs)})


def scrambled(method: MaskedAutoencoder, batch: Batch, masks: dict[str, Mask]) -> Batch:
    graphs = batch.views["graph"]
    generator = torch.Generator().manual_seed(1)
    noise = [draw(classes, len(graphs.x), generator) for classes in (ATOM_TYPES, CHIRALITIES)]
    closed = unread(masks["graph"], method.encoder.masking)[0]
    return Batch({"graph": replace(graphs, x=torch.where(closed[:, None], torch.stack(noise, 1), graphs.x))})
