"""A tiny data set of pictures with a bright square, and a tiny method, built by hand."""

from functools import partial

import numpy as np
import pytest
import torch

from core.data.reader import Reader
from core.data.sources import Item, Source
from core.decoders import MAEDecoder
from core.embeddings import PatchEmbed, SinCos
from core.encoder import Trunk, ViT
from core.errors import BadSample
from core.losses import mse
from core.maskers import RandomMasker
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Head, Objective, Readout
from core.targets import Pixels
from core.tokenizers import Normalise, Patchify

SIZE, PATCH, CLASSES = 16, 4, ["left", "right"]


class Arrays(Reader):
    """Pictures from .npy files; an array of another shape is a bad sample."""

    view, extensions = "image", (".npy",)

    def read(self, item, train):
        picture = item.array()
        if picture.shape != (3, SIZE, SIZE):
            raise BadSample(f"has shape {picture.shape}")
        return torch.from_numpy(picture)[None]

    def objects(self, item):
        return torch.from_numpy(np.load(item.aux["object"])) if "object" in item.aux else None


class Squares(Source):
    """A gradient, noise, and a bright 8 x 8 square, anywhere, in the left or in the right half: the label."""

    def __init__(self, folder, train=48, test=32, labelled=True, noise=8, grouped=False):
        self.classes = {"side": CLASSES} if labelled else {}
        self.folder, self.counts, self.noise, self.grouped = folder, {"train": train, "test": test}, noise, grouped

    def items(self, split):
        return [self._make(split, index) for index in range(self.counts[split])]

    def _make(self, split, index):
        rng = np.random.default_rng([index, split == "test"])
        left, top = 8 * (index % 2), int(rng.integers(9))
        picture = np.linspace(0, 60, SIZE)[None, :, None] + rng.normal(0, self.noise, (3, SIZE, SIZE))
        flag = np.zeros((SIZE, SIZE), dtype=bool)
        flag[top : top + 8, left : left + 8] = True
        picture = np.where(flag, picture + 120, picture).clip(0, 255).astype(np.uint8)
        path = self.folder / f"{split}{index:03d}.npy"
        np.save(path, picture)
        np.save(path.with_suffix(".object"), flag)
        aux = {"object": f"{path.with_suffix('.object')}.npy"}
        labels = {"side": index % 2} if self.classes else {}
        return Item(path.name, str(path), None, labels, aux, f"g{index // 4}" if self.grouped else None)


@pytest.fixture
def reader():
    return Arrays()


@pytest.fixture
def squares(tmp_path):
    return partial(Squares, tmp_path)


@pytest.fixture
def make_method():
    """A method of two blocks; `per` and `count` are the target's."""

    def make(per="none", ratio=0.75, masker=None, **target):
        torch.manual_seed(0)
        normalise = Normalise([0.5] * 3, [0.25] * 3)
        grid, patch = (SIZE // PATCH,) * 2, (PATCH, PATCH)
        tokenizer = Patchify(patch, (SIZE, SIZE))
        encoder = ViT(embed=PatchEmbed(48, 24, normalise, SinCos(grid, 24)), trunk=Trunk(24, 2, 2))
        objective = Objective(Pixels(patch, 3, grid, normalise, per, **target), mse, Head(16, 48))
        decoder = MAEDecoder(24, 16, trunk=Trunk(16, 1, 2), positions=SinCos(grid, 16))
        return MaskedAutoencoder(
            tokenizer,
            masker or RandomMasker(ratio),
            encoder,
            {"main": Readout(objectives={"pixels": objective}, decoder=decoder)},
        )

    return make
