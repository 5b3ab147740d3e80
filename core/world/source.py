"""The generated world as a source of samples: one subclass for each kind of view, which makes its files."""

import io
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from core.data.account import Account
from core.data.sources import Item, Source
from core.errors import UserError
from core.files import cache_folder
from core.world.cache import Cache
from core.world.motions import MOVES
from core.world.scene import STILL, Ranges, Scene, labels, sample
from core.world.solids import SHAPES
from core.world.version import WORLD_HASH, WORLD_VERSION


class WorldSource(Source):
    """Samples of the generated world, made once and kept as files under `root`.

    `root`: a folder, or None for `$LACUNA_CACHE/world` (default `~/.cache/lacuna/world`). `train`, `test`:
    numbers of samples; larger numbers later make only the missing ones. `variant`: the further settings
    that shape the files (their resolution, …), as part of the folder's name. Test samples have further
    files, by name in `Item.aux`.
    Raises: UserError where a number is out of range.
    """

    kind: str  # first part of the folder's name
    suffix: str  # of a sample's file, with dot
    aux_names: tuple[str, ...] = ()  # further files of a test sample, .npy each
    ranges: Ranges = STILL
    chunk_size: int = 128  # samples made at a time

    def __init__(self, root: str | None, seed: int, train: int, test: int, variant: str):
        self.seed = require_integer("seed", seed, at_least=0)
        self.counts = {
            "train": require_integer("train", train, at_least=1),
            "test": require_integer("test", test, at_least=1),
        }

        self.classes = {"shape": SHAPES}
        if self.ranges.moving:
            self.classes["motion"] = MOVES

        name = f"{self.kind}-v{WORLD_VERSION}-{WORLD_HASH}-seed{seed}-{variant}"
        self.folder = cache_folder("world") / name
        if root:
            self.folder = Path(root).expanduser() / name

    @abstractmethod
    def make(self, scenes: Sequence[Scene]) -> Iterator[dict[str, bytes]]:
        """Contents of each scene's files by suffix: `suffix`, and `.{name}.npy` for each of `aux_names`."""

    def items(self, split: str) -> list[Item]:
        count = self.counts[split]
        aux_names = self.aux_names if split == "test" else ()

        # The sample itself is written last: where it is, its further files are.
        suffixes = [f".{name}.npy" for name in aux_names]
        cache = Cache(self.folder / split, [*suffixes, self.suffix])
        cache.fill(count, lambda indices: self.make(self._scenes(split, indices)), self.chunk_size)
        return [self._item(cache, split, index, aux_names) for index in range(count)]

    def account(self) -> Account:
        """What will be made: nothing is made for it."""
        return Account(samples=dict(self.counts), split_by=self.held_out, classes=self.classes)

    def scene(self, key: str) -> Scene:
        """The scene of an item, by its key."""
        split, index = key.split("/")
        return sample(self.seed, split, int(index), self.ranges)

    def _scenes(self, split: str, indices: Sequence[int]) -> list[Scene]:
        return [sample(self.seed, split, index, self.ranges) for index in indices]

    def _item(self, cache: Cache, split: str, index: int, aux_names: Sequence[str]) -> Item:
        shape, motion = labels(self.seed, split, index)
        item_labels = {"shape": shape}
        if self.ranges.moving:
            item_labels["motion"] = motion

        path = str(cache.path(index, self.suffix))
        aux = {}
        for name in aux_names:
            aux[name] = str(cache.path(index, f".{name}.npy"))
        return Item(f"{split}/{index:06d}", path, labels=item_labels, aux=aux)


def npy(array: np.ndarray) -> bytes:
    """The content of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def require_channels(channels: int) -> None:
    """Raises UserError for pictures that cannot be made of colour."""
    if channels not in (1, 3):
        raise UserError(
            f"modality.channels={channels}: data=world is rendered in colour, for 3 channels or, as grey, 1. Other "
            "channels come with your own files: data=folder data.root=<folder>."
        )


def require_integer(name: str, value: int, at_least: int) -> int:
    """The value of the setting `name`. Raises: UserError where it is no integer of at least `at_least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise UserError(f"data.source.{name} is {value!r}; it must be a whole number of at least {at_least}.")
    return value
