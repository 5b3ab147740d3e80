"""Samples that a user hands over in Python: files by their paths, PIL images, arrays."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from core.data.sources import Item
from core.errors import UserError

Sample = str | Path | np.ndarray | Tensor | Image.Image


class MemoryItem(Item):
    """A sample that is in memory: an array, or the bytes of a picture."""

    __slots__ = ("content",)

    def __init__(self, key: str, content: np.ndarray | bytes):
        super().__init__(key, key)
        object.__setattr__(self, "content", content)

    @property
    def suffix(self) -> str:
        return ".tif" if isinstance(self.content, bytes) else ".npy"

    def open(self) -> bytes:
        if isinstance(self.content, bytes):
            return self.content
        buffer = io.BytesIO()
        np.save(buffer, self.content, allow_pickle=False)
        return buffer.getvalue()

    def array(self, name: str | None = None) -> np.ndarray:
        assert isinstance(self.content, np.ndarray), "pictures are opened"
        return self.content.copy()


def as_items(samples: Sample | Sequence[Sample]) -> list[Item]:
    """Samples as a reader takes them. Raises: UserError for anything but files, PIL images and arrays."""
    if isinstance(samples, str | Path | Image.Image):
        samples = [samples]
    is_array = isinstance(samples, np.ndarray | Tensor)
    if not (isinstance(samples, Sequence) or (is_array and samples.ndim)):
        raise UserError(f"A {type(samples).__name__} holds no samples: give paths, PIL images or arrays.")

    items = []
    for number, sample in enumerate(samples):
        items.append(_as_item(sample, number))
    if not items:
        raise UserError("There is no sample to encode: the list is empty.")
    return items


def _as_item(sample: Sample, number: int) -> Item:
    if isinstance(sample, str | Path):
        path = Path(sample).expanduser()
        if not path.is_file():
            remedy = "list its files: sorted(folder.glob('*'))" if path.is_dir() else "check the path"
            raise UserError(f"{sample} is no file: {remedy}.")
        return Item(str(sample), str(path))
    if isinstance(sample, Image.Image):
        buffer = io.BytesIO()
        sample.save(buffer, "TIFF", exif=sample.getexif())  # of all modes, with a photograph's rotation
        return MemoryItem(f"sample {number}", buffer.getvalue())
    if isinstance(sample, Tensor):
        sample = sample.detach().cpu().numpy()
    if isinstance(sample, np.ndarray):
        return MemoryItem(f"sample {number}", sample)
    raise UserError(
        f"Sample {number} is a {type(sample).__name__}: give paths, PIL images, or arrays of one sample each."
    )
