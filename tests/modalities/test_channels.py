"""Any number of channels: every method of images and videos trains, with a mean and a deviation for each channel."""

import pytest
import torch

from core.config import compose
from core.config.build import build_method
from core.tokens import Batch

SMALL = {
    "image": ["modality.size=[32,32]", "modality.patch=[8,8]"],
    "video": ["modality.size=[4,32,32]", "modality.patch=[2,8,8]"],
}
METHODS = [
    *(("image", "mae"), ("image", "simmim"), ("image", "spark")),
    *(("video", "mae"), ("video", "simmim"), ("video", "videomae"), ("video", "videomaev2"), ("video", "st_mae")),
]
# Without the world's own normalisation.
OWN_DATA = ["data=folder", "data.root=.", "size=nano"]


def composed(modality: str, method: str, *more: str) -> dict:
    small = SMALL[modality]
    if method == "spark":
        small = ["modality.size=[32,32]", "method.encoder.stride=16"]
    return compose([f"modality={modality}", f"method={method}", *OWN_DATA, *small, *more])


def means(config: dict) -> tuple[list, list]:
    normalise = config["method"]["encoder"].get("normalise") or config["method"]["encoder"]["embed"]["normalise"]
    return normalise["mean"], normalise["std"]


@pytest.mark.parametrize(("modality", "method"), METHODS)
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_a_method_trains(modality, method, channels):
    config = composed(modality, method, f"modality.channels={channels}")
    mean, std = (0.45, 0.225) if method == "st_mae" else (0.5, 0.25)
    assert means(config) == ([mean] * channels, [std] * channels)

    model = build_method(config)
    data = torch.randint(0, 256, (2, channels, *config["modality"]["size"]), dtype=torch.uint8)
    output = model(Batch({modality: data}))
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())


@pytest.mark.parametrize(("modality", "method"), METHODS)
def test_three_channels_have_the_published_statistics(modality, method):
    expected = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    if method == "st_mae":
        expected = ([0.45] * 3, [0.225] * 3)
    assert means(composed(modality, method)) == expected


def test_given_statistics_win():
    given = ["modality.channels=4", "modality.normalise.mean=[0.1,0.2,0.3,0.4]", "modality.normalise.std=[0.3]"]
    assert means(composed("image", "mae", *given)) == ([0.1, 0.2, 0.3, 0.4], [0.3])
