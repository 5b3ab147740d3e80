"""Image encoders as teachers: features and saliency against the networks themselves, and refusals."""

from math import isqrt

import pytest
import timm
import torch
from safetensors.torch import save_file

from core.config import compose
from core.config.build import build_method
from core.errors import UserError
from core.export import export_encoder, load_encoder
from modalities.point.image_encoders import open_pictures

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
SMALL = ["size.dim=24", "size.depth=2", "size.heads=3"]
IMAGE = ["modality=image", "modality.size=[32, 32]", "modality.side=8", *SMALL]


def opened(source: str, weights: str = "random", head: bool = False, **settings):
    return open_pictures(source, weights, head=head, settings=settings, seed=0)


def saved_run(folder, *settings: str) -> str:
    """The folder of an encoder, as a run leaves it."""
    torch.manual_seed(1)
    config = compose(settings)
    export_encoder(folder, build_method(config), config)
    return str(folder)


def pictures(channels: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_a_vit_of_timm_gives_normed_patches_and_the_row_of_its_class_token():
    encoder = opened("vit_tiny_patch16_224", **TINY).eval()
    maps = encoder(pictures())
    network = encoder.network
    x = (pictures() - encoder.mean) / encoder.std
    tokens = network.forward_features(x)
    assert torch.allclose(maps.features.flatten(2).transpose(1, 2), tokens[:, 1:], atol=1e-6)

    # The last attention by hand, from the input of its block.
    outputs = network.forward_intermediates(x, indices=[0], return_prefix_tokens=True, output_fmt="NLC", norm=False)
    (rows, prefix), *_ = outputs[1]
    last = network.blocks[-1]
    q, k, _ = last.attn.qkv(last.norm1(torch.cat([prefix, rows], 1))).view(2, 17, 3, 3, 8).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(2, 3) / 8**0.5).softmax(-1).mean(1)[:, 0, 1:]
    assert torch.allclose(maps.saliency.flatten(1), weights, atol=1e-6)


@torch.no_grad()
def test_the_head_projects_features():
    encoder = opened("vit_tiny_patch16_224", head=True, num_classes=7, **TINY).eval()
    bare = encoder.network.forward_features((pictures() - encoder.mean) / encoder.std)[:, 1:]
    features = encoder(pictures()).features.flatten(2).transpose(1, 2)
    assert encoder.width == 7 and torch.allclose(features, encoder.network.head(bare), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("method", ["mae", "spark"])
def test_an_encoder_of_ours_gives_the_features_that_users_get(method, tmp_path):
    source = saved_run(tmp_path, *IMAGE, f"method={method}")
    encoder, users = opened(source, "pretrained").eval(), load_encoder(source)
    maps, features = encoder(pictures()), users(pictures())
    assert torch.allclose(maps.features.flatten(2).transpose(1, 2), features.tokens, atol=1e-6)
    assert maps.saliency.shape == (2, 1, *maps.features.shape[2:]) and encoder.width == users.embed_dim
    if method == "spark":  # no class token: lengths of features
        lengths = features.tokens.norm(dim=2)
        assert torch.allclose(maps.saliency.flatten(1), lengths / lengths.sum(1, keepdim=True), atol=1e-6)


@torch.no_grad()
def test_the_class_row_of_ours_is_attention(tmp_path):
    """Of one block: values that name their row come out as the weights."""
    encoder = opened(saved_run(tmp_path, *IMAGE, "size.depth=1"), "pretrained").eval()
    saliency = encoder(pictures()).saliency.flatten(1)
    latent = encoder.encoder(encoder.tokenizer(pictures()).unmasked(), ("input0",))
    block = encoder.encoder.trunk.blocks[0]
    x = block.norm1(torch.cat([latent.taps["input0/cls"][:, None], latent.taps["input0"]], 1))
    q, k, _ = block.attn.qkv(x).view(2, 17, 3, 3, 8).permute(2, 0, 3, 1, 4)
    names = torch.eye(17).expand(2, 3, 17, 17)
    weights = torch.nn.functional.scaled_dot_product_attention(q, k, names).mean(1)[:, 0, 1:]
    assert torch.allclose(saliency, weights, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("source", ["resnet18", "swin_tiny_patch4_window7_224", "vit_base_patch16_siglip_224"])
def test_without_a_class_token_saliency_is_the_length_of_features(source):
    encoder = opened(source)
    maps = encoder(pictures(size=encoder.size))
    lengths = maps.features.norm(dim=1)
    assert torch.allclose(maps.saliency[:, 0], lengths / lengths.sum((1, 2), keepdim=True), atol=1e-6)
    assert maps.features.shape[1] == encoder.width


def test_random_weights_are_the_same_every_time_and_leave_the_global_generator_alone(tmp_path):
    torch.manual_seed(5)
    first = opened("random").state_dict()
    draw = torch.rand(1)
    torch.manual_seed(6)
    second = opened("random").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.manual_seed(5)
    assert torch.equal(draw, torch.rand(1))

    # Of a run: the same shape, other weights.
    source = saved_run(tmp_path, *IMAGE)
    trained, random = opened(source, "pretrained").state_dict(), opened(source).state_dict()
    assert trained.keys() == random.keys() and any(not torch.equal(trained[name], random[name]) for name in trained)


def test_weights_of_a_file_under_timms_names_with_a_classifier(tmp_path):
    network = timm.create_model("vit_tiny_patch16_224", num_classes=10, **TINY)
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    encoder = opened("vit_tiny_patch16_224", str(tmp_path / "vit.safetensors"), **TINY)
    assert torch.equal(encoder.network.blocks[1].attn.qkv.weight, network.blocks[1].attn.qkv.weight)


def test_on_the_meta_device_sizes_alone_are_known():
    with torch.device("meta"):
        encoder = opened("vit_base_patch16_clip_quickgelu_224.openai", "pretrained", head=True)
    assert (encoder.width, encoder.size) == (512, 224)


def test_the_control_is_small():
    encoder = opened("random")
    patches = isqrt(encoder(torch.zeros(1, 3, encoder.size, encoder.size)).features[0, 0].numel())
    assert (encoder.size, encoder.width, patches) == (64, 128, 8)


@pytest.mark.parametrize(
    "settings, words",
    [
        (["modality=video", "modality.size=[4, 32, 32]", "modality.patch=[2, 8, 8]", *SMALL], "view video"),
        (["modality=point"], "view point"),
        ([*IMAGE, "modality.size=[32, 64]"], r"pictures of \[32, 64\].* square"),
    ],
)
def test_runs_of_other_data_are_refused(settings, words, tmp_path):
    source = saved_run(tmp_path, *settings)
    with pytest.raises(UserError, match=words):
        opened(source, "pretrained")


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"source": "runs/none"}, "neither the folder of an image run nor a network of timm"),
        ({"source": "vit_tiny_patch16_225"}, "vit_tiny_patch16_224"),
        ({"source": "vit_tiny_patch16_224", "img_size": 60}, r"patches of 16 pixels .* 60: set settings.img_size=64"),
        ({"source": "vit_tiny_patch16_224", "img_size": [64, 32]}, "must be one number"),
        ({"source": "vit_tiny_patch16_224", "in_chans": 1}, "must be 3"),
        ({"source": "vit_tiny_patch16_224", "depht": 3}, "depht"),
        ({"source": "resnet18", "head": True}, "set head=false"),
        ({"source": "mixer_s32_224"}, "no map of features"),
        ({"source": "vit_tiny_patch16_224", "weights": "none.pth"}, "none.pth does not exist"),
    ],
)
def test_refusals_have_a_remedy(arguments, words):
    with pytest.raises(UserError, match=words) as caught:
        opened(**arguments)
    assert "\n" not in str(caught.value)


def test_files_of_another_kind_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("not weights")
    with pytest.raises(UserError, match="no checkpoint"):
        opened("vit_tiny_patch16_224", str(tmp_path / "notes.txt"))
    save_file({"layer.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="weights of another network"):
        opened("vit_tiny_patch16_224", str(tmp_path / "other.safetensors"))
    with pytest.raises(UserError, match="no image encoder"):
        opened(str(tmp_path), "pretrained")
    source = saved_run(tmp_path / "run", *IMAGE)
    with pytest.raises(UserError, match="no head, settings"):
        opened(source, "pretrained", img_size=64)
