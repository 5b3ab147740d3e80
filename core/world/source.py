"""The generated world as a source of samples: one subclass for each kind of view, which only says how to make files."""

import io
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

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

    root: a folder, or None for `$LACUNA_CACHE/world` (default `~/.cache/lacuna/world`). `train` and `test` count
    samples; asking for more later makes only what is missing. Test samples have their `beside` files too, by name in
    `Item.aux`.
    """

    kind: str  # first part of the folder's name
    suffix: str  # of a sample's file, with dot
    beside: tuple[str, ...] = ()  # names of further files of a test sample, .npy each
    ranges: Ranges = STILL
    together: int = 128  # samples made at a time

    def __init__(self, root: str | None, seed: int, train: int, test: int, grain: str):
        """`grain` names what else shapes the files (their resolution, …); it becomes part of the folder's name."""
        self.seed = whole("seed", seed, 0)
        self.counts = {"train": whole("train", train, 1), "test": whole("test", test, 1)}
        self.classes = {"shape": SHAPES} | ({"motion": MOVES} if self.ranges.moving else {})
        name = f"{self.kind}-v{WORLD_VERSION}-{WORLD_HASH}-seed{seed}-{grain}"
        self.folder = (Path(root).expanduser() if root else cache_folder("world")) / name

    @abstractmethod
    def make(self, scenes: Sequence[Scene]) -> Iterator[dict[str, bytes]]:
        """Contents of each scene's files by suffix: the sample's own, and `.{name}.npy` for each name in `beside`."""

    def items(self, split: str) -> list[Item]:
        beside = self.beside if split == "test" else ()
        # The sample's own file comes last: where it is, the rest is.
        cache = Cache(self.folder / split, [*(f".{name}.npy" for name in beside), self.suffix])
        cache.fill(self.counts[split], lambda indices: self.make(self._scenes(split, indices)), self.together)
        return [self._item(cache, split, index, beside) for index in range(self.counts[split])]

    def scene(self, key: str) -> Scene:
        """The scene of an item, by its key."""
        split, index = key.split("/")
        return sample(self.seed, split, int(index), self.ranges)

    def _scenes(self, split: str, indices: Sequence[int]) -> list[Scene]:
        return [sample(self.seed, split, index, self.ranges) for index in indices]

    def _item(self, cache: Cache, split: str, index: int, beside: Sequence[str]) -> Item:
        shape, motion = labels(self.seed, split, index)
        return Item(
            key=f"{split}/{index:06d}",
            path=str(cache.path(index, self.suffix)),
            labels={"shape": shape, "motion": motion} if self.ranges.moving else {"shape": shape},
            aux={name: str(cache.path(index, f".{name}.npy")) for name in beside},
        )


def npy(array: np.ndarray) -> bytes:
    """The content of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def whole(name: str, value: int, least: int) -> int:
    """Checks a setting. Raises: UserError where it is no whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"data.{name} is {value!r}; it must be a whole number of at least {least}.")
    return value
