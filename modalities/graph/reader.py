"""Graphs for training: all graphs of one place, in whatever form, or many files of one graph each."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from core.data.folder import FolderSource
from core.data.reader import Reader, TokenLabels
from core.data.sources import Item, Source
from core.errors import BadSample, UserError
from modalities.graph.formats import files, npz_pt
from modalities.graph.formats.collection import Collection
from modalities.graph.graphs import Graphs, join, to_dense


class GraphSource(Source):
    """`data=folder` of graphs: one place that holds them in a known form, or many files of one graph each.

    One place (`formats.files.find_form`): all its graphs are for training, and the same ones for testing,
    unless `holdout` sets a share of them aside (every k-th): as published, pre-training reads every graph, or
    the whole of the only one, and no label. Data that split whole graphs (PPI) keep their split. `directed`,
    `scaling`: as in `formats.files.read`. `inductive`: pre-training reads only the training nodes of one
    graph and the edges between them (Reddit); testing, all. `keep_last`: the last, smaller batch of an epoch
    counts too, as published.

    Many files (.npz, .pt; a folder, glob, list or archive): split and labels as in `FolderSource`, which gets
    `split_seed`, `labels`, `group` and `holdout`, 0.1 by default; graphs are taken as they are.
    """

    def __init__(
        self,
        root: str,
        *,
        directed: bool = False,
        scaling: Literal["auto", "sum", "standard", "none"] = "auto",
        holdout: float | None = None,
        inductive: bool = False,
        keep_last: bool = True,
        split_seed: int = 0,
        labels: Sequence[str] | None = None,
        group: str | None = None,
    ):
        if not 0 <= (holdout or 0) <= 0.5:
            raise UserError(f"data.source.holdout={holdout} must be from 0 to 0.5, a share of the graphs.")
        self.root, self.directed, self.scaling, self.holdout = str(root), directed, scaling, holdout
        self.inductive, self._keep_last = inductive, keep_last
        self._table = {"split_seed": split_seed, "labels": labels, "group": group}
        self.classes = {}

    @cached_property
    def many_files(self) -> FolderSource | None:
        """The source of files with one graph each; None where `root` is one place in a known form.

        Raises: UserError where there are neither, or settings are given that only graphs of one place have.
        """
        if files.find_form(self.root) is not None:
            return None

        settings = dict(self._table)
        if self.holdout is not None:
            settings["holdout"] = self.holdout
        # `rows=False`: an array file is one graph, not a row for each sample.
        source = FolderSource(self.root, npz_pt.SUFFIXES, rows=False, **settings)
        try:
            self.classes = source.classes
        except UserError as error:
            raise UserError(f"{error} {files.FORMS}") from None
        if self.directed or self.inductive or self.scaling != "auto":
            raise UserError(
                "data.source.directed, data.source.scaling and data.source.inductive are for graphs of one place; "
                f"{self.root} has a file for each."
            )
        return source

    @property
    def keep_last(self) -> bool:
        return self._keep_last and self.many_files is None

    @property
    def split_is_drawn(self) -> bool:
        return self.many_files is not None and self.many_files.split_is_drawn

    @property
    def held_out(self) -> str:
        if self.many_files is not None or self.holdout or self.is_split or self.inductive:
            return super().held_out
        return "hidden nodes, under masks drawn by a fixed seed; pre-training read the same graphs, as published"

    @property
    def is_split(self) -> bool:
        """Whether the data split whole graphs."""
        data = self.collection()
        return len(data.graphs) > 1 and "train" in data.splits

    def collection(self, loop: tuple[int, ...] | None = None) -> Collection:
        """The graphs of one place. `loop`: edge attributes of self-loops."""
        return files.read(self.root, directed=self.directed, scaling=self.scaling, loop=loop)

    def items(self, split: str) -> list[Item]:
        if self.many_files is not None:
            return self.many_files.items(split)

        data = self.collection()
        labels = self._labels(data)
        if self.inductive:
            return [self._part(data, split)]

        numbers = self._numbers(data, split)
        if not numbers:
            raise UserError(
                f"data.root: {self.root} has no graph for {split!r}. Lower data.source.holdout, or add graphs."
            )
        groups = data.scaffolds or [None] * len(data.graphs)
        return [self._item(f"{n:06d}", str(n), labels=labels[n], group=groups[n]) for n in numbers]

    def _labels(self, data: Collection) -> list[dict[str, int | tuple[int, ...]]]:
        """The labels of each graph's item: a class, or several answers; names their classes or questions."""
        labels = data.labels
        if labels is None or not len(labels):
            return [{}] * len(data.graphs)
        if data.scaffolds and labels.dim() == 1:  # molecules have answers, be it to one question
            labels = labels[:, None]

        if labels.dim() == 1:
            self.classes = {"label": [str(number) for number in range(int(labels.max()) + 1)]}
            return [{"label": label} for label in labels.tolist()]

        self.questions = {"label": [str(number) for number in range(labels.shape[1])]}
        answers = torch.where(labels == 0, -1, (labels > 0).long())  # of 1 yes, -1 no, 0 unknown: 1, 0 and -1
        return [{"label": tuple(row)} for row in answers.tolist()]

    def _numbers(self, data: Collection, split: str) -> Sequence[int]:
        """Numbers of the graphs of one split."""
        if self.is_split:
            return data.within(split)
        if not self.holdout:
            return range(len(data.graphs))

        # The last graph of every `step` is for testing.
        step = round(1 / self.holdout)
        numbers = np.arange(len(data.graphs))
        is_test = numbers % step == step - 1
        return numbers[is_test == (split == "test")].tolist()

    def _part(self, data: Collection, split: str) -> Item:
        """The part of the single graph that one split reads."""
        if len(data.graphs) != 1 or "train" not in data.splits or not bool(data.splits["train"].any()):
            raise UserError(
                f"data.source.inductive=true needs one graph with a split of its nodes; {self.root} holds "
                f"{len(data.graphs)} with {' and '.join(data.splits) or 'no'} splits."
            )
        return self._item(split, f"0:{split}")

    def _item(self, name: str, place: str, **more: Any) -> Item:
        """An item whose `member` holds all that `GraphReader` needs: how files are read, and the graph there."""
        form = f"{'d' if self.directed else 'u'}:{self.scaling}"
        return Item(f"{Path(self.root).stem}#{name}", self.root, member=f"{form}:{place}", **more)


def collection(reader: Reader, source: Source) -> Collection:
    """All graphs of a source with their labels. Raises UserError where they do not come from one place."""
    if isinstance(source, GraphSource) and isinstance(reader, GraphReader) and source.many_files is None:
        return source.collection(reader.loop)
    raise UserError("Published figures of graphs need one place that holds them all: give data=folder data.root=….")


class GraphReader(Reader):
    """Reads an item of `GraphSource`, or a .pt or .npz file that holds one graph.

    `loop`: edge attributes of self-loops (molecules).
    """

    view = "graph"
    extensions = npz_pt.SUFFIXES

    def __init__(self, loop: Sequence[int] | None = None):
        self.loop = loop
        if loop is not None:
            self.loop = tuple(loop)  # hashable: files are cached by it

    def read(self, item: Item, train: bool) -> Graphs:
        data, number, part = self._locate(item)
        if part == "train":
            return data.training
        return data.graphs[number]

    def token_labels(self, item: Item) -> TokenLabels | None:
        """Classes of nodes, or answers where a node may have several labels; None where nodes have none."""
        data, number, part = self._locate(item)
        if data.nodes is None:
            return None
        if part == "train":
            return TokenLabels(data.nodes[data.splits["train"]].long(), names=data.classes)

        splits = {name: data.of_graph(number, flags) for name, flags in data.splits.items()}
        if part == "test":
            splits["train"] = torch.zeros_like(splits["train"])  # the training part has an item of its own
        return TokenLabels(data.of_graph(number, data.nodes).long(), splits, names=data.classes)

    def raw_features(self, data: Graphs, by_token: bool) -> Tensor | None:
        """Features (N, C), or their mean over each graph (S, C); None where they are class numbers."""
        if not data.x.is_floating_point():
            return None
        x = data.x
        if data.is_sparse:
            x = to_dense(x, data.features)
        if by_token:
            return x

        total = x.new_zeros(len(data.counts), data.features).index_add(0, data.sample, x)
        return total / torch.tensor(data.counts, device=x.device)[:, None]

    def collate(self, samples: list[Any]) -> Graphs:
        return join(samples)

    def objects(self, item: Item) -> Tensor | None:
        """(N,) bool, the nodes that lie on an object."""
        if "object" not in item.aux:
            return None
        return torch.from_numpy(np.load(item.aux["object"]))

    def _locate(self, item: Item) -> tuple[Collection, int, str]:
        """The collection of an item's graph, its number there, and the split that it is a part for, or ""."""
        # One of several graphs in one place: `GraphSource._item` wrote how they are read.
        if item.member is not None and item.member[:2] in ("d:", "u:"):
            form, scaling, number, *part = item.member.split(":")
            data = files.read(item.path, directed=form == "d", scaling=scaling, loop=self.loop)
            return data, int(number), "".join(part)

        try:
            data = npz_pt.parse(item.open(), item.suffix, where=item.key, directed=True, loop=self.loop)
        except UserError as error:
            raise BadSample(str(error)) from None
        if len(data.graphs) != 1:
            raise BadSample(
                f"holds {len(data.graphs)} graphs; a file among others must hold one, or give it alone as data.root"
            )
        return data, 0, ""
