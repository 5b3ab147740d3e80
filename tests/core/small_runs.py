"""Settings of runs that take a second, and pictures of two classes to train them on."""

import numpy as np
from PIL import Image

# Of the generated world.
WORLD = [
    "modality=image", "modality.size=[32,32]", "data.source.size=32", "data.source.train=32", "data.source.test=12",
    "size.dim=32", "size.depth=1", "size.heads=2", "batch_size=8", "steps=6", "precision=fp32", "engine.workers=0",
]  # fmt: skip

# Of pictures in folders.
SMALL = ["size.dim=24", "size.depth=1", "size.heads=2", "modality.size=[16,16]", "engine.workers=0", "precision=fp32"]
TINY = [*SMALL, "batch_size=4", "steps=2", "method.readouts.main.decoder.trunk.depth=1"]


def draw(folder, split, label, count, grouped=False):
    """Pictures of class 0 are bright at the left, of class 1 at the right."""
    for index in range(count):
        picture = np.random.default_rng([label, index, split == "test"]).integers(0, 60, (16, 16, 3), dtype=np.uint8)
        picture[:, 8 * label : 8 * label + 8] += 150
        path = folder / split / f"class{label}" / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
