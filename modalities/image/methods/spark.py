"""SparK: its decoder, and official checkpoints (keyu-tian/SparK).

Decoder: every scale is filled up with its own mask embedding, then a light U-Net up to the pixels.

Checkpoints: ResNets and ConvNeXts, with or without the decoder. ConvNeXts have their first authors' names or
timm's.
Options of `SparK`, `SparseEncoder`, `MAEDecoder`, the networks:
- of the tensors: layers, channels, block (basic, bottleneck), cardinality, base_width, stem_type, stem_width,
  avg_down; depths, dims, layer_scale_init_value (0: no gamma); in_chans of encoders alone; the decoder's
  width, from 32 on; densify_norm (bn, ln, none); input_size, by a buffer of whole models;
- of `meta`, the saved `config` or the published recipe: input_size of encoders alone (224), mask_ratio (0.6,
  or 0.75 at 384 pixels);
- no number of one process changes by sbn;
- left out with a note: num_classes (fc, head). The norm before it stays in the network, which does not use
  it;
- refused: squeeze-and-excitation, in_chans with a decoder (it predicts three), other networks.
"""

import json
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.decoders import Decoder
from core.embeddings import token
from core.errors import UserError
from core.interop import IMAGENET, Official, Rule, State, assume, channel_overrides, image_size, raw_pixels
from core.tokens import Batch, Latent, Layout, Query, Rows, levels

NETWORK = "sparse_encoder.sp_cnn"
NET = "encoder.network"
DECODER = "readouts.main.decoder"
# Published networks by the number of blocks in their stages.
RESNETS = {
    (3, 4, 6, 3): "resnet50",
    (3, 4, 23, 3): "resnet101",
    (3, 8, 36, 3): "resnet152",
    (3, 24, 36, 3): "resnet200",
}
CONVNEXTS = {96: "convnext_small", 128: "convnext_base", 192: "convnext_large"}  # by the first width
BASIC_RESNETS = {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet34"}

# Decoder ------------------------------------------------------------------------------------------


class Densify(nn.Module):
    """One scale: normalised features where visible, the mask embedding elsewhere, one convolution over all.

    Shapes: Latent (B, K, C) on a grid (h, w) -> (B, dim, h, w).
    """

    def __init__(self, width: int, dim: int, norm: Literal["batch", "layer", "none"], kernel: int):
        super().__init__()
        self.norm = _norm(width, norm)
        self.mask_token = nn.Parameter(token(width, "cut"))

        # The coarsest map needs no projection where widths agree.
        self.project: nn.Module = nn.Identity()
        if kernel > 1 or width != dim:
            self.project = nn.Conv2d(width, dim, kernel, padding=kernel // 2)

    def forward(self, latent: Latent) -> Tensor:
        features, grid = latent.features, latent.layout.grid
        count = grid[0] * grid[1]
        rows = latent.rows or Rows.all(features.shape[0], count, features.device)

        visible = self.norm(features.flatten(0, 1)).view_as(features)
        is_visible = rows.to_mask(count)[..., None]
        filled = torch.where(is_visible, rows.scatter(visible, count), self.mask_token.to(visible.dtype))
        return self.project(filled.transpose(1, 2).unflatten(2, grid))


def _norm(width: int, kind: Literal["batch", "layer", "none"]) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    if kind == "batch":
        return nn.BatchNorm1d(width)
    return nn.LayerNorm(width, eps=1e-6)


class UpBlock(nn.Module):
    """Twice the size: transposed convolution, two convolutions with batch norm, ReLU6 between them."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.up = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.relu6(self.norm1(self.conv1(self.up(x))))
        return self.norm2(self.conv2(x))


class SparKDecoder(Decoder):
    """Sums the densified scales on the way up, `stride` times larger in all; cuts out the queries' patches.

    `dim`: width of the coarsest map, halved by every block and rounded down (80, 40, 20, 10, 5, 2). `norm`:
    of the encoder's maps, that of its kind of network where a config does not say.
    Raises: UserError for a `dim` of which nothing is left.
    Shapes: Latent pyramid, coarsest first -> dict of (B, M, values), channel fastest.
    Source: keyu-tian/SparK (densify, MAEDecoder).
    """

    def __init__(
        self,
        dim: int,
        widths: Sequence[int],
        norm: Literal["batch", "layer", "none"],
        stride: int,
        patch: Sequence[int],
        channels: int,
    ):
        super().__init__()
        blocks = stride.bit_length() - 1
        if dim >> blocks < 1:
            raise UserError(f"decoder.dim={dim} must be at least {1 << blocks}: it is halved {blocks} times.")

        self.dim = patch[0] * patch[1] * channels
        self.patch = tuple(patch)

        # A convolution of one pixel projects the coarsest map.
        self.scales = nn.ModuleList()
        kernel = 1
        for i, width in enumerate(widths):
            self.scales.append(Densify(width, dim >> i, norm, kernel=kernel))
            kernel = 3

        self.blocks = nn.ModuleList()
        for i in range(blocks):
            self.blocks.append(UpBlock(dim >> i, dim >> (i + 1)))

        self.out = nn.Conv2d(dim >> blocks, channels, 1)
        self._initialise()

    def forward(
        self,
        latent: Latent,
        layout: Layout,
        queries: Mapping[str, Query],
        others: Mapping[str, Latent],
    ) -> dict[str, Tensor]:
        maps = [scale(level) for scale, level in zip(self.scales, levels(latent), strict=True)]

        # Blocks below the finest scale have no map to add.
        x = maps[0]
        for i, block in enumerate(self.blocks):
            if 0 < i < len(maps):
                x = x + maps[i]
            x = block(x)
        pixels = self.out(x)

        # (B, C, H, W) -> (B, N, *patch, C)
        grid = [side // p for side, p in zip(pixels.shape[2:], self.patch, strict=True)]
        tiles = pixels.unflatten(3, (grid[1], -1)).unflatten(2, (grid[0], -1))
        patches = tiles.permute(0, 2, 4, 3, 5, 1).flatten(1, 2)

        predictions = {}
        for name, query in queries.items():
            predictions[name] = query.rows_in(layout, patches).gather(patches).flatten(2)
        return predictions

    def _initialise(self) -> None:
        """Densifying convolutions keep PyTorch's own start, as published."""
        for layer in (*self.blocks.modules(), self.out):
            if isinstance(layer, nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=0.02)
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is not None:
                nn.init.zeros_(layer.bias)


# Official checkpoints -----------------------------------------------------------------------------


def _overrides(state: State, settings: Mapping[str, Any]) -> list[str]:
    # Options are those of timm's networks: by our names, which are timm's, they show in all kinds of files.
    prefix = f"{NET}."
    network = {}
    for key, value in SPARK.keys(state).items():
        if key.startswith(prefix):
            network[key.removeprefix(prefix)] = value

    if "layer1.0.conv1.weight" in network:
        stem, overrides = _resnet(network)
    else:
        stem, overrides = _convnext(network)

    side = _side(state, settings)
    ratio = 0.6
    if side == 384:
        ratio = 0.75
    overrides += [
        "size=small",  # nano narrows its network
        f"modality.size={[side, side]}",
        f"method.masker.ratio={settings.get('mask_ratio', ratio)}",
        *channel_overrides(stem.shape[1]),
    ]
    if "dense_decoder.dec.0.up_sample.weight" in state:
        overrides += _decoder(state, stem.shape[1])
    return overrides


def _side(state: State, settings: Mapping[str, Any]) -> int:
    """Pixels of a side: of a buffer that the official class keeps, and encoder-only files lack."""
    if "norm_black" in state:
        return state["norm_black"].shape[-1]
    size = image_size(settings) or image_size({"img_size": settings.get("sparse_encoder.input_size")})
    if size is None:
        assume("input_size", 224, "An encoder's convolutions do not show the size of pictures.")
        return 224
    if size[0] != size[1]:
        raise UserError(f"input_size={list(size)}: official SparK has square pictures alone.")
    return size[0]


def _resnet(network: State) -> tuple[Tensor, list[str]]:
    """The first convolution, and overrides: timm's arguments of a ResNet, read from its tensors."""
    if any(".se." in key for key in network):
        raise UserError(
            "The checkpoint's ResNet has squeeze-and-excitation (…se.…), which official SparK averages over "
            "hidden places too: its numbers are not offered."
        )

    stages = range(1, 5)
    blocks = tuple(_count(network, f"layer{i}.") for i in stages)
    is_basic = "layer1.0.conv3.weight" not in network
    if is_basic:
        name = BASIC_RESNETS.get(blocks, "resnet18")
        widths = [_width(network, i, "conv2") for i in stages]
    else:
        # Bottlenecks end four times as wide as timm's `channels` are.
        name = RESNETS.get(blocks, "resnet50")
        widths = [_width(network, i, "conv3") // 4 for i in stages]
    options: dict[str, Any] = {"layers": list(blocks), "channels": widths}

    # timm: a group has floor(channels * base_width / 64) channels.
    inner, group = network["layer4.0.conv2.weight"].shape[:2]
    if not is_basic and (inner, group) != (widths[3], widths[3]):
        options |= {"cardinality": inner // group, "base_width": ceil(64 * group / widths[3])}

    # A deep stem has three convolutions instead of one.
    stem_name = "conv1.weight"
    if "conv1.0.weight" in network:
        stem_name = "conv1.0.weight"
        narrow, wide = network[stem_name].shape[0], network["conv1.3.weight"].shape[0]
        options |= {"stem_width": wide, "stem_type": "deep_tiered"}
        if narrow == wide:
            options["stem_type"] = "deep"
    if any("downsample.1.weight" in key and value.dim() == 4 for key, value in network.items()):
        options["avg_down"] = True

    return network[stem_name], [f"method.encoder.backbone={name}", f"method.encoder.options={_flow(options)}"]


def _convnext(network: State) -> tuple[Tensor, list[str]]:
    if "stem.0.weight" not in network or "stages.0.blocks.0.conv_dw.weight" not in network:
        raise UserError(
            "The checkpoint is neither a ResNet of timm nor a ConvNeXt under its official or timm's names; "
            "other networks are not read."
        )

    widths, depths = [], []
    for i in range(4):
        widths.append(network[f"stages.{i}.blocks.0.conv_dw.weight"].shape[0])
        depths.append(_count(network, f"stages.{i}.blocks."))
    options: dict[str, Any] = {"depths": depths, "dims": widths}
    if "stages.0.blocks.0.gamma" not in network:
        options["ls_init_value"] = None

    name = CONVNEXTS.get(widths[0], "convnext_small")
    overrides = [f"method.encoder.backbone={name}", f"method.encoder.options={_flow(options)}"]
    return network["stem.0.weight"], overrides


def _decoder(state: State, channels: int) -> list[str]:
    if channels != 3:
        message = f"in_chans={channels}: SparK's decoder predicts three channels; load the encoder alone."
        raise UserError(message)

    norm = "none"
    if "densify_norms.0.running_mean" in state:
        norm = "batch"
    elif "densify_norms.0.weight" in state:
        norm = "layer"
    width = state["dense_decoder.dec.0.up_sample.weight"].shape[0]
    return [f"method.{DECODER}.dim={width}", f"method.{DECODER}.norm={norm}"]


def _width(network: State, stage: int, layer: str) -> int:
    return network[f"layer{stage}.0.{layer}.weight"].shape[0]


def _count(state: State, prefix: str) -> int:
    """How many numbered blocks there are under `prefix`."""
    count = 0
    for key in state:
        if key.startswith(prefix):
            number = int(key.removeprefix(prefix).split(".")[0])
            count = max(count, number + 1)
    return count


def _flow(options: Mapping[str, Any]) -> str:
    """A mapping as YAML on one line, of which JSON is a part."""
    return json.dumps(options)


def _replay(io: State, settings: Mapping[str, Any]) -> tuple[Batch, dict]:
    return Batch({"image": raw_pixels(io["inp"], *IMAGENET)}), {"image": io["mask_noise"]}


def _token(x: Tensor) -> tuple[Tensor]:
    return (x.flatten()[None, None],)


_STATE = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_CNN = rf"(?:{NETWORK.replace('.', '[.]')}[.])?"
_NORM_NOTE = "the classifier's norm, kept in the network for export; the encoder's maps do not go through it"

SPARK = Official(
    method="spark",
    modality="image",
    overrides=_overrides,
    replay=_replay,
    rules=(
        Rule(r"imn_[ms]|norm_black", ()),  # leftovers of the official class
        Rule(rf"{_CNN}(?:fc|head|head\.fc)\.(?:weight|bias)", (), note="the classifier, left out"),
        Rule(rf"{_CNN}(?:head\.)?norm\.(weight|bias)", (rf"{NET}.head.norm.\1",), note=_NORM_NOTE),
        Rule(rf"{_CNN}(conv1(?:\.\d)?|bn1|layer\d\..*)\.{_STATE}", (rf"{NET}.\1.\2",)),
        Rule(rf"{_CNN}downsample_layers\.0\.(\d)\.{_STATE}", (rf"{NET}.stem.\1.\2",)),
        Rule(rf"{_CNN}downsample_layers\.(\d)\.(\d)\.{_STATE}", (rf"{NET}.stages.\1.downsample.\2.\3",)),
        Rule(rf"{_CNN}stages\.(\d)\.(\d+)\.gamma", (rf"{NET}.stages.\1.blocks.\2.gamma",)),
        Rule(rf"{_CNN}stages\.(\d)\.(\d+)\.dwconv\.{_STATE}", (rf"{NET}.stages.\1.blocks.\2.conv_dw.\3",)),
        Rule(rf"{_CNN}stages\.(\d)\.(\d+)\.norm\.{_STATE}", (rf"{NET}.stages.\1.blocks.\2.norm.\3",)),
        Rule(rf"{_CNN}stages\.(\d)\.(\d+)\.pwconv([12])\.{_STATE}", (rf"{NET}.stages.\1.blocks.\2.mlp.fc\3.\4",)),
        Rule(rf"{_CNN}((?:stem\.\d|stages\.\d\.(?:downsample\.\d|blocks\..*))\.{_STATE})", (rf"{NET}.\1",)),
        Rule(rf"{_CNN}(stages\.\d\.blocks\.\d+\.gamma)", (rf"{NET}.\1",)),
        Rule(r"mask_tokens\.(\d)", (rf"{DECODER}.scales.\1.mask_token",), split=_token),
        Rule(rf"densify_norms\.(\d)\.{_STATE}", (rf"{DECODER}.scales.\1.norm.\2",)),
        Rule(rf"densify_projs\.(\d)\.{_STATE}", (rf"{DECODER}.scales.\1.project.\2",)),
        Rule(rf"dense_decoder\.dec\.(\d)\.up_sample\.{_STATE}", (rf"{DECODER}.blocks.\1.up.\2",)),
        Rule(rf"dense_decoder\.dec\.(\d)\.conv\.0\.{_STATE}", (rf"{DECODER}.blocks.\1.conv1.\2",)),
        Rule(rf"dense_decoder\.dec\.(\d)\.conv\.1\.{_STATE}", (rf"{DECODER}.blocks.\1.norm1.\2",)),
        Rule(rf"dense_decoder\.dec\.(\d)\.conv\.3\.{_STATE}", (rf"{DECODER}.blocks.\1.conv2.\2",)),
        Rule(rf"dense_decoder\.dec\.(\d)\.conv\.4\.{_STATE}", (rf"{DECODER}.blocks.\1.norm2.\2",)),
        Rule(rf"dense_decoder\.proj\.{_STATE}", (rf"{DECODER}.out.\1",)),
    ),
)
