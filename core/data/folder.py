"""`data=folder`: samples from a folder, glob, list file, archive or array file."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from itertools import chain
from pathlib import PurePosixPath
from typing import NamedTuple

from core.data import labels as labelling
from core.data import splits
from core.data.account import Account
from core.data.scan import Entry, Scan
from core.data.sources import Item, Source
from core.errors import UserError
from core.files import printable

MOST_NAMES = 4  # that a message lists


class Contents(NamedTuple):
    """The samples under a root. `split_by`: how the split was decided, in words; `split_is_drawn`: by a fraction."""

    items: dict[str, list[Item]]  # by split
    classes: dict[str, list[str]]
    split_by: str
    split_is_drawn: bool
    questions: dict[str, list[str]]  # of labels with several yes/no answers
    notes: list[str]


@dataclass(frozen=True)
class Split:
    """The split of every sample and its rule, in words; `is_drawn`: by a fraction; `marks`: see `FolderSplits`."""

    splits: list[str]
    rule: str
    _: KW_ONLY
    is_drawn: bool = False
    marks: Sequence[tuple[str, ...]] = ()


class FolderSource(Source):
    """Samples from a root of any kind: a folder (flat, of classes, nested), a glob, a list file (`tables`),
    a tar or zip or array file, or a folder of those.

    Split: a table's column, else the names of folders and archives, else of files, else the fraction
    `holdout` of samples (of groups, where a table has them) is for "test", chosen by a hash of key and
    `split_seed`, not by the run's seed, so that no run trains on samples that another tests on. Where
    nothing is marked test, validation stands in.

    Lists (`tables`) in a folder whose paths lead to samples stand for the samples of their folder; its other
    files are passed over. Whatever is left out or decided is in `account`.

    Labels: a table's column, an array's or tar's labels, else the folder's name; never needed. Integer
    labels keep their values; names are numbered in their order.

    `labels`, `group`: a table's columns to use, None for the usual names. `rows`: whether array files
    hold one sample per row (True) or are one sample (False); None tells them apart by names and labels.
    `reads_parts`: whether the reader cuts samples to parts that a list names by start and end.
    `sample_axes`: of a sample in an array file, channels apart, so that a file of one sample is not read
    as rows; None: any number. `frame_extensions`: of pictures; where no file is a sample, folders of
    numbered ones are (`clips`).
    Raises: UserError where a setting is missing or out of range.
    """

    def __init__(
        self,
        root: str,
        extensions: Sequence[str],
        holdout: float = 0.1,
        split_seed: int = 0,
        labels: Sequence[str] | None = None,
        group: str | None = None,
        rows: bool | None = None,
        reads_parts: bool = False,
        sample_axes: int | None = None,
        frame_extensions: Sequence[str] = (),
    ):
        if not str(root or "").strip():
            remedy = "give data.root=<folder, glob, list file, archive or array file>"
            raise UserError(f"data.root is not set: {remedy}.")
        if not 0 <= holdout < 1:
            raise UserError(
                f"data.source.holdout is {holdout}: it must be at least 0 and below 1, a fraction of the samples."
            )

        self.root, self.holdout, self.split_seed = str(root), holdout, split_seed
        self._scan = Scan(
            extensions,
            labels,
            group,
            rows,
            reads_parts=reads_parts,
            sample_axes=sample_axes,
            frame_extensions=frame_extensions,
        )

    def items(self, split: str) -> list[Item]:
        if split not in self._contents.items:
            raise UserError(
                f"data.root: {self.root} has no sample for {split!r} (split by {self.split_by}). "
                "Mark some by folders named train and test or by a split column, "
                "set data.source.holdout above 0, or add samples."
            )
        return self._contents.items[split]

    @property
    def classes(self) -> dict[str, list[str]]:
        return self._contents.classes

    @property
    def questions(self) -> dict[str, list[str]]:
        return self._contents.questions

    @property
    def split_by(self) -> str:
        """How the split was decided: for messages."""
        return self._contents.split_by

    def account(self) -> Account:
        contents, scan = self._contents, self._scan
        samples = {split: len(contents.items[split]) for split in splits.SPLITS if split in contents.items}

        labels = {}
        for label in (*contents.classes, *contents.questions):
            sources = scan.label_sources.get(label, {"names of folders": None})
            labels[label] = printable(", ".join(sources))
        return Account(
            samples=samples,
            split_by=self.split_by,
            labels=labels,
            classes=contents.classes,
            passed_over=scan.leftovers.groups(),
            notes=list(map(printable, dict.fromkeys([*scan.notes, *contents.notes]))),
        )

    @property
    def split_is_drawn(self) -> bool:
        return self._contents.split_is_drawn

    @cached_property
    def _contents(self) -> Contents:
        entries = self._unique(self._scan.entries(self.root))
        split = self._split(entries)
        names = labelling.names(entries, split.marks or [()] * len(entries))
        numbering = labelling.numbers(names)

        items: dict[str, list[Item]] = {}
        has_parts = any(entry.part is not None for entry in entries)
        for entry, name, labels in zip(entries, split.splits, numbering.numbers, strict=True):
            item = Item(
                entry.key,
                entry.path,
                member=entry.member,
                labels=labels,
                aux=entry.aux,
                group=entry.group or (_file_key(entry) if has_parts else None),  # parts of one film stay together
                span=entry.span,
                part=entry.part,
            )
            items.setdefault(name, []).append(item)

        split_by = split.rule
        if "test" not in items and "validation" in items:
            items["test"] = items.pop("validation")
            split_by += "; validation stands in for test"
        return Contents(
            items,
            numbering.classes,
            split_by,
            split_is_drawn=split.is_drawn,
            questions=numbering.questions,
            notes=numbering.notes,
        )

    def _unique(self, entries: list[Entry]) -> list[Entry]:
        """Sorted by key, each key once. Raises: UserError where two unlike samples have one key."""
        unique: dict[str, Entry] = {}
        for entry in entries:
            earlier = unique.setdefault(entry.key, entry)
            if (earlier.split, earlier.containers) != (entry.split, entry.containers):
                fault = f"lists {entry.key} twice, for different splits"
                raise UserError(f"data.root: {self.root} {fault}. Keep one line.")
        return sorted(unique.values(), key=lambda entry: entry.key)

    def _split(self, entries: list[Entry]) -> Split:
        if any(entry.split is not None for entry in entries):
            where = f"data.root: {self.root}"
            by_column = [splits.parse(entry.split or "", where) for entry in entries]
            return Split(by_column, "the split column")

        containers = [entry.containers for entry in entries]
        by_folders = splits.by_folders(containers)
        if by_folders is not None:
            names = ", ".join(splits.folder_names(by_folders))
            return Split(by_folders.splits, f"names of folders, archives or lists: {names}", marks=by_folders.marks)

        stems, keys = [], []
        for entry in entries:
            stems.append(PurePosixPath(entry.member or entry.path).stem)
            keys.append(entry.group or _file_key(entry))  # samples of one group or film stay on one side

        by_files = splits.by_files(stems)
        if by_files is not None:
            return Split(by_files, "names of files")

        by_fraction = splits.by_fraction(keys, self.holdout, self.split_seed)
        unit = "samples"
        if len(set(keys)) < len(keys):
            unit = "groups (or files with several parts)"
        rule = f"a fraction of the {unit}, data.source.holdout={self.holdout}"
        ignored = {name for name in chain.from_iterable(containers) if splits.from_name(name)}
        if ignored:
            names = ", ".join(sorted(ignored)[:MOST_NAMES])
            rule += f" (without a pair such as train and test, {names} marks no split)"
        return Split(by_fraction, rule, is_drawn=True)


def _file_key(entry: Entry) -> str:
    """The key less the part of the file that it names."""
    if entry.part is None:
        return entry.key
    return entry.key.removesuffix(f"@{entry.part}")
