"""Official checkpoints without `meta`: sizes from the tensors, wrappers, missing decoders, and what is refused."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from core.config import compose
from core.config.build import build_method
from core.errors import UserError
from core.export import open_encoder
from core.interop import find_official, load_official, read_checkpoint, settings


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


def test_a_missing_decoder_is_said():
    state = {k: v for k, v in official_mae().items() if not k.startswith(("decoder", "mask_token"))}
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


class Bomb:
    def __reduce__(self):
        return print, ("this must not run",)


def test_pickled_code_is_refused(tmp_path, capsys):
    torch.save({"model": official_mae(), "args": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(UserError, match="could run code"):
        read_checkpoint(tmp_path / "bomb.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError):
        open_encoder("image", "mae_base", tmp_path / "plain.pth")
    assert "must not run" not in capsys.readouterr().out


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
