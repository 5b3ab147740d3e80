"""Layer masking against the official code's own numbers, in its three modes."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from modalities.image.interpret.layer_masking import LayerMasking, Region, fill
from tests.parity.vectors import Comparison, Pair, Recorded, cases, check, unhandled, unnoticed, unnoticed_in_files

INPUTS = "img|mask|label"
RULES = {"layermask": "fill", "nopad": "zero", "renorm": "coverage"}


class NarrowResNet(nn.Module):
    """The recorded network: torchvision's, with a narrow stem and narrow planes."""

    def __init__(self, stem: int, planes: list[int], layers: list[int], classes: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False), nn.BatchNorm2d(stem)
        self.relu, self.maxpool = nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        width = stem
        for i, (inner, count) in enumerate(zip(planes, layers, strict=True)):
            blocks = []
            for j in range(count):
                stride = 2 if i and not j else 1
                down = None
                if not j:
                    down = nn.Sequential(nn.Conv2d(width, 4 * inner, 1, stride, bias=False), nn.BatchNorm2d(4 * inner))
                blocks.append(Bottleneck(width, inner, stride, down))
                width = 4 * inner
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


@cache
def compare(path: Path, factor: float = 1.0) -> tuple[Recorded, dict[str, Pair]]:
    folder = Recorded(path, factor, INPUTS)
    about, io = folder.meta["config"], folder.io
    network = NarrowResNet(about["stem"], about["planes"], about["layers"], about["classes"]).eval()
    network.load_state_dict(load_file(path / "state_dict.safetensors"))

    compared = Comparison(folder)
    compared.close("fill.conv1", fill(io["img"], io["mask"], network.conv1.kernel_size[1]))
    for mode, rule in {**RULES, "plain": None}.items():
        network.zero_grad()
        hidden = torch.zeros_like(io["mask"][:, 0], dtype=torch.bool) if rule is None else io["mask"][:, 0] == 0
        logits, regions = LayerMasking(network, rule or "fill").eval().run(io["img"], hidden)
        logits = network(io["img"]) if rule is None else logits
        loss = F.cross_entropy(logits, io["label"])
        loss.backward()
        compared.close(f"{mode}.logits", logits)
        compared.close(f"{mode}.ce", loss)
        compared.close(f"{mode}.grad.conv1.weight", network.conv1.weight.grad.clone())
        stages(compared, mode, regions)
    return folder, compared.pairs


def stages(compared: Comparison, mode: str, regions: dict) -> None:
    for key in list(compared.folder.io):
        match = re.fullmatch(rf"{mode}\.(\w+)\.(feat|mask)", key)
        if match:
            region: Region = regions[match[1] if match[1] in regions else _last(regions, match[1])]
            if match[2] == "feat":
                compared.close(key, region.values)
            else:
                compared.equal(key, region.keep)
    if f"{mode}.avgpool" in compared.folder.io:
        compared.close(f"{mode}.avgpool", regions["avgpool"])


def _last(regions: dict, stage: str) -> str:
    """The last activation of a stage: its output."""
    return [name for name in regions if name.startswith(f"{stage}.") and name.rpartition(".")[2].startswith("relu")][-1]


@pytest.mark.parametrize("case", cases("layer-masking"))
def test_numbers_are_the_official_ones(case):
    folder, pairs = compare(case[1])
    assert not check(pairs)
    assert not unhandled(folder, pairs, INPUTS)


@pytest.mark.parametrize("case", cases("layer-masking"))
def test_one_per_cent_is_noticed(case):
    pairs = compare(case[1])[1]
    assert not unnoticed(pairs)
    assert not unnoticed_in_files(pairs, compare(case[1], 1.01)[1])
