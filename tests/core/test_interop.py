"""Official checkpoints without `meta`: sizes from the tensors, wrappers, missing decoders, and what is refused."""

import argparse

import pytest
import torch
from safetensors.torch import save_file

from core.checkpoint_files import read_checkpoint
from core.config import compose
from core.config.build import build_method
from core.errors import UserError
from core.export import open_encoder
from core.interop import Official, Rule, find_official, load_official, settings
from tests.core.official_files import official_mae
from tests.modalities import published


def test_sizes_come_from_the_tensors_and_heads_from_published_widths():
    method = load_official("mae", official_mae())
    trunk, decoder = method.encoder.trunk, method.readouts["main"].decoder
    assert (trunk.dim, len(trunk.blocks), trunk.blocks[0].attn.heads) == (192, 2, 3)
    assert (decoder.dim, len(decoder.trunk.blocks), decoder.trunk.blocks[0].attn.heads) == (512, 1, 16)
    assert (method.tokenizer.size, method.tokenizer.patch) == ((32, 32), (8, 8))


def test_convolution_and_linear_layer_embed_alike():
    state = official_mae()
    method = load_official("mae", state)
    images = torch.rand(2, 3, 32, 32)
    normalised = (images - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    theirs = torch.nn.functional.conv2d(normalised, weight, bias, stride=8).flatten(2).transpose(1, 2)
    ours = method.encoder.embed(method.tokenizer(images).unmasked()) - state["pos_embed"][:, 1:]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "wrap", [lambda s: {"model": s, "epoch": 3}, lambda s: {f"module.{k}": v for k, v in s.items()}]
)
def test_wrappers_and_prefixes_are_taken_off(wrap):
    plain, wrapped = load_official("mae", official_mae()), load_official("mae", wrap(official_mae()))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, wrapped.state_dict()[name])


def encoder_alone() -> dict[str, torch.Tensor]:
    return {k: v for k, v in official_mae().items() if not k.startswith(("decoder", "mask_token"))}


def test_a_missing_decoder_is_said():
    state = encoder_alone()
    with pytest.warns(UserWarning, match="no decoder"):
        method = load_official("mae", state)
    assert torch.equal(method.encoder.cls.token, state["cls_token"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blocks.1.mlp.fc2.bias"), "missing"),
        (lambda s: s.update({"blocks.0.attn.sink": torch.zeros(1)}), "blocks.0.attn.sink"),
        (lambda s: s.update({"norm.weight": torch.zeros(7)}), "of another shape"),
    ],
)
def test_other_tensors_are_refused_by_name(change, message):
    state = official_mae()
    change(state)
    with pytest.raises(UserError, match=message):
        load_official("mae", state)


def test_unknown_names_list_the_known():
    with pytest.raises(UserError, match="videomaev2"):
        load_official("mea", {})


def test_gradients_ride_the_same_map():
    state = official_mae()
    mapped = find_official("mae").keys({"patch_embed.proj.weight": state["patch_embed.proj.weight"]})
    assert {name: value.shape for name, value in mapped.items()} == {"encoder.embed.proj.weight": (192, 192)}


@pytest.mark.parametrize("name", ["mae", "videomae", "videomaev2", "st_mae"])
def test_parameters_that_have_one_axis_keep_one(name):
    """Weight decay goes by the number of axes, so a key map may not change it."""
    modality = "image" if name == "mae" else "video"
    method = build_method(compose([f"modality={modality}", f"method={name}", "data=folder", "data.root=none"]))
    flat = {n for n, p in method.named_parameters() if p.ndim == 1}
    assert flat == {
        n for n, _ in method.named_parameters() if n.endswith(("bias", "norm1.weight", "norm2.weight", "norm.weight"))
    }


def test_settings_of_the_four_layouts():
    layouts = [
        {"constructor": {"depth": 3}},
        {"constructor_args": {"Model": {"depth": 3}}},
        {"config": {"kw": {"depth": 3}}},
        {"config": {"depth": 3}, "seed": 1},
    ]
    assert [settings(meta)["depth"] for meta in layouts] == [3] * 4


def test_meta_is_stronger_than_a_saved_command_line():
    state = {"model": official_mae(), "args": argparse.Namespace(norm_pix_loss=False, mask_ratio=0.5)}
    method = load_official("mae", state, {"norm_pix_loss": True})
    assert method.readouts["main"].objectives["pixels"].target.per == "patch" and method.masker.ratio == 0.5


def test_heads_that_nothing_shows_are_a_guess_that_is_said():
    with pytest.warns(UserWarning, match=r"blocks: .* 320 wide\. num_heads=5 is assumed; .*meta=\{num_heads: …\}"):
        method = load_official("mae", official_mae(dim=320))
    assert method.encoder.trunk.blocks[0].attn.heads == 5
    assert load_official("mae", official_mae(dim=320), {"num_heads": 10}).encoder.trunk.blocks[0].attn.heads == 10
    with pytest.raises(UserError, match="7 heads do not divide the width 192"):
        load_official("mae", official_mae(), {"num_heads": 7})


def test_heads_of_a_decoder_are_asked_for_by_their_own_option():
    state, meta = official_mae(width=80), {"num_heads": 6}
    with pytest.warns(UserWarning, match=r"decoder_blocks: .* 80 wide\. decoder_num_heads=1 is assumed"):
        method = load_official("mae", state, meta)
    assert method.readouts["main"].decoder.trunk.blocks[0].attn.heads == 1
    method = load_official("mae", state, meta | {"decoder_num_heads": 5})  # without a warning
    assert method.encoder.trunk.blocks[0].attn.heads == 6
    assert method.readouts["main"].decoder.trunk.blocks[0].attn.heads == 5


def test_files_of_another_official_code_are_named():
    elsewhere = ("cls_token", "pos_embed", "norm.weight", "norm.bias")
    distilled = {k: v for k, v in encoder_alone().items() if k not in elsewhere and "qkv.bias" not in k}
    distilled["patch_embed.proj.weight"] = torch.zeros(192, 3, 2, 8, 8)
    for name in ("mae", "st-mae", "spark", "graphmae", "graphmae2"):
        with pytest.raises(UserError, match="videomae or videomaev2"):
            load_official(name, distilled | {"blocks.0.attn.q_bias": torch.zeros(192)})
    with pytest.raises(UserError, match="hold 'pos_embed'"):
        load_official("mae", {k: v for k, v in official_mae().items() if k != "pos_embed"})


@pytest.mark.parametrize(("global_pool", "head"), [(True, "head"), (False, "head"), (False, "head.1")])
def test_a_fine_tuned_or_probed_mae_gives_its_encoder(global_pool, head):
    """Its own positions, trained in fine-tuning, stand; a linear probe's head has a batch norm before it."""
    state = encoder_alone() | {f"{head}.weight": torch.zeros(5, 192), f"{head}.bias": torch.zeros(5)}
    if head == "head.1":
        state |= {"head.0.running_mean": torch.zeros(192), "head.0.num_batches_tracked": torch.zeros(())}
    if global_pool:
        state |= {f"fc_norm.{part}": state.pop(f"norm.{part}") for part in ("weight", "bias")}
    with pytest.warns(UserWarning, match=r"(?s)no decoder.*head.*: the classifier, left out"):
        method = load_official("mae", {f"model.{key}": x for key, x in state.items()})

    images = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    x = published.patch_tokens(state, (images - mean) / std)
    x = torch.cat([state["cls_token"].expand(2, -1, -1), x], 1) + state["pos_embed"]
    x = published.layer_norm(state, "fc_norm" if global_pool else "norm", published.transformer(state, "blocks.", x, 3))
    latent = method.eval().encoder(method.tokenizer(images).unmasked())
    close = {"atol": 1e-4 * float(x.abs().max()), "rtol": 0}
    torch.testing.assert_close(latent.features, x[:, 1:], **close)
    torch.testing.assert_close(latent.cls, x[:, 0], **close)


def test_pictures_that_are_no_squares_need_their_size():
    state = official_mae() | {"pos_embed": torch.randn(1, 9, 192), "decoder_pos_embed": torch.randn(1, 9, 512)}
    with pytest.raises(UserError, match="img_size"):
        load_official("mae", state)
    assert load_official("mae", state, {"img_size": [16, 32]}).tokenizer.grid == (2, 4)


def test_options_of_blocks_reach_them_or_are_refused():
    method = load_official("mae", official_mae(), {"norm_layer": "LayerNorm"})
    assert {p.eps for p in method.modules() if isinstance(p, torch.nn.LayerNorm)} == {1e-5}  # PyTorch's own
    for option in ({"qk_scale": 1.0}, {"drop_rate": 0.1}, {"attn_drop_rate": 0.1}, {"norm_layer": "RMSNorm"}):
        with pytest.raises(UserError, match=f"{next(iter(option))}="):
            load_official("mae", official_mae(), option)
    with pytest.raises(UserError, match="hybrid_backbone"):
        load_official("mae", official_mae() | {"patch_embed.backbone.conv1.weight": torch.zeros(1)})


def test_notes_name_the_keys_and_rules_without_names_drop_theirs():
    rules = (
        Rule(r"head\..*", (), note="left out"),
        Rule(r"unused", ()),
        Rule(r"x", ("y",), requires="z"),
        Rule(r"[xz]", ("w",)),
    )
    official = Official("mae", "image", rules=rules, overrides=lambda state, settings: [])
    state = dict.fromkeys(["head.a", "head.b", "unused", "x"], torch.ones(1))
    assert official.keys(state).keys() == {"w"}
    assert official.keys({"x": torch.ones(1)}, state | {"z": torch.ones(1)}).keys() == {"y"}
    assert official.notes(state) == ["head.a, head.b: left out."]


def test_files_are_opened_by_kind(tmp_path):
    state = official_mae()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    encoders = [open_encoder("image", "mae_base", tmp_path / name) for name in ("a.safetensors", "a.pth")]
    assert encoders[0].embed_dim == 192
    for a, b in zip(*(e.state_dict().values() for e in encoders), strict=True):
        assert torch.equal(a, b)
    for missing in ("none.pth", "none.safetensors"):
        with pytest.raises(UserError, match="none"):
            read_checkpoint(tmp_path / missing)
