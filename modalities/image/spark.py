"""Official SparK checkpoints (keyu-tian/SparK): ResNets of timm, and ConvNeXts under their first authors' names."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from core.errors import UserError
from core.interop import Official, Rule, State, raw_pixels
from core.tokens import Batch
from modalities.image.official import IMAGENET

NETWORK = "sparse_encoder.sp_cnn"
DECODER = "readouts.main.decoder"
# Published networks by the number of blocks in their stages.
RESNETS = {
    (3, 4, 6, 3): "resnet50",
    (3, 4, 23, 3): "resnet101",
    (3, 8, 36, 3): "resnet152",
    (3, 24, 36, 3): "resnet200",
}


def _overrides(state: State, settings: Mapping[str, Any]) -> list[str]:
    state = {key.removeprefix(f"{NETWORK}."): value for key, value in state.items()}
    named = _resnet(state) if "layer1.0.conv1.weight" in state else _convnext(state)
    side = settings.get("input_size") or _side(state)
    overrides = [
        "size=small",  # nano narrows its network
        *named,
        f"modality.size={[side, side]}",
        f"method.masker.ratio={settings.get('mask_ratio', 0.75 if side == 384 else 0.6)}",
    ]
    if "dense_decoder.dec.0.up_sample.weight" in state:
        overrides.append(f"method.{DECODER}.dim={state['dense_decoder.dec.0.up_sample.weight'].shape[0]}")
    return overrides


def _side(state: State) -> int:
    """Pixels of a side: of a buffer that the official class keeps; encoder-only files lack it."""
    return state["norm_black"].shape[-1] if "norm_black" in state else 224


def _resnet(state: State) -> list[str]:
    blocks = tuple(_count(state, f"layer{i}.") for i in range(1, 5))
    if "layer1.0.conv3.weight" not in state:
        raise UserError("The checkpoint's ResNet has no bottlenecks; published ones are ResNet-50, 101, 152 and 200.")
    widths = [state[f"layer{i}.0.conv1.weight"].shape[0] for i in range(1, 5)]
    options = f"method.encoder.options={{layers: {list(blocks)}, channels: {widths}}}"
    return [f"method.encoder.backbone={RESNETS.get(blocks, 'resnet50')}", options]


def _convnext(state: State) -> list[str]:
    if "downsample_layers.0.0.weight" not in state:
        raise UserError("The checkpoint is neither a ResNet of timm nor a ConvNeXt under its official names.")
    depths = [_count(state, f"stages.{i}.") for i in range(4)]
    widths = [state[f"stages.{i}.0.gamma"].shape[0] for i in range(4)]
    name = {96: "convnext_small", 128: "convnext_base", 192: "convnext_large"}.get(widths[0], "convnext_small")
    return [
        f"method.encoder.backbone={name}",
        f"method.encoder.options={{depths: {depths}, dims: {widths}}}",
    ]


def _count(state: State, prefix: str) -> int:
    return 1 + max((int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix)), default=-1)


def _replay(io: State, settings: Mapping[str, Any]) -> tuple[Batch, dict]:
    return Batch({"image": raw_pixels(io["inp"], *IMAGENET)}), {"image": io["mask_noise"]}


def _token(x: Tensor) -> tuple[Tensor]:
    return (x.flatten()[None, None],)


def _none(x: Tensor) -> tuple:
    return ()


_STATE = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_CNN = rf"(?:{NETWORK.replace('.', '[.]')}[.])?"
_NET = "encoder.network"

SPARK = Official(
    method="spark",
    modality="image",
    overrides=_overrides,
    replay=_replay,
    rules=(
        Rule(r"imn_[ms]|norm_black", (), _none),  # leftovers of the official class
        Rule(rf"{_CNN}(conv1|bn1|layer\d\..*)\.{_STATE}", (rf"{_NET}.\1.\2",)),
        Rule(rf"{_CNN}downsample_layers\.0\.(\d)\.{_STATE}", (rf"{_NET}.stem.\1.\2",)),
        Rule(rf"{_CNN}downsample_layers\.(\d)\.(\d)\.{_STATE}", (rf"{_NET}.stages.\1.downsample.\2.\3",)),
        Rule(rf"{_CNN}stages\.(\d)\.(\d+)\.gamma", (rf"{_NET}.stages.\1.blocks.\2.gamma",)),
        Rule(rf"{_CNN}stages\.(\d)\.(\d+)\.dwconv\.{_STATE}", (rf"{_NET}.stages.\1.blocks.\2.conv_dw.\3",)),
        Rule(rf"{_CNN}stages\.(\d)\.(\d+)\.norm\.{_STATE}", (rf"{_NET}.stages.\1.blocks.\2.norm.\3",)),
        Rule(rf"{_CNN}stages\.(\d)\.(\d+)\.pwconv([12])\.{_STATE}", (rf"{_NET}.stages.\1.blocks.\2.mlp.fc\3.\4",)),
        Rule(r"mask_tokens\.(\d)", (rf"{DECODER}.scales.\1.mask_token",), _token),
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
