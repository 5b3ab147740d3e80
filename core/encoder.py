"""The ViT: embedding plus trunk. Trunks map D to D in every modality, so that they can be exchanged."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers import DropPath  # pyright: ignore[reportPrivateImportUsage]  # public
from torch import Tensor, nn

from core.embeddings import ClsToken, Positions, initialise_truncated
from core.errors import UserError
from core.tokens import EncoderInput, Latent, Layout, Rows, view_of


class Encoder(nn.Module, ABC):
    """`EncoderInput -> Latent`, written for one view; encoders that join views override `encode_views`.

    `masking`: what becomes of hidden tokens. "drop": they are left out; "replace": their content is erased or
    replaced and their rows stay; "leak" (parity with official embeddings that see hidden tokens only): they
    stay as they are.
    `trunk`: the part that carries over between modalities, None for encoders that are no ViT.
    """

    masking: Literal["drop", "replace", "leak"] = "drop"
    embed_dim: int
    depth: int
    trunk: "Trunk | None"

    @abstractmethod
    def forward(self, inputs: EncoderInput, taps: Sequence[str] = ()) -> Latent:
        """Content (B, V or N, *C) of one view -> features (B, V or N, D). `taps`: block outputs to return too."""

    def encode_views(self, inputs: Mapping[str, EncoderInput], taps: Sequence[str] = ()) -> dict[str, Latent]:
        """Latents of all views, by the names of their inputs."""
        return {name: self(view, taps) for name, view in inputs.items()}


@dataclass(frozen=True)
class AttentionPlan:
    """The pairs of rows that attend to each other: all, the valid ones, near ones, or those of one sample."""

    valid: Tensor | None = None  # (B, N) bool
    counts: tuple[int, ...] | None = None  # rows of each packed sample
    near: Tensor | None = None  # (B, N, N) bool: queries, keys

    @classmethod
    def within(cls, layout: Layout, radius: float) -> "AttentionPlan":
        """Each row attends to rows whose coordinates are nearer than `radius`: itself at least.

        Padding attends to all valid rows, so that no row is left without any.
        """
        assert layout.coords is not None, "distances are between coordinates"
        near = torch.cdist(layout.coords, layout.coords) < radius
        if layout.valid is None:
            return cls(near=near)
        return cls(near=(near | ~layout.valid[:, :, None]) & layout.valid[:, None])

    @classmethod
    def of(cls, layout: Layout, extra: int = 0) -> "AttentionPlan":
        """The plan for the rows of `layout`, behind `extra` rows that always count (cls)."""
        if layout.counts is not None:
            if extra:
                raise UserError("Packed samples cannot have a cls token each: set method.encoder.cls=null.")
            return cls(counts=layout.counts)

        if layout.valid is None:
            return cls()
        return cls(valid=F.pad(layout.valid, (extra, 0), value=True))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        """softmax(q kᵀ · scale) v over the pairs of the plan: (B, heads, N, d) each -> (B, heads, N, d)."""
        if self.counts is not None:
            return self._attend_by_sample(q, k, v, scale)

        keys = None
        if self.valid is not None:
            keys = self.valid[:, None, None]
        elif self.near is not None:
            keys = self.near[:, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=keys, scale=scale)

    def _attend_by_sample(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        queries, keys, values = q.split(self.counts, 2), k.split(self.counts, 2), v.split(self.counts, 2)

        outputs = []
        for query, key, value in zip(queries, keys, values, strict=True):
            if query.shape[2]:  # empty samples have nothing to attend to
                outputs.append(F.scaled_dot_product_attention(query, key, value, scale=scale))
        if not outputs:
            return torch.zeros_like(q)
        return torch.cat(outputs, 2)


class Attention(nn.Module):
    """Multi-head self-attention, one fused projection: softmax(q kᵀ / √d) v, d = D / heads.

    `bias`: "full" (MAE), "qv" (VideoMAE: no key bias; two 1-D parameters) or "none".
    `cosine`: normalised queries and keys with a learned scale per head (OpenGVLab/VideoMAEv2, cos_attn).
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        bias: Literal["full", "qv", "none"] = "full",
        cosine: bool = False,
    ):
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} is not divisible by {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias == "full")
        self.q_bias = self.v_bias = self.scale = None
        if bias == "qv":
            self.q_bias = nn.Parameter(torch.zeros(dim))
            self.v_bias = nn.Parameter(torch.zeros(dim))
        if cosine:
            self.scale = nn.Parameter(torch.full((heads, 1, 1), 10.0).log())
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, plan: AttentionPlan, read: Rows | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D), or (B, M, D) for the rows in `read` alone, which attend to all N."""
        weight, bias = self.qkv.weight, self._bias()
        if read is None:
            q, k, v = self._project(x, weight, bias)
        else:  # queries of the rows to be read, keys and values of all
            dim = x.shape[2]
            query_bias = key_value_bias = None
            if bias is not None:
                query_bias, key_value_bias = bias[:dim], bias[dim:]
            q = self._project(read.gather(x), weight[:dim], query_bias)[0]
            k, v = self._project(x, weight[dim:], key_value_bias)

        q, k, scale = self._scaled(q, k)
        return self.proj(plan.attend(q, k, v, scale).transpose(1, 2).flatten(2))

    def first_row(self, x: Tensor) -> Tensor:
        """Attention weights of row 0, which is cls where there is one, softmax(q₀ kᵀ · scale): (B, heads, N)."""
        q, k, _ = self._project(x, self.qkv.weight, self._bias())
        q, k, scale = self._scaled(q, k)
        if scale is None:
            scale = q.shape[-1] ** -0.5
        return (q[:, :, :1] @ k.transpose(2, 3) * scale).softmax(-1)[:, :, 0]

    def _bias(self) -> Tensor | None:
        """(3 D,) of queries, keys and values."""
        if self.q_bias is not None and self.v_bias is not None:
            return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return self.qkv.bias

    def _scaled(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float | None]:
        """Queries and keys, and the factor of their products; None: d ** -0.5."""
        if self.scale is None:
            return q, k, None
        # Clamped at log 100, to the digits of the official code.
        q = F.normalize(q, dim=-1) * self.scale.clamp(max=4.6052).exp()
        return q, F.normalize(k, dim=-1), 1.0

    def _project(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
        """x (B, N, D) -> one (B, heads, N, d) for every D rows of `weight`."""
        parts = F.linear(x, weight, bias).unflatten(2, (-1, self.heads, x.shape[2] // self.heads))
        return parts.permute(2, 0, 3, 1, 4).unbind(0)


class Mlp(nn.Module):
    """W₂ gelu(W₁ x + b₁) + b₂: (…, D) -> (…, D)."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """γ · x with a learned γ (D,) that starts at `init`."""

    def __init__(self, dim: int, init: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def _scale(dim: int, start: float) -> nn.Module:
    """The scale of a branch; none where it starts at 0."""
    if not start:
        return nn.Identity()
    return LayerScale(dim, start)


class Block(nn.Module):
    """Pre-norm transformer block: x += attention(LN x); x += mlp(LN x). With `read`, for these rows alone."""

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        attention: dict,
        drop_path: float,
        layer_scale: float,
        norm_eps: float = 1e-6,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, heads, **attention)
        self.scale1 = _scale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, hidden)
        self.scale2 = _scale(dim, layer_scale)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, plan: AttentionPlan, read: Rows | None = None) -> Tensor:
        attended = self.attn(self.norm1(x), plan, read)
        if read is not None:
            x = read.gather(x)
        x = x + self.drop_path(self.scale1(attended))
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))


class Trunk(nn.Module):
    """`depth` pre-norm blocks and a final norm (unless `norm` is false): (B, N, D) -> (B, N, D).

    Drop path grows linearly with depth, from `drop_path_start` to `drop_path`. `init` of linear weights: "xavier"
    uniform, or "truncated" normal (0.02); biases are zero. `taps`: names of the block outputs to return, from
    "block0" on, or of blocks' inputs, from "input0" on.
    `layer_scale`: start value of the branches' scales, 0 for none; `bias`, `cosine`: as in `Attention`.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        bias: Literal["full", "qv", "none"] = "full",
        cosine: bool = False,
        drop_path: float = 0.0,
        layer_scale: float = 0.0,
        norm_eps: float = 1e-6,
        init: Literal["xavier", "truncated"] = "xavier",
        drop_path_start: float = 0.0,
        norm: bool = True,
    ):
        super().__init__()
        for name, value, least in (("dim", dim, 1), ("depth", depth, 0), ("heads", heads, 1)):
            if value < least:
                raise ValueError(f"{name}={value} must be at least {least} (the encoder's is size.{name})")
        if dim % heads:
            settings = "the encoder's are size.dim and size.heads"
            raise ValueError(f"dim={dim} is no multiple of heads={heads} ({settings})")

        self.dim = dim
        self.blocks = nn.ModuleList()
        for i in range(depth):
            rate = drop_path_start + (drop_path - drop_path_start) * i / max(depth - 1, 1)
            attention = {"bias": bias, "cosine": cosine}
            self.blocks.append(Block(dim, heads, int(dim * mlp_ratio), attention, rate, layer_scale, norm_eps))

        self.norm: nn.Module = nn.Identity()
        if norm:
            self.norm = nn.LayerNorm(dim, eps=norm_eps)
        if init == "xavier":
            initialise(self)
        else:
            initialise_truncated(self)

    @property
    def provides(self) -> dict:
        return {"dim": self.dim}

    def forward(
        self,
        x: Tensor,
        plan: AttentionPlan,
        taps: Sequence[str] = (),
        read: Rows | None = None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """x (B, N, D) -> (B, N, D), or (B, M, D) for the rows in `read`; and the tapped block outputs.

        `positions` (B or 1, N, D): added before every block (Point-MAE).
        """
        outputs, last = {}, len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            rows = None
            if i == last:
                rows = read
            if positions is not None:
                x = x + positions
            if f"input{i}" in taps:
                outputs[f"input{i}"] = x
            x = block(x, plan, rows)
            if f"block{i}" in taps:
                outputs[f"block{i}"] = x

        if read is not None and not self.blocks:
            x = read.gather(x)
        return self.norm(x), outputs


def initialise(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every linear layer below `module`."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class EncoderByView(Encoder):
    """An encoder for each view: `views` by name. A run saves each by itself; two views may share one module.

    Raises: UserError where the encoders differ in width or in what becomes of hidden tokens.
    """

    def __init__(self, views: Mapping[str, Encoder]):
        super().__init__()
        self.views = nn.ModuleDict(views)
        facts = {(encoder.embed_dim, encoder.masking) for encoder in views.values()}
        if len(facts) != 1:
            raise UserError(f"encoder.views: all need one width and one way of masking, not {sorted(facts)}.")

        first = next(iter(views.values()))
        self.embed_dim, self.masking = first.embed_dim, first.masking
        self.depth = max(encoder.depth for encoder in views.values())

    @property
    def provides(self) -> dict:
        return {"width": self.embed_dim}

    def forward(self, inputs: EncoderInput, taps: Sequence[str] = ()) -> Latent:
        raise UserError(f"This encoder takes tokens by view ({', '.join(self.views)}).")

    def encode_views(self, inputs: Mapping[str, EncoderInput], taps: Sequence[str] = ()) -> dict[str, Latent]:
        return {name: self.views[view_of(name)](view, taps) for name, view in inputs.items()}


class ViT(Encoder):
    """Vision transformer over any tokens: embed the rows, put cls in front, run the trunk.

    `masking`: "drop" encodes the visible rows alone (MAE); "replace" all of them, and the embedding needs a mask token
    (SimMIM); "leak" embeds all of them and runs the trunk on the visible ones (official Point-MAE, whose embedding
    sees hidden groups through its batch statistics).
    `positions`: added before every block, and so is then the cls token's; those of the embedding are added once.
    Taps: "block0", … for the rows, "block0/cls" for the cls token; "input0", … likewise.
    Shapes: EncoderInput content (B, V or N, *C) -> Latent features (B, V or N, D), cls (B, D) if there is one.
    Source: facebookresearch/mae, MCG-NJU/VideoMAE (same trunk, other embedding and biases).
    """

    trunk: Trunk

    def __init__(
        self,
        trunk: Trunk,
        embed: nn.Module,
        cls: ClsToken | None = None,
        masking: Literal["drop", "replace", "leak"] = "drop",
        positions: Positions | None = None,
    ):
        super().__init__()
        self.masking = masking
        self.trunk, self.embed, self.cls, self.positions = trunk, embed, cls, positions
        self.embed_dim, self.depth = trunk.dim, len(trunk.blocks)

    @property
    def provides(self) -> dict:
        return {"width": self.embed_dim}

    def forward(self, inputs: EncoderInput, taps: Sequence[str] = ()) -> Latent:
        if self.masking == "leak" and inputs.rows is not None:
            x = inputs.rows.gather(self.embed(replace(inputs, rows=None)))
            inputs = replace(inputs, layout=inputs.layout.gather(inputs.rows))
        else:
            x = self.embed(inputs)

        extra = int(self.cls is not None)
        plan = AttentionPlan.of(inputs.layout, extra)
        positions = None
        if self.positions is not None:
            positions = self.positions.of(inputs)

        if self.cls is None:
            x, outputs = self.trunk(x, plan, taps, positions=positions)
            return Latent(x, inputs.layout, rows=inputs.rows, taps=outputs, condition=inputs.condition)

        if positions is not None:
            positions = self.cls.before(positions)
        x, outputs = self.trunk(self.cls(x, add_position=positions is None), plan, taps, positions=positions)
        split_taps = {}
        for name, output in outputs.items():
            split_taps[name] = output[:, 1:]
            split_taps[f"{name}/cls"] = output[:, 0]

        return Latent(
            x[:, 1:],
            inputs.layout,
            rows=inputs.rows,
            cls=x[:, 0],
            taps=split_taps,
            condition=inputs.condition,
        )
