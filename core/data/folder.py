"""`data=folder`: samples from a folder, glob, list file, archive or array file."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import PurePosixPath

from core.data import labels as labelling
from core.data import splits
from core.data.scan import Found, Scan
from core.data.sources import Item, Source
from core.errors import UserError


class FolderSource(Source):
    """Samples from whatever `root` names: a folder (flat, of classes, nested), a glob, a list file (`tables`),
    a tar or zip or array file, or a folder of those.

    Split: a table's column, else the names of folders and archives, else of files, else the fraction `holdout` of
    samples (of groups, where a table has them) is for "test", chosen by a hash of key and `split_seed`, not by the
    run's seed, so that no run trains on what another tests on. Where nothing is marked test, validation stands in.

    Labels: a table's column, an array's or tar's labels, else the folder's name; never needed. Integer labels keep
    their values; names are numbered in their order.

    `labels`, `group`: a table's columns to use, None for the usual names. `rows`: whether array files hold one sample
    per row (True) or are one sample (False); None tells them apart by names and labels.
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
    ):
        if not str(root or "").strip():
            raise UserError("data.root is not set: give data.root=<folder, glob, list file, archive or array file>.")
        if not 0 <= holdout < 1:
            raise UserError(f"data.holdout is {holdout}: it must be at least 0 and below 1, a fraction of the samples.")
        self.root, self.holdout, self.split_seed = str(root), holdout, split_seed
        self._scan = Scan(extensions, labels, group, rows)

    def items(self, split: str) -> list[Item]:
        if split not in self._items:
            raise UserError(
                f"data.root: {self.root} has no sample for {split!r} (split by {self.split_by}). Mark some by folders "
                "named train and test or by a split column, set data.holdout above 0, or add samples."
            )
        return self._items[split]

    @property
    def classes(self) -> dict[str, list[str]]:
        return self._resolved[1]

    @property
    def summary(self) -> str:
        """One line for the log: counts by split, what decided them, and the classes."""
        counts = ", ".join(f"{len(items)} {split}" for split, items in self._items.items())
        classes = "; ".join(f"{name}: {len(names)} classes" for name, names in self.classes.items()) or "no labels"
        over = sum(self._scan.passed_over.values())
        passed = f"; {over} other files passed over" if over else ""
        return f"{self.root}: {counts} (split by {self.split_by}); {classes}{passed}"

    @property
    def split_by(self) -> str:
        """What decided the split: for messages."""
        return self._resolved[2]

    @property
    def _items(self) -> dict[str, list[Item]]:
        return self._resolved[0]

    @cached_property
    def _resolved(self) -> tuple[dict[str, list[Item]], dict[str, list[str]], str]:
        found = self._unique(self._scan.look(self.root))
        marks, split_by = self._split(found)
        names = labelling.names(found, without_split=split_by == "folders")
        numbers, classes = labelling.numbers(names)
        items = {}
        for entry, mark, labels in zip(found, marks, numbers, strict=True):
            item = Item(entry.key, entry.path, entry.member, labels, entry.aux, entry.group, entry.span)
            items.setdefault(mark, []).append(item)
        if "test" not in items and "validation" in items:
            items["test"] = items.pop("validation")
        return items, classes, split_by

    def _unique(self, found: list[Found]) -> list[Found]:
        """Sorted by key; what a list repeats counts once."""
        unique: dict[str, Found] = {}
        for entry in found:
            first = unique.setdefault(entry.key, entry)
            if (first.split, first.places) != (entry.split, entry.places):
                raise UserError(f"data.root: {self.root} lists {entry.key} twice, for different splits. Keep one line.")
        return sorted(unique.values(), key=lambda entry: entry.key)

    def _split(self, found: list[Found]) -> tuple[list[str], str]:
        """The split of each sample, and what decided."""
        if any(entry.split is not None for entry in found):
            return [splits.parse(entry.split or "", f"data.root: {self.root}") for entry in found], "the split column"
        if (marks := splits.by_folders([entry.places for entry in found])) is not None:
            return marks, "folders"
        if (marks := splits.by_files([PurePosixPath(entry.member or entry.path).stem for entry in found])) is not None:
            return marks, "file names"
        keys = [entry.group or entry.key for entry in found]
        return splits.by_fraction(keys, self.holdout, self.split_seed), f"a fraction, data.holdout={self.holdout}"
