"""SparK's checkpoints of other networks and options than the recorded ones, beside the official computation.

That is: ordinary timm networks in eval mode, every layer's output multiplied by the mask, and the decoder as formulas.
"""

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close

from core.errors import UserError
from core.interop import IMAGENET, load_official, unwrap
from core.tokens import Batch
from modalities.image import encoder

CNN = "sparse_encoder.sp_cnn."
RESNET = {"layers": [1, 2, 1, 1], "channels": [8, 16, 24, 64]}
CONVNEXT = {"depths": [1, 1, 2, 1], "dims": [16, 24, 32, 48]}
# timm's first names of ConvNeXt's parts, as its first authors have them.
FIRST_NAMES = {
    r"stem": "downsample_layers.0",
    ".blocks": "",
    "conv_dw": "dwconv",
    "mlp.fc": "pwconv",
    "head.norm": "norm",
}


def network(name: str, **options) -> nn.Module:
    """A timm network with every tensor at work."""
    made = timm.create_model(name, num_classes=5, **options).eval()
    generator = torch.Generator().manual_seed(0)
    for key, x in made.state_dict().items():
        if x.is_floating_point() and x.dim() < 2:
            x.copy_(torch.rand(x.shape, generator=generator) + 0.5 * ("var" in key or "weight" in key))
    return made


def first_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A timm ConvNeXt's tensors under the names of facebookresearch/ConvNeXt."""
    renamed = {}
    for key, x in state.items():
        if ".downsample." in key:
            stage = int(key.split(".")[1])
            key = key.replace(f"stages.{stage}.downsample", f"downsample_layers.{stage}")
        for ours, theirs in FIRST_NAMES.items():
            key = key.replace(ours, theirs)
        renamed[key] = x
    return renamed


def decoder_state(widths: list[int], dim: int, norm: str) -> dict[str, Tensor]:
    """Densifying layers and `MAEDecoder(32, dim)`; every width halved and rounded down."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i, width in enumerate(widths):
        out, kernel = dim // 2**i, 1 if i == 0 else 3
        shapes |= {f"mask_tokens.{i}": (1, width, 1, 1), **normalisation(f"densify_norms.{i}", width, norm)}
        if i or width != dim:
            shapes |= {f"densify_projs.{i}.weight": (out, width, kernel, kernel), f"densify_projs.{i}.bias": (out,)}
    for i in range(5):
        width, out, name = dim // 2**i, dim // 2 ** (i + 1), f"dense_decoder.dec.{i}"
        shapes |= {f"{name}.up_sample.weight": (width, width, 4, 4), f"{name}.up_sample.bias": (width,)}
        shapes |= {f"{name}.conv.0.weight": (width, width, 3, 3), **normalisation(f"{name}.conv.1", width, "bn")}
        shapes |= {f"{name}.conv.3.weight": (out, width, 3, 3), **normalisation(f"{name}.conv.4", out, "bn")}
    shapes |= {"dense_decoder.proj.weight": (3, dim // 32, 1, 1), "dense_decoder.proj.bias": (3,)}

    generator = torch.Generator().manual_seed(1)
    drawn = {key: 0.2 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    return {key: x.abs() + 0.5 if "var" in key else x for key, x in drawn.items()}


def normalisation(name: str, width: int, kind: str) -> dict[str, tuple[int, ...]]:
    parts = {"bn": ("weight", "bias", "running_mean", "running_var"), "ln": ("weight", "bias"), "none": ()}
    return {f"{name}.{part}": (width,) for part in parts[kind]}


class Masked:
    """The official way to compute visible features: dense layers, every output times the mask."""

    LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.LayerNorm)

    def __init__(self, made: nn.Module, active: Tensor):
        self.made, self.active = made, active
        for layer in made.modules():
            if isinstance(layer, self.LAYERS) or type(layer).__name__ == "ConvNeXtBlock":
                layer.register_forward_hook(self._mask)

    def _mask(self, layer: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
        if output.dim() != 4:
            return None
        channels_last = isinstance(layer, nn.LayerNorm) and output.shape[1] != layer.normalized_shape[0]
        mask = spread(self.active, output.shape[1 if channels_last else 2])
        return output * (mask.permute(0, 2, 3, 1) if channels_last else mask)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Coarsest first."""
        x = x * spread(self.active, x.shape[2])
        found = self.made.forward_intermediates(x, intermediates_only=True)
        return [one for one in reversed(found) if x.shape[2] // one.shape[2] >= 4]


def spread(active: Tensor, side: int) -> Tensor:
    """(B, 1, f, f) -> (B, 1, side, side)."""
    times = side // active.shape[-1]
    return active.repeat_interleave(times, 2).repeat_interleave(times, 3).float()


def normalised(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    if f"{name}.running_mean" in state:
        statistics = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, *statistics, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)
    if f"{name}.weight" not in state:
        return x
    x = x.permute(0, 2, 3, 1)
    return F.layer_norm(x, x.shape[3:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6).permute(0, 3, 1, 2)


def reconstruct(state: dict[str, Tensor], maps: list[Tensor], active: Tensor) -> Tensor:
    """Card of SparK, section 2, steps 4 and 5."""
    x = 0
    for i in range(5):
        if i < len(maps):
            features, token = normalised(state, f"densify_norms.{i}", maps[i]), state[f"mask_tokens.{i}"]
            filled = torch.where(spread(active, features.shape[2]) > 0, features, token)
            weight = state.get(f"densify_projs.{i}.weight")
            if weight is not None:
                filled = F.conv2d(filled, weight, state[f"densify_projs.{i}.bias"], padding=weight.shape[2] // 2)
            x = x + filled
        name = f"dense_decoder.dec.{i}"
        x = F.conv_transpose2d(x, state[f"{name}.up_sample.weight"], state[f"{name}.up_sample.bias"], 2, 1)
        x = normalised(state, f"{name}.conv.1", F.conv2d(x, state[f"{name}.conv.0.weight"], padding=1))
        x = normalised(state, f"{name}.conv.4", F.conv2d(F.relu6(x), state[f"{name}.conv.3.weight"], padding=1))
    return F.conv2d(x, state["dense_decoder.proj.weight"], state["dense_decoder.proj.bias"])


def patches(x: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, N, 3072), channel fastest."""
    return x.unflatten(3, (-1, 32)).unflatten(2, (-1, 32)).permute(0, 2, 4, 3, 5, 1).flatten(1, 2).flatten(2)


def normalise(x: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    return (x - mean) / std


CASES = {
    "basic blocks, width 80, batch norm": ("resnet18", RESNET, 80, "bn"),
    "groups, layer norm": ("resnext50_32x4d", {**RESNET, "cardinality": 4, "base_width": 32}, 64, "ln"),
    "wide, no norm": ("wide_resnet50_2", RESNET, 64, "none"),
    "deep stem, pooled shortcuts": ("resnet50d", RESNET, 64, "bn"),
    "tiered stem": ("resnet10t", RESNET, 33, "bn"),
    "ConvNeXt, batch norm": ("convnext_small", CONVNEXT, 48, "bn"),
    "ConvNeXt without layer scale": ("convnext_small", {**CONVNEXT, "ls_init_value": None}, 80, "ln"),
}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_the_official_loss(case):
    name, options, dim, norm = CASES[case]
    made = network(name, **options)
    names = first_names if name.startswith("convnext") else dict
    pictures = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    noise = torch.rand(2, 9, generator=torch.Generator().manual_seed(3))

    visible = noise.argsort(1)[:, : round(9 * 0.4)]
    active = torch.zeros(2, 9, dtype=torch.bool).scatter(1, visible, True).view(2, 1, 3, 3)
    tensors = {key: x for key, x in made.state_dict().items() if not key.startswith(("fc.", "head."))}
    maps = Masked(made, active).maps(normalise(pictures))
    state = decoder_state([one.shape[1] for one in maps], dim, norm)
    target = patches(normalise(pictures))
    target = (target - target.mean(2, keepdim=True)) / (target.var(2, keepdim=True) + 1e-6).sqrt()
    error = (patches(reconstruct(state, maps, active)) - target).square().mean(2)

    whole = state | {CNN + key: x for key, x in names(tensors).items()} | {"norm_black": torch.zeros(1, 3, 96, 96)}
    method = load_official("spark", {"module": whole}).eval()
    out = method(Batch({"image": pictures}), draws={"image": noise})
    for level, dense in zip(levels_of(out), maps, strict=True):
        whole_map = level.rows.scatter(level.features, dense.shape[2] * dense.shape[3])
        assert_close(whole_map.transpose(1, 2).view_as(dense), dense, atol=1e-5 * float(dense.abs().max()), rtol=0)
    assert_close(out.loss, error[~active.flatten(1)].mean(), atol=0, rtol=1e-5)


def levels_of(out) -> list:
    found, level = [], out.latents["image"]
    while level is not None:
        found.append(level)
        level = level.finer
    return found


FINE_TUNED = {
    "ResNet of timm": ("resnet18", RESNET, dict),
    "ConvNeXt of timm": ("convnext_small", CONVNEXT, dict),
    "ConvNeXt of its authors": ("convnext_small", CONVNEXT, first_names),
}


@pytest.mark.parametrize("case", FINE_TUNED)
@torch.no_grad()
def test_a_fine_tuned_network_gives_an_encoder(case):
    """What the classifier had beside it is named; the maps are the network's own."""
    name, options, names = FINE_TUNED[case]
    made = network(name, **options)
    with pytest.warns(UserWarning, match=r"(?s)holds no decoder.*fc\.weight.*the classifier, left out"):
        method = load_official("spark", names(made.state_dict()))

    pictures = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    features = method.eval().encoder(method.tokenizer(pictures).unmasked()).features
    expected = made.forward_intermediates(normalise(pictures), intermediates_only=True)[-1]
    assert_close(features, expected.flatten(2).transpose(1, 2), atol=1e-5 * float(expected.max()), rtol=0)
    if name == "convnext_small":
        assert torch.equal(method.encoder.network.head.norm.weight, made.head.norm.weight)


def test_an_encoder_by_name_reads_spark_s_files(tmp_path):
    state = {key: x for key, x in network("resnet18", **RESNET).state_dict().items() if not key.startswith("fc.")}
    save_file(state, tmp_path / "resnet.safetensors")
    with pytest.warns(UserWarning, match="no decoder"):
        assert encoder("spark_base", tmp_path / "resnet.safetensors").config["origin"]["method"] == "spark"


def test_settings_in_words_are_read():
    """A released file's `config` holds the masking ratio, which no tensor shows."""
    made = network("resnet18", **RESNET)
    state = {CNN + key: x for key, x in made.state_dict().items() if not key.startswith("fc.")}
    config = {"mask_ratio": 0.25, "sparse_encoder.input_size": 96, "dense_decoder.width": 64}
    assert "config" not in unwrap({"module": state | {"config": config}})
    with pytest.warns(UserWarning, match="no decoder"):
        method = load_official("spark", {"module": state | {"config": config}})
    assert method.masker.ratio == 0.25 and method.tokenizer.size == (96, 96)


def test_grey_pictures_have_encoders_and_no_official_decoder():
    made = network("resnet18", in_chans=1, **RESNET)
    state = {CNN + key: x for key, x in made.state_dict().items() if not key.startswith("fc.")}
    with pytest.warns(UserWarning, match="no decoder"):
        method = load_official("spark", state)
    assert method.eval().encoder(method.tokenizer(torch.rand(1, 1, 64, 64)).unmasked()).features.shape == (1, 4, 64)
    with pytest.raises(UserError, match="in_chans=1"):
        load_official("spark", state | decoder_state([64, 24, 16, 8], 64, "bn"))


def test_networks_whose_numbers_are_not_the_official_ones_are_refused():
    made = network("seresnet18", **RESNET)
    with pytest.raises(UserError, match="squeeze-and-excitation"):
        load_official("spark", {CNN + key: x for key, x in made.state_dict().items()})
    with pytest.raises(UserError, match="not a tensor of an official spark"):
        load_official("spark", timm.create_model("mobilenetv3_small_050").state_dict())
    with pytest.raises(UserError, match=r"decoder\.dim=16 must be at least 32"):
        made = network("resnet18", **RESNET)
        state = {CNN + key: x for key, x in made.state_dict().items() if not key.startswith("fc.")}
        load_official("spark", state | decoder_state([64, 24, 16, 8], 16, "bn"))
