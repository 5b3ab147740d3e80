"""Layer masking against the official code's own numbers, in its three modes."""

import json
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
from tests.parity.vectors import Pair, cases, check, close, equal, unnoticed

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
def compare(path: Path) -> tuple[dict[str, Tensor], dict[str, Pair]]:
    meta, io = json.loads((path / "meta.json").read_text()), load_file(path / "io.safetensors")
    about, spread = meta["config"], meta["float32_vs_float64_max_rel"]
    network = NarrowResNet(about["stem"], about["planes"], about["layers"], about["classes"]).eval()
    network.load_state_dict(load_file(path / "state_dict.safetensors"))
    near = lambda key, ours: close(ours, io[key], max(1e-5, 10 * spread.get(key, 0.0)))  # noqa: E731
    pairs = {"fill.conv1": close(fill(io["img"], io["mask"], network.conv1.kernel_size[1]), io["fill.conv1"])}
    for mode, rule in {**RULES, "plain": None}.items():
        network.zero_grad()
        hidden = torch.zeros_like(io["mask"][:, 0], dtype=torch.bool) if rule is None else io["mask"][:, 0] == 0
        logits, said = LayerMasking(network, rule or "fill").eval().run(io["img"], hidden)
        logits = network(io["img"]) if rule is None else logits
        loss = F.cross_entropy(logits, io["label"])
        loss.backward()
        pairs[f"{mode}.logits"], pairs[f"{mode}.ce"] = near(f"{mode}.logits", logits), near(f"{mode}.ce", loss)
        pairs[f"{mode}.grad.conv1.weight"] = near(f"{mode}.grad.conv1.weight", network.conv1.weight.grad.clone())
        pairs |= stages(mode, io, said, near)
    return io, pairs


def stages(mode: str, io: dict[str, Tensor], said: dict, near) -> dict[str, Pair]:
    pairs = {}
    for key in io:
        match = re.fullmatch(rf"{mode}\.(\w+)\.(feat|mask)", key)
        if match:
            region: Region = said[match[1] if match[1] in said else _last(said, match[1])]
            pairs[key] = near(key, region.values) if match[2] == "feat" else equal(region.keep, io[key])
    if f"{mode}.avgpool" in io:
        pairs[f"{mode}.avgpool"] = near(f"{mode}.avgpool", said["avgpool"])
    return pairs


def _last(said: dict, stage: str) -> str:
    """The last activation of a stage: what the stage says."""
    return [name for name in said if name.startswith(f"{stage}.") and name.rpartition(".")[2].startswith("relu")][-1]


@pytest.mark.parametrize("case", cases("layer-masking"))
def test_numbers_are_the_official_ones(case):
    io, pairs = compare(case[1])
    assert not check(pairs)
    assert not [key for key in io if key not in pairs and key not in ("img", "mask", "label")]


@pytest.mark.parametrize("case", cases("layer-masking"))
def test_one_per_cent_is_noticed(case):
    assert not unnoticed(compare(case[1])[1])
