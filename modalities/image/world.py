"""The generated world as images: one picture of each scene, as a PNG file."""

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from core.world.render import render
from core.world.scene import Scene
from core.world.source import WorldSource, npy, require_channels, require_integer


class ImageWorld(WorldSource):
    """Square pictures of `size` pixels of solids at rest; the label is the solid's shape.

    Test samples have `aux["object"]`: the pixels that show the solid, bool (H, W). Cost: 2 ms a sample on one
    core at 64 x 64. `train` and `test` are the numbers of samples, `root` and `seed` as in `WorldSource`,
    `channels` those that the reader makes of them.
    """

    kind = "image"
    suffix = ".png"
    aux_names = ("object",)

    def __init__(
        self,
        root: str | None = None,
        seed: int = 0,
        train: int = 8192,
        test: int = 1024,
        size: int = 64,
        channels: int = 3,
    ):
        require_channels(channels)
        self.size = require_integer("size", size, at_least=8)
        super().__init__(root, seed, train, test, f"{size}px")

    def make(self, scenes: Sequence[Scene]) -> Iterator[dict[str, bytes]]:
        pictures, solid = render(scenes, [0.0], self.size)
        for picture, pixels in zip(pictures[:, 0], solid[:, 0], strict=True):
            yield {".object.npy": npy(pixels), ".png": _png(picture)}


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=3)  # level 6 takes twice as long and saves a tenth
    return buffer.getvalue()
