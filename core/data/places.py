"""Which file a listed path means: it may be relative to another folder, or written on another system."""

import os
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

MOST_SUBFOLDERS = 32  # and below
MOST_STRIPPED = 8  # leading folders of a path that may belong to another machine
LONGEST_PATH = 1024  # characters
# Folders that hold lists alone: their paths are relative to a folder beside them.
LIST_FOLDERS = ("annotation", "annotations", "labels", "lists", "list", "meta", "metadata", "splits", "split")


class Way(NamedTuple):
    """From a path as written to a file: `strip` leading folders off, `base` before it, `ending` after it."""

    base: str
    strip: int
    ending: str

    @property
    def is_full_name(self) -> bool:
        """Whether the file's name is written with its extension."""
        return not self.ending


class Names(NamedTuple):
    """Names in a folder: by themselves, and by `canonical` spelling."""

    files: dict[str, str]
    folders: dict[str, str]


class Places:
    """The files near a list: looks for listed paths in every likely place, then only where some were.

    Likely are the list's own folder, those above and right below it, and for lists in a folder of lists
    (annotations/train.csv) the folders beside that. A path counts as written, then with "/" for "\\"; accents
    match in every encoding, and leading folders (of the machine that wrote the list) and a missing extension
    are looked past.

    `top`: no folder above it is looked at; None: no limit. `extensions`: those that a path may lack. `clips`:
    folders that count as files.
    """

    def __init__(
        self,
        folder: Path,
        top: Path | None,
        extensions: Sequence[str],
        clips: Container[str] = frozenset(),
    ):
        self.extensions, self.clips = tuple(extensions), clips
        self.bases = _bases(folder, top)
        self.ways: list[Way] = []  # that led to files, the most frequent first
        self._ways: dict[str, Way | None] = {}  # by path as written
        self._folders: dict[str, str | None] = {}  # as they are spelled, by path as written
        self._listings: dict[str, Names | None] = {}

    def search(self, text: str) -> Way | None:
        """The first way by which the path leads to a file."""
        if text not in self._ways:
            self._ways[text] = self._first_way(text)
        return self._ways[text]

    def restrict_to(self, texts: Iterable[str]) -> None:
        """From now on `find` takes only the ways that lead some of these paths to files."""
        counts = Counter(filter(None, map(self.search, texts)))
        self.ways = [way for way, _ in counts.most_common()]

    def find(self, text: str) -> str | None:
        """The file that a path leads to."""
        for way in self.ways:
            file = self._follow(way, text)
            if file is not None:
                return file
        return None

    def _first_way(self, text: str) -> Way | None:
        if not text.strip() or len(text) > LONGEST_PATH or "\0" in text:
            return None

        endings = [""]
        if not text.strip().lower().endswith(self.extensions):
            endings.extend(self.extensions)

        for path in _spellings(text):
            likely = self._likely_folders(path)
            for ending in endings:
                for base, strip, folder, name in likely:
                    if self._file(folder, name + ending) is not None:
                        return Way(base, strip, ending)
        return None

    def _likely_folders(self, path: str) -> list[tuple[str, int, str, str]]:
        """Folders that exist among those where the path may lead: base, leading folders off, folder, file's name."""
        depth = min(len(_parts(path)) - 1, MOST_STRIPPED)
        starts = [("", 0)]
        for strip in range(depth + 1):
            starts.extend((base, strip) for base in self.bases)

        likely = []
        for base, strip in starts:
            place = self._place(base, strip, path)
            if place is not None:
                likely.append((base, strip, *place))
        return likely

    def _follow(self, way: Way, text: str) -> str | None:
        for path in _spellings(text):
            place = self._place(way.base, way.strip, path)
            if place is None:
                continue
            folder, name = place
            file = self._file(folder, name + way.ending)
            if file is not None:
                return file
        return None

    def _place(self, base: str, strip: int, path: str) -> tuple[str, str] | None:
        """Folder and file's name where a path leads; None without such a folder. No base: an absolute path."""
        if base:
            parts = _parts(path)
            if len(parts) <= strip:
                return None
            path = os.path.join(base, *parts[strip:])
        elif not path.startswith("/"):
            return None

        above, name = os.path.split(os.path.normpath(path))
        folder = self._folder(above)
        if folder is None:
            return None
        return folder, name

    def _file(self, folder: str, name: str) -> str | None:
        """The file of that name in a folder; the name may be spelled in another way."""
        listing = self._list(folder)
        if listing is None:
            return None
        spelled = listing.files.get(name) or listing.files.get(canonical(name))
        if spelled is not None:
            return os.path.join(folder, spelled)

        spelled = listing.folders.get(name) or listing.folders.get(canonical(name))
        if spelled is None:
            return None
        clip = os.path.join(folder, spelled)
        return clip if clip in self.clips else None

    def _folder(self, path: str) -> str | None:
        """The folder of that name; every part may be spelled in another way."""
        if path not in self._folders:
            self._folders[path] = self._spelled_folder(path)
        return self._folders[path]

    def _spelled_folder(self, path: str) -> str | None:
        if self._list(path) is not None:
            return path

        above, name = os.path.split(path)
        if not name or above == path:
            return None
        real = self._folder(above)
        if real is None:
            return None
        listing = self._list(real)
        if listing is None:
            return None

        spelled = listing.folders.get(canonical(name))
        if not spelled:
            return None
        return os.path.join(real, spelled)

    def _list(self, folder: str) -> Names | None:
        """Names in a folder; None where there is no such folder."""
        if folder not in self._listings:
            self._listings[folder] = _list(folder)
        return self._listings[folder]


def canonical(name: str) -> str:
    """One spelling of a name: composed accents (NFC); bytes that are not UTF-8 as Windows-1252."""
    if any("\udc80" <= character <= "\udcff" for character in name):
        name = os.fsencode(name).decode("cp1252", "replace")
    return unicodedata.normalize("NFC", name)


def _list(folder: str) -> Names | None:
    """Names in a folder; None where it cannot be read."""
    files, folders = [], []
    try:
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.name)
                else:
                    files.append(entry.name)
    except (OSError, ValueError):
        return None
    return Names(_by_spelling(files), _by_spelling(folders))


def _by_spelling(names: list[str]) -> dict[str, str]:
    """Names by themselves and by `canonical` spelling; an exact name goes before another one's spelling."""
    by_spelling: dict[str, str] = {}
    for name in names:
        by_spelling.setdefault(canonical(name), name)
    for name in names:
        by_spelling[name] = name
    return by_spelling


def _bases(folder: Path, top: Path | None) -> list[str]:
    """Folders that paths may be relative to, the likeliest first."""
    holds_lists = folder.absolute().name.lower() in LIST_FOLDERS
    levels = 1
    if holds_lists:
        levels = 2

    parents: list[Path] = []
    parent = folder
    for _ in range(levels):
        parent = Path(os.path.normpath(os.path.join(parent, "..")))
        if top is None or Path(os.path.abspath(parent)).is_relative_to(os.path.abspath(top)):
            parents.append(parent)

    bases = [str(folder), *map(str, parents), *_subfolders(folder)]
    if holds_lists and parents:
        bases.extend(_subfolders(parents[0]))
    return list(dict.fromkeys(bases))


def _subfolders(folder: Path) -> list[str]:
    listing = _list(str(folder))
    if listing is None:
        return []
    names = sorted(set(listing.folders.values()))
    visible = [name for name in names if not name.startswith(".")]
    return [str(folder / name) for name in visible[:MOST_SUBFOLDERS]]


def _spellings(text: str) -> list[str]:
    """The path as written, then, of another system, with "/" for "\\"."""
    path = text.strip()
    if "\\" not in path:
        return [path]
    return [path, path.replace("\\", "/")]


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
