"""Many files of graphs, mostly of one graph each: read once, for labels and to leave out those without a graph."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from core.data.account import Account, PassedOver
from core.data.folder import FolderSource
from core.data.sources import Item, Source
from core.errors import BadSample, UserError
from modalities.graph.formats import files, tables
from modalities.graph.formats.collection import EMPTY, Collection, degree_note, drop_empty, join_faults
from modalities.graph.formats.targets import graph_labels
from modalities.graph.labels import GraphLabels, label_graphs

SPLITS = ("train", "validation", "test")
LABEL_STEMS = (*tables.LABEL_STEMS, "graph_labels")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One graph of a file. `raw` (T,): its labels as the file has them, NaN unknown; None: it has none."""

    item: Item
    split: str
    raw: Tensor | None
    nodes: int
    features: int
    degrees: int


class GraphFiles(Source):
    """The graphs of many files, split as `source` splits the files.

    Files that hold no graph and graphs without a node are left out and named. Labels: those of `source`
    (folders, a list), else of a table labels.csv beside the files, else `y` of each file. Graphs without
    features get one-hot degrees of as many columns as the largest needs.
    """

    def __init__(self, source: FolderSource):
        self.source = source
        self.passed_over: list[PassedOver] = []
        self.notes: dict[str, None] = {}

    def items(self, split: str) -> list[Item]:
        items = self._by_split.get(split)
        if items is None:
            raise UserError(
                f"data.root: {self.source.root} has no graph for {split!r} (split by {self.source.split_by}; "
                f"{len(self.entries)} graphs in all). Mark some by folders named train and test, set "
                "data.source.holdout above 0, or add graphs."
            )
        return items

    @property
    def split_is_drawn(self) -> bool:
        return self.source.split_is_drawn

    @property
    def classes(self) -> dict[str, list[str]]:
        return self._labels.classes or self.source.classes

    @property
    def questions(self) -> dict[str, list[str]]:
        return self._labels.questions

    @cached_property
    def entries(self) -> list[Entry]:
        """Every graph of every file. Raises: UserError where there is none."""
        entries, faults = [], []
        for split in SPLITS:
            with suppress(UserError):
                for item in self.source.items(split):
                    try:
                        data = _parse(item)
                    except BadSample as error:
                        kind = item.suffix or "file"
                        faults.append(PassedOver(reason=str(error), kind=kind, count=1, examples=[item.key]))
                        continue

                    for number in range(len(data.graphs)):
                        entries.append(_entry(data, number, item, split))
                    faults += data.provenance.passed_over
                    self.notes |= dict.fromkeys(data.provenance.notes)

        self.passed_over = join_faults(faults)
        if not entries:
            reasons = "; ".join(f"{fault.examples[0]}: {fault.reason}" for fault in self.passed_over[:3])
            raise UserError(f"data.root: {self.source.root} holds no graph. {reasons} {files.FORMS}")
        return entries

    @property
    def columns(self) -> int:
        """Features of a node."""
        return self._degrees or self.entries[0].features

    @cached_property
    def _degrees(self) -> int:
        """Columns of one-hot degrees that suit all graphs without features; 0 where there is no such graph."""
        return max(entry.degrees for entry in self.entries)

    def account(self) -> Account:
        samples = {split: len(items) for split, items in self._by_split.items()}
        account = self.source.account()
        labels, classes = account.labels, account.classes
        if self._labels.rows:
            labels = dict.fromkeys([*self._labels.classes, *self._labels.questions], self._label_source)
            classes = {}
            for name, names in self.classes.items():
                if name not in self._labels.is_real:
                    classes[name] = names

        notes = [*account.notes, *self.notes]
        if self._degrees:
            columns = f"one-hot degrees ({self._degrees} of them)"
            notes.append(f"Graphs without node features have {columns}, as published.")
        return replace(
            account,
            samples=samples,
            labels=labels,
            classes=classes,
            passed_over=[*account.passed_over, *self.passed_over],
            notes=notes,
        )

    @cached_property
    def _labels(self) -> GraphLabels:
        """Labels of every graph, where the files' folders or lists have none."""
        if any(entry.item.labels for entry in self.entries):
            return GraphLabels(rows=[])
        beside = self._labels_beside()
        if beside is not None:
            return beside

        widths = {len(entry.raw) for entry in self.entries if entry.raw is not None}
        if len(widths) != 1:
            return GraphLabels(rows=[])
        raw = torch.full((len(self.entries), widths.pop()), torch.nan, dtype=torch.float64)
        for row, entry in zip(raw, self.entries, strict=True):
            if entry.raw is not None:
                row.copy_(entry.raw)
        labels = graph_labels(raw)
        return label_graphs(labels.graphs, labels.targets, len(raw), classes=labels.classes)

    @property
    def _label_source(self) -> str:
        if self._table is None:
            return "the files' own `y`"
        return self._table.name

    @cached_property
    def _table(self) -> Path | None:
        """A table of labels beside the files."""
        folder = Path(self.source.root)
        if not folder.is_dir():
            return None
        return tables.table_named(folder, LABEL_STEMS)

    def _labels_beside(self) -> GraphLabels | None:
        """Labels by the files' names, with or without their endings; None where no name is in the table."""
        values = tables.values_by_node(self._table, tables.LABELS, "file and class").by_id
        texts = []
        for entry in self.entries:
            path = PurePosixPath(entry.item.key)
            names = (entry.item.key, path.name, path.stem, str(path.with_suffix("")))
            texts.append(_first_value(values, names))
        if not any(texts):
            return None

        labels, classes = tables.label_values(texts)
        if labels.is_floating_point():
            return label_graphs(None, {"label": labels}, len(texts))
        return label_graphs(labels, {}, len(texts), classes=classes)

    @cached_property
    def _by_split(self) -> dict[str, list[Item]]:
        rows = self._labels.rows or [entry.item.labels for entry in self.entries]

        items: dict[str, list[Item]] = {}
        for entry, labels in zip(self.entries, rows, strict=True):
            item = replace(entry.item, labels=labels)
            if self._degrees:
                item = replace(item, member=f"{item.member or 'd:none:0'}:degrees={self._degrees}")
            items.setdefault(entry.split, []).append(item)
        return items


def _first_value(values: Mapping[str, str], names: Sequence[str]) -> str:
    """The value of the first of these names that has one, else ""."""
    for name in names:
        if name in values:
            return values[name]
    return ""


def _parse(item: Item) -> Collection:
    """The graphs of one file. Raises: BadSample with the reason where it holds none."""
    try:
        data = files.parse(item.open(), item.suffix, where=item.key, directed=True)
    except UserError as error:
        text = str(error).removeprefix("data.root: ").removeprefix(item.key)
        raise BadSample(text.lstrip(" :,")) from None
    if not any(len(graph.x) for graph in data.graphs):
        raise BadSample(EMPTY)

    # The item of a file in an archive names the file there, and nothing else.
    degrees = data.provenance.degrees
    if item.member is not None and len(data.graphs) > 1:
        raise BadSample(f"holds {len(data.graphs)} graphs, in an archive: unpack it")
    if item.member is not None and degrees:
        raise BadSample("has no node features, in an archive: unpack it")
    notes = [note for note in data.provenance.notes if note != degree_note(item.key, degrees)]
    return drop_empty(replace(data, provenance=replace(data.provenance, notes=notes)))


def _entry(data: Collection, number: int, item: Item, split: str) -> Entry:
    if len(data.graphs) > 1:  # read as those of one place
        item = replace(item, key=f"{item.key}#{data.name_of(number)}", member=f"d:none:{number}")

    raw = None
    if data.raw_labels is not None:
        raw = data.raw_labels[number]
    graph = data.graphs[number]
    return Entry(
        item=item,
        split=split,
        raw=raw,
        nodes=len(graph.x),
        features=graph.features,
        degrees=data.provenance.degrees,
    )
