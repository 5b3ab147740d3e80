"""Depth views of clouds as pictures, to pre-train an image encoder with that teaches I2P-MAE.

    python -m benchmarks.depth_views out=views size=64
    python -m core.train modality=image data=folder data.root=views modality.size=[64,64] modality.side=8 \\
        steps=2000 run_dir=runs/views
    python -m core.train modality=point method=i2p_mae method.teachers.image.source=runs/views

Three grey pictures of each cloud of the training and test split, as the teacher makes them, in folders of these names.
Clouds are those of the generated world; further settings (data=folder data.root=…) are `core.train`'s.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from core.cli import command
from core.config import compose, options
from core.data.opening import open_source
from core.data.reader import Reader
from core.data.sources import Source
from core.errors import BadSample, UserError
from modalities.point.views import project


def main(argv: Sequence[str] | None = None) -> int:
    return command(argv, lambda: __doc__ or "", lambda arguments: print(write(arguments)))


def write(arguments: Sequence[str]) -> str:
    """Writes the pictures; returns a line that counts them. Raises: UserError."""
    settings, overrides = options(arguments, {"out": str, "size": int})
    if "out" not in settings:
        raise UserError("out= not set: the folder for the pictures. python -m benchmarks.depth_views --help")
    out, size = Path(settings["out"]), settings.get("size", 64)
    reader, source = open_source(compose(["modality=point", "modality.reader.grouping=null", *overrides]))

    counts = []
    for split in ("train", "test"):
        folder = out / split
        folder.mkdir(parents=True, exist_ok=True)
        count = 0
        for count, picture in enumerate(pictures(reader, source, split, size), start=1):
            Image.fromarray(picture.numpy()).save(folder / f"{count:06d}.png")
        counts.append(f"{count} in {split}")
    return f"{out}: pictures of {size} x {size} pixels, {' and '.join(counts)}"


def pictures(reader: Reader, source: Source, split: str, size: int) -> Iterator[Tensor]:
    """(size, size) uint8, three of each cloud that can be read."""
    for item in source.items(split):
        try:
            clouds = reader.read(item, train=False)
        except BadSample as error:
            print(f"{item.key}: {error}", file=sys.stderr)
            continue
        _, maps = project(clouds.points, size)
        yield from (maps[:, 0].sigmoid() * 255).round().to(torch.uint8)


if __name__ == "__main__":
    sys.exit(main())
