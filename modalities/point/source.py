"""`data=folder` of point clouds: published data sets as they are downloaded, and any folder, list or archive."""

import glob
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from core.data import arrays, hdf5
from core.data.account import Account, PassedOver
from core.data.folder import FolderSource
from core.data.sources import Item, Setting, Source
from core.errors import UserError
from modalities.point.formats import files, layouts
from modalities.point.formats.layouts import Variant

LOOKED_AT = 8  # array files, of which the first that can be read tells how all are


class PointSource(Source):
    """Clouds in a folder, glob, list, archive or array file.

    Published data sets are known by their files (`formats.layouts`). `variant`: of ScanObjectNN, by default the
    hardest that there is, PB-T50-RS. Everything else is as in `FolderSource`, which gets the other settings; arrays
    (clouds, points, channels) hold a cloud in each row, arrays (points, channels) are one.
    Raises: UserError for pickled caches, with the way round.
    """

    def __init__(
        self,
        root: str,
        *,
        variant: Variant | None = None,
        holdout: float = 0.1,
        split_seed: int = 0,
        labels: Sequence[str] | None = None,
        group: str | None = None,
        rows: bool | None = None,
    ):
        self.root, self.variant, self.rows = str(root or ""), variant, rows
        self._settings = {"holdout": holdout, "split_seed": split_seed, "labels": labels, "group": group}
        self._folder = FolderSource(self.root, files.EXTENSIONS, **self._settings)  # checks the settings
        self._variants: dict[Variant, str] = {}
        self._path = Path(self.root)
        if not self._path.exists():
            self._path = self._path.expanduser()
        if self._path.is_dir():
            self._variants = layouts.scan_object_variants(self._files)
        if variant is not None and variant not in self._variants:
            there_is = ", ".join(self._variants) or "no ScanObjectNN"
            raise UserError(f"data.source.variant={variant} is not in {self.root}; there is {there_is}.")

    def items(self, split: str) -> Sequence[Item]:
        return self._source.items(split)

    @property
    def classes(self) -> dict[str, list[str]]:
        """Of class numbers the names in shape_names.txt, where it lies beside the files."""
        classes = dict(self._source.classes)
        names = _shape_names(self._path)
        numbers = classes.get("label", [])
        if names and all(text.isdecimal() and int(text) < len(names) for text in numbers):
            classes["label"] = [names[int(text)] for text in numbers]
        return classes

    @property
    def questions(self) -> Mapping[str, list[str]]:
        return self._source.questions

    @property
    def split_is_drawn(self) -> bool:
        return self._source.split_is_drawn

    def defaults(self) -> list[Setting]:
        if not self._variants:
            return []
        reason = "ScanObjectNN is published with its coordinates as they are"
        return [Setting("modality.reader.normalise", False, reason=reason)]

    def account(self) -> Account:
        account = self._source.account()
        passed_over, notes = list(account.passed_over), list(account.notes)
        if self._variants:
            passed_over += self._other_variants()
            notes.append(
                f"this is the variant {self._read_variant} of ScanObjectNN; data.source.variant reads another of "
                f"{', '.join(self._variants)}"
            )

        caches = layouts.pickles(self._files)
        if caches:
            notes.append(layouts.refusal(caches[0]))
        return replace(account, classes=self.classes, passed_over=passed_over, notes=notes)

    @cached_property
    def _source(self) -> Source:
        root = self._path
        if root.is_file() and layouts.pickles([root]):
            raise UserError(f"data.root: {layouts.refusal(root)}")
        if self._variants:
            return FolderSource(self._variants[self._read_variant], files.EXTENSIONS, rows=True, **self._settings)

        clouds = None
        if root.is_dir():
            clouds = layouts.named_clouds(root, self._files)
        if clouds is not None:
            return clouds

        source = self._folder_source(root)
        try:
            source.classes  # noqa: B018 (looks through the folder)
        except UserError as error:
            raise UserError(f"{error}{self._hint()}") from None
        return source

    @property
    def _read_variant(self) -> Variant:
        return self.variant or next(iter(self._variants))

    def _folder_source(self, root: Path) -> FolderSource:
        """The source of any folder or file, told whether array files hold a cloud in each row."""
        place, rows = self.root, self.rows
        path, axes = _first_array(self._files)
        if rows is None and axes is not None:
            rows = axes > 2
        # Lists beside .h5 files name these, not their clouds.
        if rows and root.is_dir() and path is not None and hdf5.is_hdf5(str(path)):
            place = os.path.join(glob.escape(str(root)), "**", f"*{path.suffix}")
        return FolderSource(place, files.EXTENSIONS, rows=rows, **self._settings)

    @cached_property
    def _files(self) -> list[Path]:
        """All files under a folder, or the file itself."""
        return list(layouts.walk(self._path))

    def _hint(self) -> str:
        """The end of a message that there are no clouds: pickled caches, or lists of clouds that are not there."""
        caches = layouts.pickles(self._files)
        if caches:
            return f" {layouts.refusal(caches[0])}"
        lists = layouts.name_lists(self._files)
        if lists:
            return f" {lists[0].path.name} lists names of clouds, which are not there: give the folder that holds both."
        return ""

    def _other_variants(self) -> list[PassedOver]:
        """The .h5 files that are of no variant, or of another one."""
        read = set(glob.glob(self._variants[self._read_variant]))
        paths = [path for path in self._files if path.suffix == ".h5" and str(path) not in read]
        if not paths:
            return []
        examples = [os.path.relpath(path, self._path) for path in paths[:3]]
        return [PassedOver(reason="of another variant", kind=".h5", count=len(paths), examples=examples)]


def _first_array(paths: Sequence[Path]) -> tuple[Path | None, int | None]:
    """The first array file, and how many axes its array of samples has."""
    candidates = [path for path in paths if arrays.is_array(path.name) and not arrays.is_idx(path.name)]
    for path in candidates[:LOOKED_AT]:
        with suppress(UserError):  # a damaged file is reported where it is read
            content = arrays.load(str(path))
            return path, content[arrays.main_array(content)].ndim
    return None, None


def _shape_names(root: Path) -> list[str]:
    """Class names of a data set, one a line."""
    paths = sorted(root.glob("*shape_names.txt"))
    if len(paths) != 1:
        return []
    return list(filter(None, map(str.strip, paths[0].read_text("utf-8", "replace").splitlines())))
