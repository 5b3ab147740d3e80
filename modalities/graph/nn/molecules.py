"""Molecules: atoms and bonds as pairs of class numbers, a GIN with bond embeddings, the atom-type target."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.encoder import Encoder
from core.tokens import EncoderInput, Latent
from modalities.graph.nn.message_passing import EdgeIndex, neighbour_sum

ATOM_TYPES, CHIRALITIES, BOND_TYPES, DIRECTIONS = 119, 3, 6, 3
SELF_LOOP = (4, 0)  # bond type and direction of a node's edge to itself

Jump = Literal["last", "sum", "max"]


class BondConv(nn.Module):
    """Σ over incoming edges of (h_from + bond type + direction), then Linear, ReLU, Linear.

    Σ of the embeddings is a count of types per row times their table: no embedding per edge.
    """

    def __init__(self, features: int, out: int):
        super().__init__()
        self.types = nn.Embedding(BOND_TYPES, features)
        self.directions = nn.Embedding(DIRECTIONS, features)
        self.linear1, self.linear2 = nn.Linear(features, 2 * features), nn.Linear(2 * features, out)
        nn.init.xavier_uniform_(self.types.weight)
        nn.init.xavier_uniform_(self.directions.weight)

    def forward(self, summed: Tensor, bonds: Tensor, edges: EdgeIndex) -> Tensor:
        """summed (R, C): Σ h_from; bonds (E, 2): type and direction of the links -> (R, out)."""
        for i, table in enumerate((self.types.weight, self.directions.weight)):
            summed = summed + self._count(bonds[:, i], edges, len(table)).to(summed.dtype) @ table
        return self.linear2(F.relu(self.linear1(summed)))

    @staticmethod
    def _count(kind: Tensor, edges: EdgeIndex, kinds: int) -> Tensor:
        """(R, kinds): how many edges of each kind a row has."""
        counts = torch.zeros(edges.rows * kinds, device=kind.device)
        ones = torch.ones_like(kind, dtype=counts.dtype)
        return counts.index_add(0, edges.row * kinds + kind, ones).view(-1, kinds)


class MoleculeGIN(Encoder):
    """Atom type and chirality embeddings, then `depth` convolutions with batch norm, ReLU between them.

    A hidden atom is type 119, chirality 0. `jump`: the latent is the last layer's output, or the sum or
    maximum over the embedding and all layers' outputs (the official `JK`).
    Shapes: EncoderInput (1, N, 2) long -> Latent (1, N, D). Taps: "layer0", …. Source:
    THUDM/GraphMAE, folder chem.
    """

    masking = "replace"
    requires: ClassVar = {"features": 2}

    def __init__(self, width: int, depth: int, drop: float = 0.0, jump: Jump = "last"):
        super().__init__()
        self.drop, self.jump = drop, jump
        self.atoms = nn.Embedding(ATOM_TYPES + 1, width)
        self.chirality = nn.Embedding(CHIRALITIES, width)
        self.convs = nn.ModuleList(BondConv(width, width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(depth))
        nn.init.xavier_uniform_(self.atoms.weight)
        nn.init.xavier_uniform_(self.chirality.weight)
        self.embed_dim, self.depth = width, depth

    @property
    def provides(self) -> dict:
        return {"width": self.embed_dim}

    def forward(self, inputs: EncoderInput, taps: Sequence[str] = ()) -> Latent:
        atom, chirality = inputs.content[0].unbind(1)
        if inputs.erased is not None:
            atom = atom.masked_fill(inputs.erased[0], ATOM_TYPES)  # erased rows are zero: chirality 0
        outs = [self.atoms(atom) + self.chirality(chirality)]
        links = EdgeIndex.of(inputs.layout)

        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            h = norm(conv(neighbour_sum(outs[-1], links), inputs.layout.edge_content, links))
            if i < self.depth - 1:
                h = F.relu(h)
            outs.append(F.dropout(h, self.drop, self.training))

        tapped = {f"layer{i}": out[None] for i, out in enumerate(outs[1:]) if f"layer{i}" in taps}
        return Latent(self._joined(outs)[None], inputs.layout, rows=inputs.rows, taps=tapped)

    def _joined(self, outs: list[Tensor]) -> Tensor:
        if self.jump == "last":
            return outs[-1]
        stacked = torch.stack(outs)
        if self.jump == "sum":
            return stacked.sum(0)
        return stacked.max(0).values
