"""Graphs for training: `data=graph` (one place with a known form), or one file per graph by `data=folder`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from core.data.reader import Reader, TokenLabels
from core.data.sources import Item, Source
from core.errors import BadSample, UserError
from modalities.graph import files
from modalities.graph.graphs import Graphs, join, to_dense


class GraphSource(Source):
    """The graphs at `root`: see `files.read` for forms, `directed` and `rows`.

    All graphs are for training, and the same ones for testing unless `holdout` sets a share of many aside (every
    k-th): as published, pre-training sees every graph, or the whole of the only one, and no label. Data that split
    whole graphs (PPI) keep to that instead. `inductive`: pre-training sees the nodes of one graph's training split
    alone, and the links between them (Reddit); testing, all.
    """

    def __init__(
        self,
        root: str,
        directed: bool = False,
        rows: Literal["auto", "sum", "standard", "none"] = "auto",
        holdout: float = 0.0,
        inductive: bool = False,
    ):
        if not 0 <= holdout <= 0.5:
            raise UserError(f"data.source.holdout={holdout} must be from 0 to 0.5, a share of the graphs.")
        self.root, self.directed, self.rows, self.holdout, self.inductive = root, directed, rows, holdout, inductive
        self.classes = {}

    @property
    def held_out(self) -> str:
        if self.holdout or self.is_split or self.inductive:
            return super().held_out
        return "hidden nodes, under masks drawn by a fixed seed; pre-training read the same graphs, as published"

    @property
    def is_split(self) -> bool:
        """Whether the data themselves say which graphs are for training."""
        found = self.collection()
        return len(found.graphs) > 1 and "train" in found.splits

    def collection(self) -> files.Collection:
        return files.read(self.root, self.directed, self.rows)

    def items(self, split: str) -> list[Item]:
        found = self.collection()
        known = found.labels is not None and found.labels.dim() == 1 and len(found.labels) > 0
        if known:
            self.classes = {"label": [str(i) for i in range(int(found.labels.max()) + 1)]}
        form = f"{'d' if self.directed else 'u'}:{self.rows}"
        if self.inductive:
            return [self._part(found, split, form)]
        step = round(1 / self.holdout) if self.holdout else 0
        numbers = found.within(split) if self.is_split else range(len(found.graphs))
        if step and not self.is_split:
            numbers = [i for i in numbers if (i % step == step - 1) == (split == "test")]
        if not numbers:
            raise UserError(
                f"data.root: {self.root} has no graph for {split!r}. Lower data.source.holdout, or add graphs."
            )
        labels = [{"label": n} for n in found.labels.tolist()] if known else [{}] * len(found.graphs)
        return [Item(f"{Path(self.root).stem}#{i:06d}", self.root, f"{form}:{i}", labels[i]) for i in numbers]

    def _part(self, found: files.Collection, split: str, form: str) -> Item:
        """The graph that one split sees."""
        if len(found.graphs) != 1 or not bool(found.splits.get("train", torch.zeros(1)).any()):
            raise UserError(
                f"data.source.inductive=true needs one graph that says which nodes are for training; {self.root} holds "
                f"{len(found.graphs)} with {' and '.join(found.splits) or 'no'} splits."
            )
        return Item(f"{Path(self.root).stem}#{split}", self.root, f"{form}:0:{split}")


def collection(reader: Reader, source: Source) -> files.Collection:
    """All that is known of the graphs of a source. Raises UserError where they do not come from one place."""
    if not isinstance(source, GraphSource) or not isinstance(reader, GraphReader):
        raise UserError("Published figures of graphs need one place that holds them all: give data=graph data.root=….")
    return files.read(source.root, source.directed, source.rows, reader.loop)


class GraphReader(Reader):
    """Reads an item of `GraphSource`, or a .pt or .npz file that holds one graph; the same for training and not.

    `loop`: what edge attributes say of a self-loop (molecules).
    """

    view = "graph"
    extensions = files.SUFFIXES

    def __init__(self, loop: Sequence[int] | None = None):
        self.loop = None if loop is None else tuple(loop)

    def read(self, item: Item, train: bool) -> Graphs:
        found, number, part = self._place(item)
        return found.training if part == "train" else found.graphs[number]

    def token_labels(self, item: Item) -> TokenLabels | None:
        """Of nodes; None where graphs have labels, or a node may have several."""
        found, number, part = self._place(item)
        if found.nodes is None or found.nodes.dim() != 1:
            return None
        if part == "train":
            return TokenLabels(found.nodes[found.splits["train"]], names=found.classes)
        splits = {name: found.of_graph(number, flag) for name, flag in found.splits.items()}
        if part == "test":
            splits["train"] = torch.zeros_like(splits["train"])  # those were asked about in the other graph
        return TokenLabels(found.of_graph(number, found.nodes), splits, found.classes)

    def raw(self, data: Graphs, by_token: bool) -> Tensor | None:
        """Features of nodes, or their mean over each graph; None where they are class numbers."""
        if not data.x.is_floating_point():
            return None
        x = to_dense(data.x, data.features) if data.is_sparse else data.x
        if by_token:
            return x
        total = x.new_zeros(len(data.counts), data.features).index_add(0, data.sample, x)
        return total / torch.tensor(data.counts, device=x.device)[:, None]

    def _place(self, item: Item) -> tuple[files.Collection, int, str]:
        """Where the item's graph is, its number there, and which split sees but a part of it ("" for none)."""
        if item.member is not None and item.member[:2] in ("d:", "u:"):
            form, rows, place, *part = item.member.split(":")
            return files.read(item.path, form == "d", rows, self.loop), int(place), "".join(part)
        try:
            found = files.parse(item.open(), item.suffix, True, item.key, loop=self.loop)
        except UserError as error:
            raise BadSample(str(error)) from None
        if len(found.graphs) != 1:
            raise BadSample(f"holds {len(found.graphs)} graphs; one per file is wanted, or data=graph for such a file")
        return found, 0, ""

    def collate(self, samples: list[Any]) -> Graphs:
        return join(samples)

    def objects(self, item: Item) -> Tensor | None:
        """(N,) which nodes lie on an object."""
        return torch.from_numpy(np.load(item.aux["object"])) if "object" in item.aux else None
