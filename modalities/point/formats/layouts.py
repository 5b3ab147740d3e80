"""Published data sets as they are downloaded: names in lists beside the clouds, and ScanObjectNN's variants.

- ShapeNet-55: ShapeNet-55/train.txt and test.txt name the files in shapenet_pc, 02691156-1a04e3.npy;
- ModelNet40, resampled: modelnet40_train.txt and modelnet40_test.txt name clouds without folder and ending;
- ScanObjectNN: main_split and main_split_nobg hold .h5 files of several variants.

Others need nothing of their own: class folders, and .h5 files named by split (modelnet40_ply_hdf5_2048).
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Literal

from core.data import splits, tables
from core.data.account import Account, Leftovers
from core.data.lists import MISSING
from core.data.scan import OTHER_KIND, UNLISTED
from core.data.sources import Item, Source
from core.errors import UserError
from core.files import printable
from modalities.point.formats import files

PICKLES = (".dat", ".pkl", ".pickle")
Variant = Literal["obj_bg", "obj_only", "pb_t50_rs"]
# The ending of a variant's files, and whether its folder is one of objects without background.
ENDINGS: Mapping[Variant, tuple[str, bool]] = {
    "pb_t50_rs": ("_augmentedrot_scale75", False),
    "obj_bg": ("", False),
    "obj_only": ("", True),
}
SYNSET, NUMBERED = re.compile(r"(\d{8})-.+"), re.compile(r"(.+)_\d+")


def walk(root: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """The file itself, or all files under a folder in order of names; hidden ones apart. No link leads in circles."""
    if not root.is_dir():
        if root.is_file():
            yield root
        return

    real = os.path.realpath(root)
    if real not in above:
        for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
            if not entry.name.startswith((".", "__MACOSX")):
                yield from walk(Path(entry.path), (*above, real)) if entry.is_dir() else (Path(entry.path),)


# Lists of names


@dataclass(frozen=True, kw_only=True)
class NameList:
    """A text of one name a line, and the split of the clouds that it names."""

    path: Path
    split: str
    names: Sequence[str]

    @property
    def title(self) -> str:
        """The same for the lists of all splits: "modelnet40_train.txt" and "modelnet40_test.txt"."""
        words = re.split(r"[^a-z0-9]+", self.path.stem.lower())
        words = [word for word in words if splits.from_name(word) is None]
        return os.path.join(self.path.parent, "_".join(words))


class NamedClouds(Source):
    """Clouds under `root` that lists name, each by its file's name, with or without ending.

    Class: the file's folder, where they lie in several; else the beginning of its name, a synset
    (02691156-1a04e3) or a word before a number (airplane_0001). Validation stands in for a test that is missing.
    `paths`: the clouds by their names. `others`: files that are none.
    Raises: UserError where two lists name the same cloud for different splits.
    """

    def __init__(
        self, root: Path, lists: Sequence[NameList], paths: Mapping[str, Path], *, others: Iterable[Path] = ()
    ):
        self.root, self.lists, self._paths = root, lists, paths
        self._leftovers = Leftovers()
        for path in others:
            self._leftovers.add(OTHER_KIND, path.suffix.lower() or path.name, os.path.relpath(path, root))

    def items(self, split: str) -> list[Item]:
        if not self._items.get(split):
            raise UserError(f"data.root: {self.root} has no cloud for {split!r}: no list named by it names one.")
        return self._items[split]

    @property
    def classes(self) -> dict[str, list[str]]:
        if not self._classes:
            return {}
        return {"label": self._classes}

    def account(self) -> Account:
        samples = {split: len(items) for split, items in self._items.items()}
        names = ", ".join(os.path.relpath(file.path, self.root) for file in self.lists)
        labels = {}
        if self._classes:
            labels["label"] = "names of folders" if self._have_folders else "the beginning of names"
        return Account(
            samples=samples,
            split_by=f"lists of names: {printable(names)}",
            labels=labels,
            classes=self.classes,
            passed_over=self._leftovers.groups(),
        )

    @cached_property
    def _split_of(self) -> dict[Path, str]:
        """The split of every cloud that is named."""
        split_of: dict[Path, str] = {}
        for file in self.lists:
            for name in file.names:
                path = self._paths.get(name)
                if path is None:
                    self._leftovers.add(
                        MISSING, os.path.splitext(name)[1] or "no extension", f"{file.path.name}: {name}"
                    )
                elif split_of.setdefault(path, file.split) != file.split:
                    raise UserError(
                        f"data.root: {file.path} names {name}, which another list names for another split. Keep one."
                    )

        for path in dict.fromkeys(self._paths.values()):
            if path not in split_of:
                self._leftovers.add(UNLISTED, path.suffix.lower(), os.path.relpath(path, self.root))
        if "test" not in split_of.values():
            split_of = {path: split.replace("validation", "test") for path, split in split_of.items()}
        return split_of

    @cached_property
    def _have_folders(self) -> bool:
        return len({path.parent for path in self._split_of}) > 1

    @cached_property
    def _classes(self) -> list[str]:
        """Names of the classes in their order; none where a cloud has none."""
        names = set(map(self._class_of, self._split_of))
        if None in names or len(names) < 2:
            return []
        return sorted(filter(None, names))

    @cached_property
    def _items(self) -> dict[str, list[Item]]:
        numbers = {name: number for number, name in enumerate(self._classes)}
        items: dict[str, list[Item]] = {}
        for path in sorted(self._split_of):
            labels = {}
            if numbers:
                labels["label"] = numbers[self._class_of(path) or ""]
            key = printable(path.relative_to(self.root).as_posix())
            items.setdefault(self._split_of[path], []).append(Item(key, str(path), labels=labels))
        return items

    def _class_of(self, path: Path) -> str | None:
        if self._have_folders:
            return printable(path.parent.name)
        match = SYNSET.fullmatch(path.stem) or NUMBERED.fullmatch(path.stem)
        if match is None:
            return None
        return match.group(1)


def named_clouds(root: Path, paths: Sequence[Path]) -> NamedClouds | None:
    """The clouds among the files of a folder that lists of names stand for; None where there are no such lists.

    Of several sets of lists, the one that names most clouds (ShapeNet-55 beside ShapeNet-34).
    """
    lists = name_lists(paths)
    if not lists:
        return None

    clouds = list(filter(_is_cloud, paths))
    by_name = _by_name(clouds)
    by_title: dict[str, list[NameList]] = {}
    for file in lists:
        by_title.setdefault(file.title, []).append(file)

    def count(title: str) -> int:
        return sum(name in by_name for file in by_title[title] for name in file.names)

    title = max(by_title, key=count)
    if not count(title):
        return None
    read = {*clouds, *(file.path for file in by_title[title])}
    return NamedClouds(root, by_title[title], by_name, others=[path for path in paths if path not in read])


def name_lists(paths: Iterable[Path]) -> list[NameList]:
    """Texts that are named by split and hold one name a line, with or without the folder above it.

    Those that name files by their whole path are none: such lists need no rule of their own.
    """
    lists = []
    for path in paths:
        split = splits.from_name(path.stem)
        if path.suffix.lower() != ".txt" or split is None or tables.holds_numbers(path):
            continue
        names = list(filter(None, map(str.strip, path.read_text("utf-8", "replace").splitlines())))
        if names and all(map(_is_name, names)) and not (path.parent / names[0]).exists():
            lists.append(NameList(path=path, split=split, names=[_key(name) for name in names]))
    return lists


def _is_name(text: str) -> bool:
    """Whether a line is a file's name, or a path without ending."""
    is_word = re.fullmatch(r"[^\s,;]+", text) is not None
    return is_word and ("/" not in text or not text.lower().endswith(files.EXTENSIONS))


def _key(name: str) -> str:
    """The last two parts of a path, which `_by_name` has."""
    return "/".join(name.split("/")[-2:])


def _by_name(paths: Iterable[Path]) -> dict[str, Path]:
    """Clouds by their names, with and without ending, and with the folder above; less names of several folders."""
    by_name: dict[str, Path] = {}
    ambiguous = set()
    for path in paths:
        for name in (path.name, path.stem, f"{path.parent.name}/{path.stem}"):
            if by_name.setdefault(name, path).parent != path.parent:
                ambiguous.add(name)
    return {name: path for name, path in by_name.items() if name not in ambiguous}


def _is_cloud(path: Path) -> bool:
    if not path.name.lower().endswith(files.EXTENSIONS):
        return False
    return path.suffix.lower() not in tables.EXTENSIONS or tables.holds_numbers(path)


# ScanObjectNN


def scan_object_variants(paths: Iterable[Path]) -> dict[Variant, str]:
    """A glob of the files of each variant of ScanObjectNN among others; empty for other data."""
    folders = {path.parent for path in paths if fnmatch(path.name, "*_objectdataset*.h5")}
    folders = sorted(folders, key=_is_no_main_split)
    patterns: dict[Variant, str] = {}
    for variant, (ending, without_background) in ENDINGS.items():
        for folder in folders:
            is_nobg = "nobg" in folder.resolve().name.lower()
            pattern = os.path.join(glob.escape(str(folder)), f"*_objectdataset{ending}.h5")
            if is_nobg == without_background and variant not in patterns and glob.glob(pattern):
                patterns[variant] = pattern
    return patterns


def _is_no_main_split(folder: Path) -> tuple[bool, str]:
    return not folder.resolve().name.startswith("main_split"), str(folder)


# Pickled caches


def pickles(paths: Iterable[Path]) -> list[Path]:
    """The pickled files among others."""
    return [path for path in paths if path.suffix.lower() in PICKLES]


def refusal(path: Path) -> str:
    return (
        f"{path.name} is pickled: opening it could run anything, so it is never read. It was made from the data set's "
        "own files (of ModelNet40: modelnet40_normal_resampled): give their folder as data.root; sampling is done as "
        "they are read. Few-shot episodes are drawn from the same files."
    )
