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


def official_i2p_mae(
    dims: tuple[int, ...] = (12, 24, 48), members: int = 4, residuals: int = 1, clip: int = 16
) -> dict[str, torch.Tensor]:
    """A checkpoint in ZrrSkywalker/I2P-MAE's layout, of random numbers, 3 heads. `clip`: width of the 2D model."""
    torch.manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"mask_token": (1, dims[-1])}

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    def norm(name: str, dim: int, batch: bool = False) -> None:
        layer(name, dim)
        if batch:
            shapes.update({f"{name}.running_mean": (dim,), f"{name}.running_var": (dim,)})

    def block(name: str, dim: int) -> None:
        norm(f"{name}.norm1", dim)
        norm(f"{name}.norm2", dim)
        layer(f"{name}.attn.qkv", 3 * dim, dim, bias=False)
        layer(f"{name}.attn.proj", dim, dim)
        layer(f"{name}.mlp.fc1", 4 * dim, dim)
        layer(f"{name}.mlp.fc2", dim, 4 * dim)

    def positions(name: str, dim: int) -> None:
        layer(f"{name}.0", dim, 3)
        layer(f"{name}.2", dim, dim)

    for level, dim in enumerate(dims):
        first, second, third = (8, 8, 16) if level == 0 else (dims[level - 1], dims[level - 1], dim)
        embed = f"h_encoder.token_embed.{level}"
        layer(f"{embed}.first_conv.0", first, 3 if level == 0 else first, 1)
        norm(f"{embed}.first_conv.1", first, batch=True)
        layer(f"{embed}.first_conv.3", second, first, 1)
        layer(f"{embed}.second_conv.0", third, 2 * second, 1)
        norm(f"{embed}.second_conv.1", third, batch=True)
        layer(f"{embed}.second_conv.3", dim, third, 1)
        positions(f"h_encoder.encoder_pos_embeds.{level}", dim)
        block(f"h_encoder.encoder_blocks.{level}.blocks.0", dim)
        norm(f"h_encoder.encoder_norms.{level}", dim)

    coarse, fine = dims[-1], dims[-2]
    for stage, dim in enumerate((coarse, fine)):
        positions(f"decoder_pos_embeds.{stage}", dim)
        block(f"h_decoder.{stage}.blocks.0", dim)
    norm("decoder_norm", fine)
    layer("token_prop.0.fuse.net.0", fine, coarse + fine, 1)
    norm("token_prop.0.fuse.net.1", fine, batch=True)
    for number in range(residuals):
        for net in ("net1", "net2"):
            layer(f"token_prop.0.extraction.operation.{number}.{net}.0", fine, fine, 1)
            norm(f"token_prop.0.extraction.operation.{number}.{net}.1", fine, batch=True)
    layer("rec_head_3d", 3 * members, fine, 1)
    layer("rec_head_2d", members * 5 * 3, fine, 1)

    visual = "clip_model.visual"
    shapes |= {f"{visual}.class_embedding": (clip,), f"{visual}.positional_embedding": (5, clip)}
    shapes |= {f"{visual}.conv1.weight": (clip, 3, 16, 16), f"{visual}.proj": (clip, 5)}
    for name in ("ln_pre", "ln_post"):
        norm(f"{visual}.{name}", clip)
    for number in range(2):
        resblock = f"{visual}.transformer.resblocks.{number}"
        shapes |= {f"{resblock}.attn.in_proj_weight": (3 * clip, clip), f"{resblock}.attn.in_proj_bias": (3 * clip,)}
        layer(f"{resblock}.attn.out_proj", clip, clip)
        layer(f"{resblock}.mlp.c_fc", 4 * clip, clip)
        layer(f"{resblock}.mlp.c_proj", clip, 4 * clip)
        norm(f"{resblock}.ln_1", clip)
        norm(f"{resblock}.ln_2", clip)

    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    for name, value in list(tensors.items()):
        if name.endswith("running_var"):
            value.abs_()
            tensors[name.replace("running_var", "num_batches_tracked")] = torch.tensor(1)
    return tensors
