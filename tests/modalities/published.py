"""The official transformers as formulas over a state dict: for options of which no vectors are recorded.

Written from the published formulas with `torch.nn.functional` alone; nothing of our modules is used.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


def patch_tokens(state: State, x: Tensor, prefix: str = "") -> Tensor:
    """(B, C, *size) -> (B, N, D), a convolution whose stride is its kernel."""
    weight, bias = state[f"{prefix}patch_embed.proj.weight"], state[f"{prefix}patch_embed.proj.bias"]
    convolve = F.conv3d if weight.dim() == 5 else F.conv2d
    return convolve(x, weight, bias, stride=weight.shape[2:]).flatten(2).transpose(1, 2)


def sinusoids(rows: int, dim: int) -> Tensor:
    """(1, N, D): sines in even channels, cosines in odd ones (VideoMAE)."""
    channel = torch.arange(dim).double()
    angle = torch.arange(rows).double()[:, None] / 10000 ** (2 * torch.div(channel, 2, rounding_mode="floor") / dim)
    even = torch.arange(dim) % 2 == 0
    return torch.where(even, angle.sin(), angle.cos()).float()[None]


def transformer(state: State, prefix: str, x: Tensor, heads: int, eps: float = 1e-6) -> Tensor:
    """All blocks named `{prefix}<i>.`, without the norm after them."""
    index = 0
    while f"{prefix}{index}.norm1.weight" in state:
        block = {key.removeprefix(f"{prefix}{index}."): value for key, value in state.items()}
        x = x + block.get("gamma_1", 1.0) * attention(block, layer_norm(block, "norm1", x, eps), heads)
        hidden = F.gelu(linear(block, "mlp.fc1", layer_norm(block, "norm2", x, eps)))
        x = x + block.get("gamma_2", 1.0) * linear(block, "mlp.fc2", hidden)
        index += 1
    return x


def attention(block: State, x: Tensor, heads: int) -> Tensor:
    batch, count, dim = x.shape
    if "attn.q.weight" in block:
        parts = [linear(block, f"attn.{name}", x) for name in "qkv"]
    else:
        parts = list(F.linear(x, block["attn.qkv.weight"], block.get("attn.qkv.bias")).chunk(3, -1))
    if "attn.q_bias" in block:
        parts[0], parts[2] = parts[0] + block["attn.q_bias"], parts[2] + block["attn.v_bias"]
    q, k, v = (part.view(batch, count, heads, -1).transpose(1, 2) for part in parts)

    if "attn.scale" in block:
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        scores = q @ k.transpose(-2, -1) * block["attn.scale"].clamp(max=4.6052).exp()
    else:
        scores = q @ k.transpose(-2, -1) * (dim // heads) ** -0.5
    return linear(block, "attn.proj", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def layer_norm(state: State, name: str, x: Tensor, eps: float = 1e-6) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def cubes(x: Tensor, patch: Sequence[int]) -> Tensor:
    """A clip (B, C, T, H, W) -> (B, N, pixels, C), row-major over time, rows and columns."""
    batch, channels, *size = x.shape
    t, h, w = (n // p for n, p in zip(size, patch, strict=True))
    x = x.view(batch, channels, t, patch[0], h, patch[1], w, patch[2])
    return x.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(batch, t * h * w, -1, channels)
