"""Graphs for training: `data=graph` (one place with a known form), or one file per graph by `data=folder`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from core.data.reader import Reader
from core.data.sources import Item, Source
from core.errors import BadSample, UserError
from modalities.graph import files
from modalities.graph.graphs import Graphs, join


class GraphSource(Source):
    """The graphs at `root`: see `files.read` for forms, `directed` and `rows`.

    All graphs are for training, and the same ones for testing unless `holdout` sets a share of many aside (every
    k-th): as published, pre-training sees every graph, or the whole of the only one, and no label.
    """

    def __init__(
        self,
        root: str,
        directed: bool = False,
        rows: Literal["auto", "sum", "none"] = "auto",
        holdout: float = 0.0,
    ):
        if not 0 <= holdout <= 0.5:
            raise UserError(f"data.source.holdout={holdout} must be from 0 to 0.5, a share of the graphs.")
        self.root, self.directed, self.rows, self.holdout = root, directed, rows, holdout
        self.classes = {}

    def collection(self) -> files.Collection:
        return files.read(self.root, self.directed, self.rows)

    def items(self, split: str) -> list[Item]:
        found = self.collection()
        if found.labels is not None and len(found.labels):
            self.classes = {"label": [str(i) for i in range(int(found.labels.max()) + 1)]}
        step = round(1 / self.holdout) if self.holdout else 0
        numbers = range(len(found.graphs))
        if step:
            numbers = [i for i in numbers if (i % step == step - 1) == (split == "test")]
        if not numbers:
            raise UserError(
                f"data.root: {self.root} has no graph for {split!r}. Lower data.source.holdout, or add graphs."
            )
        form = f"{'d' if self.directed else 'u'}:{self.rows}"
        labels = [{}] * len(found.graphs) if found.labels is None else [{"label": n} for n in found.labels.tolist()]
        return [Item(f"{Path(self.root).stem}#{i:06d}", self.root, f"{form}:{i}", labels[i]) for i in numbers]


class GraphReader(Reader):
    """Reads an item of `GraphSource`, or a .pt or .npz file that holds one graph; the same for training and not.

    `loop`: what edge attributes say of a self-loop (molecules).
    """

    view = "graph"
    extensions = files.SUFFIXES

    def __init__(self, loop: Sequence[int] | None = None):
        self.loop = loop

    def read(self, item: Item, train: bool) -> Graphs:
        if item.member is not None and item.member[:2] in ("d:", "u:"):
            form, rows, number = item.member.split(":")
            return files.read(item.path, form == "d", rows).graphs[int(number)]
        try:
            found = files.parse(item.open(), item.suffix, True, item.key)
        except UserError as error:
            raise BadSample(str(error)) from None
        if len(found.graphs) != 1:
            raise BadSample(f"holds {len(found.graphs)} graphs; one per file is wanted, or data=graph for such a file")
        return found.graphs[0]

    def collate(self, samples: list[Any]) -> Graphs:
        return join(samples)
