"""What masking costs: a training step on visible patches beside the ordinary network's step on whole pictures.

python -m benchmarks.spark backbone=resnet50 side=224 batch=4 repeats=3
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from core.config import options
from core.maskers import keep_lowest
from core.tokenizers import Normalise, Patchify
from modalities.image.convnet import ConvNet

SETTINGS = {"backbone": str, "side": int, "batch": int, "repeats": int, "ratio": float}


def seconds(step: Callable[[], Tensor], repeats: int) -> float:
    """Median of forward and backward, after one to warm up."""
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        step().backward()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def measure(backbone: str, side: int, batch: int, repeats: int, ratio: float) -> dict[str, float]:
    """Seconds of a step by what is seen, both with channels last in memory."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = ConvNet(backbone, Normalise([0.5], [0.5]), [32, 32], 3).to(device, memory_format=torch.channels_last)
    tokens = Patchify([32, 32], [side, side])(torch.rand(batch, 3, side, side, device=device))
    count = tokens.layout.count
    mask = keep_lowest(torch.rand(batch, count, device=device), tokens, keep=round(count * (1 - ratio)))
    seen = {"whole": tokens.whole(), "visible": tokens.keep(mask)}
    return {name: seconds(lambda one=one: encoder(one).features.mean(), repeats) for name, one in seen.items()}


def main(argv: list[str]) -> None:
    asked, _ = options(argv, SETTINGS, strict=True)
    settings = {"backbone": "resnet50", "side": 224, "batch": 4, "repeats": 3, "ratio": 0.6} | asked
    found = measure(**settings)
    said = ", ".join(f"{name} {1000 * taken:.0f} ms" for name, taken in found.items())
    print(f"{settings}: {said}, ratio {found['visible'] / found['whole']:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
