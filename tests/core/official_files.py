"""Checkpoints in the layouts of official code, of random numbers."""

import torch


def official_mae(dim: int = 192, depth: int = 2, width: int = 512) -> dict[str, torch.Tensor]:
    """A checkpoint in facebookresearch/mae's layout, of random numbers: 32-pixel images in patches of 8."""
    torch.manual_seed(0)

    def block(name: str, size: int) -> dict[str, tuple[int, ...]]:
        shapes = {"norm1": (size,), "attn.qkv": (3 * size, size), "attn.proj": (size, size), "norm2": (size,)}
        shapes |= {"mlp.fc1": (4 * size, size), "mlp.fc2": (size, 4 * size)}
        named = {f"{name}.{part}.weight": shape for part, shape in shapes.items()}
        return named | {f"{name}.{part}.bias": shape[:1] for part, shape in shapes.items()}

    shapes = {"cls_token": (1, 1, dim), "pos_embed": (1, 17, dim), "mask_token": (1, 1, width)}
    shapes |= {"patch_embed.proj.weight": (dim, 3, 8, 8), "patch_embed.proj.bias": (dim,)}
    shapes |= {"norm.weight": (dim,), "norm.bias": (dim,), "decoder_pos_embed": (1, 17, width)}
    shapes |= {"decoder_embed.weight": (width, dim), "decoder_embed.bias": (width,)}
    shapes |= {"decoder_norm.weight": (width,), "decoder_norm.bias": (width,)}
    shapes |= {"decoder_pred.weight": (192, width), "decoder_pred.bias": (192,)}
    for index in range(depth):
        shapes |= block(f"blocks.{index}", dim)
    shapes |= block("decoder_blocks.0", width)
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def official_videomae() -> dict[str, torch.Tensor]:
    """A checkpoint in MCG-NJU/VideoMAE's layout, of random numbers: patches of 2 frames and 8 × 8 pixels."""
    torch.manual_seed(0)
    dim = 192

    def block(name: str) -> dict[str, tuple[int, ...]]:
        shapes = {"attn.qkv.weight": (3 * dim, dim), "attn.q_bias": (dim,), "attn.v_bias": (dim,)}
        shapes |= {"attn.proj.weight": (dim, dim), "attn.proj.bias": (dim,)}
        shapes |= {"mlp.fc1.weight": (2 * dim, dim), "mlp.fc1.bias": (2 * dim,)}
        shapes |= {"mlp.fc2.weight": (dim, 2 * dim), "mlp.fc2.bias": (dim,)}
        shapes |= {f"norm{number}.{part}": (dim,) for number in (1, 2) for part in ("weight", "bias")}
        return {f"{name}.{part}": shape for part, shape in shapes.items()}

    shapes = {"encoder.patch_embed.proj.weight": (dim, 3, 2, 8, 8), "encoder.patch_embed.proj.bias": (dim,)}
    shapes |= block("encoder.blocks.0") | block("encoder.blocks.1") | block("decoder.blocks.0")
    shapes |= {f"{part}.norm.{kind}": (dim,) for part in ("encoder", "decoder") for kind in ("weight", "bias")}
    shapes |= {"encoder_to_decoder.weight": (dim, dim), "mask_token": (1, 1, dim)}
    shapes |= {"decoder.head.weight": (384, dim), "decoder.head.bias": (384,)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def official_point_mae(dim: int = 48, depth: int = 2) -> dict[str, torch.Tensor]:
    """A checkpoint in Pang-Yatian/Point-MAE's layout, of random numbers: groups of 32 points."""
    torch.manual_seed(0)

    def block(name: str) -> dict[str, tuple[int, ...]]:
        shapes = {"attn.qkv.weight": (3 * dim, dim), "attn.proj.weight": (dim, dim), "attn.proj.bias": (dim,)}
        shapes |= {"mlp.fc1.weight": (4 * dim, dim), "mlp.fc1.bias": (4 * dim,)}
        shapes |= {"mlp.fc2.weight": (dim, 4 * dim), "mlp.fc2.bias": (dim,)}
        shapes |= {f"norm{number}.{part}": (dim,) for number in (1, 2) for part in ("weight", "bias")}
        return {f"{name}.{part}": shape for part, shape in shapes.items()}

    def convolution(name: str, width: int, out: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (out, width, 1), f"{name}.bias": (out,)}

    def layer(name: str, width: int, out: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}

    embedding = "MAE_encoder.encoder"
    shapes = {"mask_token": (1, 1, dim), **convolution("increase_dim.0", dim, 96)}
    shapes |= convolution(f"{embedding}.first_conv.0", 3, 128) | convolution(f"{embedding}.first_conv.3", 128, 256)
    shapes |= convolution(f"{embedding}.second_conv.0", 512, 512) | convolution(f"{embedding}.second_conv.3", 512, dim)
    for name, width in (("first_conv", 128), ("second_conv", 512)):
        parts = ("weight", "bias", "running_mean", "running_var")
        shapes |= {f"{embedding}.{name}.1.{part}": (width,) for part in parts}

    for positions in ("MAE_encoder.pos_embed", "decoder_pos_embed"):
        shapes |= layer(f"{positions}.0", 3, 128) | layer(f"{positions}.2", 128, dim)
    for index in range(depth):
        shapes |= block(f"MAE_encoder.blocks.blocks.{index}")
    shapes |= block("MAE_decoder.blocks.0")
    shapes |= {f"MAE_{part}.norm.{kind}": (dim,) for part in ("encoder", "decoder") for kind in ("weight", "bias")}
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    for name in ("first_conv", "second_conv"):
        tensors[f"{embedding}.{name}.1.running_var"].abs_()
        tensors[f"{embedding}.{name}.1.num_batches_tracked"] = torch.tensor(1)
    return tensors
