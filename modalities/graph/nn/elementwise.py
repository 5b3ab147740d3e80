"""Dropout and PReLU that cost less on a CPU than torch's own."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BITS = 16  # of randomness per element


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """`F.dropout`, of the global generator too; on a CPU with cheaper bits."""
    if not training or x.device.type != "cpu" or not 0 < _level(share) < 2**BITS:
        return F.dropout(x, share, training)
    return x * kept(tuple(x.shape), share, x.dtype)


def kept(shape: tuple[int, ...], share: float, dtype: torch.dtype) -> Tensor:
    """The factors of dropout: 0 at `share` of the entries, 1 / (1 − share) elsewhere. On the CPU.

    One whole random word serves four elements: a Bernoulli draw each takes ten times as long. `share` is
    rounded to 2⁻¹⁶, and the mean is kept for the rounded one.
    """
    count, level = torch.Size(shape).numel(), _level(share)
    words = torch.empty(-(-count * BITS // 64), dtype=torch.long).random_(-(2**63), None)
    bits = words.view(torch.int16)[:count].view(shape)
    # Straight into the wanted type: a comparison that makes booleans first takes several times as long.
    out = torch.ge(bits, level - 2 ** (BITS - 1), out=torch.empty(shape, dtype=dtype))
    return out.mul_(2**BITS / (2**BITS - level))


def _level(share: float) -> int:
    return round(share * 2**BITS)


class PReLU(nn.PReLU):
    """One learned slope for all; where gradients are wanted on a CPU, they come in fewer passes over memory."""

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and x.device.type == "cpu" and x.dtype == self.weight.dtype:
            return _PReLU.apply(x, self.weight)
        return super().forward(x)


class _PReLU(torch.autograd.Function):
    """The weight's gradient Σ grad · min(x, 0) is summed at once; torch, slower, writes its terms down first."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.leaky_relu(x, float(weight))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        of_weight = x.clamp(max=0).mul_(grad).sum().view_as(weight)
        return torch.ops.aten.leaky_relu_backward(grad, x, float(weight), False), of_weight
