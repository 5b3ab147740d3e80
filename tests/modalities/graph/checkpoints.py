"""Graph checkpoints under the official names, of random numbers, and how far two tensors are apart."""

from dataclasses import dataclass

import torch
from torch import Tensor

NODES, FEATURES, WIDTH = 14, 6, 8


@dataclass(frozen=True, kw_only=True)
class Model:
    """An official constructor's arguments."""

    encoder: str = "gat"
    decoder: str = "gat"
    features: int = FEATURES
    depth: int = 2
    heads: int = 2
    norm: str | None = None
    activation: str | None = "prelu"
    residual: bool = False
    concat: bool = False
    loss: str = "sce"
    drop_edges: float = 0.0
    slope: float = 0.3
    # GraphMAE2 alone
    is_second: bool = False
    decoder_depth: int = 1
    decoder_width: int = WIDTH
    remask: str = "random"

    @property
    def meta(self) -> dict:
        return {
            "mask_rate": 0.5, "remask_rate": 0.4, "num_remasking": 2, "remask_method": self.remask, "lam": 0.7,
            "replace_rate": 0.0, "feat_drop": 0.0, "attn_drop": 0.0, "negative_slope": self.slope, "alpha_l": 2,
            "nhead": self.heads, "loss_fn": self.loss, "residual": self.residual, "activation": self.activation,
            "drop_edge_rate": self.drop_edges,
        }  # fmt: skip


def official_state(model: Model) -> dict[str, Tensor]:
    shapes = {"enc_mask_token": (1, model.features)}
    inputs = WIDTH * (model.depth if model.concat else 1)
    shapes["encoder_to_decoder.weight"] = (WIDTH, inputs)

    for index in range(model.depth):
        size = model.features if index == 0 else WIDTH
        is_last = index == model.depth - 1
        shapes |= layer_shapes(model, model.encoder, "encoder", index, size, WIDTH, is_last, encoding=True)

    for index in range(model.decoder_depth):
        is_last = index == model.decoder_depth - 1
        size = WIDTH if index == 0 else model.decoder_width
        out = model.features if is_last else model.decoder_width
        shapes |= layer_shapes(model, model.decoder, "decoder", index, size, out, is_last, encoding=False)

    if model.is_second:
        shapes["dec_mask_token"] = (1, WIDTH)
        shapes |= {name.replace("encoder.", "encoder_ema."): s for name, s in shapes.items() if "encoder." in name}
        for name in ("projector", "projector_ema"):
            shapes |= linear_shapes(f"{name}.0", WIDTH, 256) | linear_shapes(f"{name}.2", 256, WIDTH)
            shapes[f"{name}.1.weight"] = (1,)
        shapes |= {"predictor.0.weight": (1,)} | linear_shapes("predictor.1", WIDTH, WIDTH)
    return random_state(shapes)


def random_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(1)
    state = {name: 0.5 * torch.randn(shape, generator=drawn) for name, shape in shapes.items()}
    for name in state:
        if name.endswith("running_var"):
            state[name] = state[name].abs() + 0.5
        if name.endswith(".eps"):
            state[name] = torch.zeros(1)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(3)
    return state


def linear_shapes(name: str, size: int, out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, size), f"{name}.bias": (out,)}


def norm_shapes(model: Model, name: str, width: int) -> dict[str, tuple[int, ...]]:
    if model.norm not in ("layernorm", "batchnorm"):
        return {}
    shapes = {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    if model.norm == "batchnorm":
        shapes |= {f"{name}.running_mean": (width,), f"{name}.running_var": (width,)}
        shapes[f"{name}.num_batches_tracked"] = ()
    return shapes


def layer_shapes(
    model: Model, kind: str, part: str, index: int, size: int, out: int, is_last: bool, encoding: bool
) -> dict[str, tuple[int, ...]]:
    if kind == "linear":
        return linear_shapes(part, size, out)
    if kind == "mlp":
        return (
            linear_shapes(f"{part}.0", size, WIDTH)
            | {f"{part}.1.weight": (1,)}
            | linear_shapes(f"{part}.3", WIDTH, out)
        )

    name = layer_name(kind, part, index)
    is_plain = is_last and not encoding  # no norm, activation, residual
    has_slope = model.activation == "prelu" and not is_plain
    shapes: dict[str, tuple[int, ...]] = {}
    if kind == "gin":
        is_bare = is_plain or (is_last and model.norm is None)
        mlp = f"{name}.apply_func" if is_bare else f"{name}.apply_func.mlp"
        shapes |= {f"{name}.eps": (1,)}
        shapes |= linear_shapes(f"{mlp}.linears.0", size, WIDTH) | linear_shapes(f"{mlp}.linears.1", WIDTH, out)
        shapes |= norm_shapes(model, f"{mlp}.norms.0", WIDTH)
        shapes |= {f"{mlp}.activations.0.weight": (1,)} if model.activation == "prelu" else {}
        if not is_bare:
            shapes |= norm_shapes(model, f"{name}.apply_func.norm", out)
            shapes |= {f"{name}.apply_func.act.weight": (1,)} if has_slope else {}
    else:
        shapes |= linear_shapes(f"{name}.fc", size, out)
        if kind != "gcn":
            del shapes[f"{name}.fc.bias"]
        if kind == "gat":
            heads = 1 if is_plain else model.heads
            shapes |= {f"{name}.attn_{end}": (1, heads, out // heads) for end in "lr"} | {f"{name}.bias": (out,)}
        if not is_plain:
            shapes |= norm_shapes(model, f"{name}.norm", out)
        # By a slip, an attention encoder of one layer gets no activation.
        if has_slope and (kind == "gcn" or model.depth > 1):
            shapes[f"{name}.{'_' if kind == 'gcn' else ''}activation.weight"] = (1,)
    if model.residual and not is_plain and size != out:
        shapes[f"{name}.res_fc.weight"] = (out, size)
    return shapes


def layer_name(kind: str, part: str, index: int) -> str:
    stacks = {"gat": "gat_layers", "dotgat": "gat_layers", "gcn": "gcn_layers", "gin": "layers"}
    return f"{part}.{stacks[kind]}.{index}"


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.detach() - theirs.detach()).abs().max() / theirs.detach().abs().max())
