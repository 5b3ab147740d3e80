"""Graphs for training: all graphs of one place, in whatever form, or many files of graphs."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from core.data.account import Account
from core.data.folder import FolderSource
from core.data.reader import Reader, TokenLabels
from core.data.sources import Item, Setting, Source
from core.errors import BadSample, UserError
from modalities.graph.formats import files
from modalities.graph.formats.collection import EMPTY, Collection
from modalities.graph.formats.tu import NodeFeatures
from modalities.graph.graphs import Graphs, join, to_dense
from modalities.graph.labels import GraphLabels, label_graphs, number_values
from modalities.graph.many import GraphFiles

RATE = 1e-3  # of the published recipes for nodes; those for graphs take half or a sixth of it
STEPS = 1000  # of one graph, in the middle of the published recipes
LARGEST_BATCH = 64  # graphs
BATCH_NODES = 100_000  # nodes of a batch, about
BATCHES = 4  # of an epoch, at least


class GraphSource(Source):
    """`data=folder` of graphs: one place that holds them in a known form, or many files.

    One place (`formats.files.find_form`): all its graphs are for training, and the same ones for testing,
    unless `holdout` sets a share of them aside (every k-th): as published, pre-training reads every graph, or
    the whole of the only one, and no label. Data that split whole graphs (PPI) keep their split. `directed`,
    `scaling`, `features`: as in `formats.files.read`. `inductive`: pre-training reads only the training nodes
    of one graph and the edges between them (Reddit); testing, all. `keep_last`: the last, smaller batch of an
    epoch counts too, as published.

    Many files (.npz, .pt, …; a folder, glob, list or archive): split as in `FolderSource`,
    which gets `split_seed`, `labels`, `group` and `holdout`, 0.1 by default; graphs are taken
    as they are (`GraphFiles`).
    """

    def __init__(
        self,
        root: str,
        *,
        directed: bool = False,
        scaling: Literal["auto", "sum", "standard", "none"] = "auto",
        features: NodeFeatures = "auto",
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
        self.features = features
        self.inductive, self._keep_last = inductive, keep_last
        self._table = {"split_seed": split_seed, "labels": labels, "group": group}
        self.classes = {}

    @cached_property
    def many_files(self) -> GraphFiles | None:
        """The source of many files; None where `root` is one place in a known form.

        Raises: UserError where there are neither, or settings are given that only graphs of one place have.
        """
        if files.find_form(self.root) is not None:
            return None

        settings = dict(self._table)
        if self.holdout is not None:
            settings["holdout"] = self.holdout
        # `rows=False`: an array file is one graph, not a row for each sample.
        source = FolderSource(self.root, files.SUFFIXES, rows=False, **settings)
        try:
            self.classes = source.classes
        except UserError as error:
            raise UserError(f"{error} {files.FORMS}") from None
        if self.directed or self.inductive or self.scaling != "auto" or self.features != "auto":
            raise UserError(
                "data.source.directed, scaling, features and inductive are for graphs of one place; "
                f"{self.root} has a file for each."
            )
        graphs = GraphFiles(source)
        self.classes, self.questions = graphs.classes, graphs.questions
        return graphs

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
        return files.read(self.root, directed=self.directed, scaling=self.scaling, loop=loop, features=self.features)

    def items(self, split: str) -> list[Item]:
        if self.many_files is not None:
            return self.many_files.items(split)

        data = self.collection()
        labels = self._labels(data).rows
        if self.inductive:
            return [self._part(data, split)]

        numbers = self._numbers(data, split)
        if not numbers:
            raise UserError(
                f"data.root: {self.root} has no graph for {split!r}. Lower data.source.holdout, or add graphs."
            )
        groups = data.scaffolds or [None] * len(data.graphs)
        return [self._item(data.name_of(n), str(n), labels=labels[n], group=groups[n]) for n in numbers]

    def account(self) -> Account:
        """Graphs of each split, nodes and edges that are left out, and where split and labels come from.

        The table of node ids, where these were numbered anew, is `tables["node ids"]`: in
        the order of the numbers.
        """
        if self.many_files is not None:
            return self.many_files.account()

        data = self.collection()
        provenance, labels = data.provenance, self._labels(data)
        samples = {}
        for split in ("train", "test"):
            samples[split] = 1 if self.inductive else len(self._numbers(data, split))

        sources, classes = {}, dict(labels.classes)
        if provenance.labels:
            names = [*labels.classes, *labels.questions] or ["node"]
            sources = dict.fromkeys(names, provenance.labels)
        for name in labels.is_real:
            classes.pop(name)
            sources[name] = f"{provenance.labels}: real numbers"
        if data.nodes is not None and data.nodes.is_floating_point() and data.nodes.dim() == 1:
            sources["node"] = f"{provenance.labels}: real numbers"

        tables = {}
        if provenance.node_ids:
            tables["node ids"] = list(provenance.node_ids)
        return Account(
            samples=samples,
            split_by=self._split_by(data),
            labels=sources,
            classes=classes,
            passed_over=list(provenance.passed_over),
            tables=tables,
            notes=list(provenance.notes),
        )

    def defaults(self) -> list[Setting]:
        """Number of features, rate, batch and, of a single graph, steps."""
        if self.many_files is not None:
            sizes = [entry.nodes for entry in self.many_files.entries if entry.split == "train"]
            columns = self.many_files.columns
        else:
            data = self.collection()
            columns = data.graphs[0].features
            sizes = [len(data.graphs[number].x) for number in self._numbers(data, "train")]
        settings = [
            Setting("modality.features", columns, reason="the nodes of the data have so many"),
            Setting("optim.lr", RATE, reason="graphs are published with a rate that does not follow the batch"),
        ]
        if len(sizes) < 2:
            settings.append(Setting("batch_size", 1, reason="there is one graph"))
            return [*settings, Setting("steps", STEPS, reason="an epoch of one graph is one step")]
        batch = min(
            LARGEST_BATCH,
            _power_of_two(len(sizes) / BATCHES),
            _power_of_two(BATCH_NODES / np.mean(sizes)),
        )
        if batch < LARGEST_BATCH:
            reason = f"there are {len(sizes)} graphs of {np.mean(sizes):.0f} nodes"
            settings.append(Setting("batch_size", batch, reason=reason))
        return settings

    def _labels(self, data: Collection) -> GraphLabels:
        """The labels of each graph's item; names their classes or questions."""
        labels = label_graphs(
            data.labels,
            dict(data.targets),
            len(data.graphs),
            classes=data.classes,
            as_answers=bool(data.scaffolds),  # molecules have answers, be it to one question
        )
        if labels.classes:
            self.classes = labels.classes
        if labels.questions:
            self.questions = labels.questions
        return labels

    def _split_by(self, data: Collection) -> str:
        """How training and held-out graphs, and nodes, are told apart."""
        by_nodes = f"; nodes by {data.provenance.split}" if data.provenance.split else ""
        if self.inductive:
            return f"the training nodes alone are trained on{by_nodes}"
        if self.is_split:
            return data.provenance.split
        if self.holdout:
            share = f"data.source.holdout={self.holdout}"
            return f"every {round(1 / self.holdout)}th graph is held out ({share}){by_nodes}"
        if len(data.graphs) == 1:
            return f"none: the held-out graph is the training graph, under other masks{by_nodes}"
        return (
            "none: held-out graphs are the training graphs, under other masks, as published; data.source.holdout=0.1 "
            f"sets a tenth aside{by_nodes}"
        )

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
        member = f"{'d' if self.directed else 'u'}:{self.scaling}:{place}"
        if self.features != "auto":
            member += f":features={self.features}"
        return Item(f"{Path(self.root).stem}#{name}", self.root, member=member, **more)


def _power_of_two(size: float) -> int:
    """The largest that is not above `size`, at least 1."""
    return 2 ** max(0, int(np.log2(max(size, 1))))


def collection(reader: Reader, source: Source) -> Collection:
    """All graphs of a source with their labels. Raises UserError where they do not come from one place."""
    if isinstance(source, GraphSource) and isinstance(reader, GraphReader) and source.many_files is None:
        return source.collection(reader.loop)
    remedy = "give data=folder data.root=…"
    raise UserError(f"Published figures of graphs need one place that holds them all: {remedy}.")


class GraphReader(Reader):
    """Reads an item of `GraphSource`, or a file that holds one graph.

    `loop`: edge attributes of self-loops (molecules).
    """

    view = "graph"
    extensions = files.SUFFIXES

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
        nodes, names = data.nodes, data.classes
        if nodes.is_floating_point() and nodes.dim() == 1:  # real numbers
            nodes, names = number_values(nodes)
        if len(names) and item.member is None:
            raise UserError(
                f"data.root: {item.key}: real numbers as labels of nodes are not compared over several files: "
                "save the graphs as one list in a .pt file."
            )
        if part == "train":
            return TokenLabels(nodes[data.splits["train"]].long(), names=names)

        splits = {name: data.of_graph(number, flags) for name, flags in data.splits.items()}
        if part == "test":
            splits["train"] = torch.zeros_like(splits["train"])  # the training part has an item of its own
        return TokenLabels(data.of_graph(number, nodes).long(), splits, names=names)

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
            form, scaling, number, *rest = item.member.split(":")
            options = dict(text.split("=") for text in rest if "=" in text)
            if "degrees" in options:
                options["degrees"] = int(options["degrees"])
            data = files.read(item.path, directed=form == "d", scaling=scaling, loop=self.loop, **options)
            return data, int(number), "".join(text for text in rest if "=" not in text)

        try:
            data = files.parse(item.open(), item.suffix, where=item.key, directed=True, loop=self.loop)
        except UserError as error:
            raise BadSample(str(error)) from None
        if len(data.graphs) != 1:
            raise BadSample(
                f"holds {len(data.graphs)} graphs; a file among others must hold one, or give it alone as data.root"
            )
        if not len(data.graphs[0].x):
            raise BadSample(EMPTY)
        return data, 0, ""
