"""What masking costs: forward and backward of a convolutional network, one thread, at SparK's published mask ratio.

    python -m benchmarks.spark

"ordinary": the network of timm on whole pictures. "straightforward": the published structure, dense maps, a mask after
every layer, norms over positions that are gathered and scattered. "ours": `modalities.image.nn.convnet.ConvNet`.
"floor": the ordinary network on smaller pictures of as many patches as are visible: what is left where hidden regions
cost nothing. All share weights; that the two masked ones give equal maps and gradients is checked before anything is
timed.
The sides take turns; a ratio is the median of a side / ordinary.
Writes docs/benchmarks/spark.json and renders docs/benchmarks.md.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial

import timm
import torch
from torch import Tensor, nn

from benchmarks.measure import ratio, record, take_turns
from core.maskers import keep_lowest
from core.tokenizers import Normalise, Patchify
from core.tokens import Mask, levels
from modalities.image.nn.convnet import ConvNet

SIDES = ("ordinary", "straightforward", "ours", "floor")
PATCH, RATIO = 32, 0.6
FLAT = Normalise([0.0], [1.0])


class Straightforward(nn.Module):
    """Dense maps, zero at hidden positions after every layer; norms see the gathered visible positions alone."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.shown = network, torch.empty(0)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
                layer.forward = self._normed(layer)
            elif isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d | nn.Linear):
                layer.register_forward_hook(self._masked)

    def forward(self, pictures: Tensor, mask: Mask) -> list[Tensor]:
        grid = [side // PATCH for side in pictures.shape[2:]]
        self.shown = ~mask.hidden.unflatten(1, grid)
        shown = self._at(pictures.shape[2:])[:, None]
        return self.network.forward_intermediates(pictures * shown, intermediates_only=True)

    def _at(self, size: Sequence[int]) -> Tensor:
        """(B, h, w) bool: visible positions of a map."""
        h, w = (n // g for n, g in zip(size, self.shown.shape[1:], strict=True))
        return self.shown.repeat_interleave(h, 1).repeat_interleave(w, 2)

    def _masked(self, layer: nn.Module, inputs: tuple[Tensor], x: Tensor) -> Tensor:
        last = isinstance(layer, nn.Linear)  # (B, h, w, C)
        shown = self._at(x.shape[1:3] if last else x.shape[2:])
        return x * (shown[..., None] if last else shown[:, None])

    def _normed(self, layer: nn.Module) -> Callable[[Tensor], Tensor]:
        plain, last = type(layer).forward, type(layer).__name__ == "LayerNorm"

        def forward(x: Tensor) -> Tensor:
            x = x if last else x.permute(0, 2, 3, 1)
            shown = self._at(x.shape[1:3])
            rows = x[shown]
            rows = plain(layer, rows if last else rows[..., None, None]).view_as(rows)
            x = torch.zeros_like(x).index_put((shown,), rows)
            return x if last else x.permute(0, 3, 1, 2)

        return forward


class Bench:
    """All sides of one backbone, with the same weights, pictures and mask."""

    def __init__(self, backbone: str, side: int, batch: int, device: str):
        torch.manual_seed(0)
        self.encoder = ConvNet(backbone, FLAT, [PATCH, PATCH], 3)
        tokens = Patchify([PATCH, PATCH], [side, side])(torch.randn(batch, 3, side, side, device=device))
        count = tokens.layout.count
        self.mask = keep_lowest(torch.rand(batch, count, device=device), tokens, keep=round(count * (1 - RATIO)))
        self.seen = tokens.drop_masked(self.mask)
        network = timm.create_model(backbone, num_classes=0)
        network.load_state_dict(self.encoder.network.state_dict())
        self.networks = {"ordinary": network, "straightforward": Straightforward(deepcopy(network)), "floor": network}
        for part in (self.encoder, *self.networks.values()):
            part.to(device, memory_format=torch.channels_last).train()
        self.pictures = Patchify([PATCH, PATCH], [side, side]).untokenize(tokens.content)
        self.small = torch.randn(batch, 3, *(PATCH * n for n in _rectangle(self.mask.visible.count)), device=device)

    def maps(self, side: str) -> list[Tensor]:
        """Those of strides 4 to 32, finest first; of "ours" features (B, K, C) at visible positions."""
        if side == "ours":
            return [one.features for one in levels(self.encoder(self.seen))][::-1]
        if side == "straightforward":
            return self.networks[side](self.pictures, self.mask)[-4:]
        pictures = self.small if side == "floor" else self.pictures
        return self.networks[side].forward_intermediates(pictures, intermediates_only=True)[-4:]

    def step(self, side: str) -> None:
        sum(x.square().mean() for x in self.maps(side)).backward()
        if self.pictures.is_cuda:
            torch.cuda.synchronize()

    def differ(self) -> float:
        """Largest relative difference between the two masked sides: maps, and gradients of all parameters."""
        ours, theirs = self.maps("ours"), self.maps("straightforward")
        latents = [one.rows for one in levels(self.encoder(self.seen))][::-1]
        theirs = [rows.gather(x.flatten(2).transpose(1, 2)) for rows, x in zip(latents, theirs, strict=True)]
        worst = [_relative(a, b) for a, b in zip(ours, theirs, strict=True)]
        for maps in (ours, theirs):
            sum(x.square().mean() for x in maps).backward()
        one, other = (
            dict(net.named_parameters()) for net in (self.encoder.network, self.networks["straightforward"].network)
        )
        used = [name for name, p in one.items() if p.grad is not None]
        scale = max(float(one[name].grad.abs().max()) for name in used)
        worst += [_relative(one[name].grad, other[name].grad, 1e-3 * scale) for name in used]
        for part in (self.encoder, *self.networks.values()):
            part.zero_grad()
        return max(worst)


def _relative(a: Tensor, b: Tensor, floor: float = 1e-12) -> float:
    return float((a - b).detach().abs().max()) / max(float(b.detach().abs().max()), floor)


def _rectangle(count: int) -> tuple[int, int]:
    """`count` as a product of two sides as equal as can be."""
    side = next(n for n in range(int(count**0.5), 0, -1) if count % n == 0)
    return side, count // side


def compare(backbone: str, side: int, batch: int, rounds: int, device: str) -> dict:
    bench = Bench(backbone, side, batch, device)
    differ = bench.differ()
    if differ > 1e-3:
        raise AssertionError(f"the two masked sides do not compute the same: they differ by {differ:.1e}")
    steps = {name: partial(bench.step, name) for name in SIDES}
    take_turns(steps, 1)
    wall, cpu = take_turns(steps, rounds)
    return {
        "backbone": backbone,
        "picture": side,
        "batch": batch,
        "visible": f"{bench.mask.visible.count} of {bench.mask.hidden.shape[1]}",
        "ms": {name: round(1e3 * statistics.median(taken), 1) for name, taken in wall.items()},
        "ratio": {name: ratio(wall[name], wall["ordinary"]) for name in SIDES[1:]},
        "cpu_ratio": {name: ratio(cpu[name], cpu["ordinary"]) for name in SIDES[1:]},
        "largest_difference": differ,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["resnet50", "convnext_tiny"])
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    rows = [compare(name, args.side, args.batch, args.rounds, device) for name in args.backbones]
    command = " ".join(["python -m benchmarks.spark", *sys.argv[1:]])
    record("spark", command, {"timm": timm.__version__, "rows": rows})


if __name__ == "__main__":
    main()
