"""Options of the official video models: each is loaded and gives the official formulas' numbers, or refused by name."""

from math import prod

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from core.errors import UserError
from core.interop import find_official, load_official
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Batch
from modalities.video import encoder
from tests.modalities import published

META = {"constructor": {"img_size": 16, "all_frames": 4, "num_frames": 4}}


def blocks(prefix: str, dim: int, attention: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    shapes = {"mlp.fc1.weight": (4 * dim, dim), "mlp.fc1.bias": (4 * dim,), "mlp.fc2.weight": (dim, 4 * dim)}
    shapes |= {f"norm{i}.{part}": (dim,) for i in (1, 2) for part in ("weight", "bias")}
    shapes |= {"mlp.fc2.bias": (dim,), "attn.proj.weight": (dim, dim), "attn.proj.bias": (dim,)} | attention
    return {f"{prefix}.{index}.{name}": shape for index in range(2) for name, shape in shapes.items()}


def norm(prefix: str, dim: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}norm.weight": (dim,), f"{prefix}norm.bias": (dim,)}


def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def videomae(cosine: bool = False, scaled: bool = False, biased: bool = True) -> dict[str, torch.Tensor]:
    def attention(dim: int, heads: int) -> dict[str, tuple[int, ...]]:
        shapes = {"attn.qkv.weight": (3 * dim, dim)}
        shapes |= {"attn.q_bias": (dim,), "attn.v_bias": (dim,)} if biased else {}
        shapes |= {"attn.scale": (heads, 1, 1)} if cosine else {}
        return shapes | ({"gamma_1": (dim,), "gamma_2": (dim,)} if scaled else {})

    shapes = {"encoder.patch_embed.proj.weight": (192, 3, 2, 8, 8), "encoder.patch_embed.proj.bias": (192,)}
    shapes |= blocks("encoder.blocks", 192, attention(192, 3)) | norm("encoder.", 192)
    shapes |= blocks("decoder.blocks", 192, attention(192, 3)) | norm("decoder.", 192)
    shapes |= {"encoder_to_decoder.weight": (192, 192), "mask_token": (1, 1, 192)}
    return drawn(shapes | {"decoder.head.weight": (384, 192), "decoder.head.bias": (384,)})


def st_mae(separable: bool = True, cls: bool = True, biased: bool = True) -> dict[str, torch.Tensor]:
    def attention(dim: int) -> dict[str, tuple[int, ...]]:
        shapes = {f"attn.{name}.weight": (dim, dim) for name in "qkv"}
        return shapes | ({f"attn.{name}.bias": (dim,) for name in "qkv"} if biased else {})

    shapes = {"patch_embed.proj.weight": (192, 3, 2, 8, 8), "patch_embed.proj.bias": (192,), "mask_token": (1, 1, 512)}
    shapes |= blocks("blocks", 192, attention(192)) | blocks("decoder_blocks", 512, attention(512))
    shapes |= norm("", 192) | norm("decoder_", 512)
    shapes |= {"decoder_embed.weight": (512, 192), "decoder_embed.bias": (512,)}
    shapes |= {"decoder_pred.weight": (192, 512), "decoder_pred.bias": (192,)}
    for prefix, dim in (("", 192), ("decoder_", 512)):
        shapes |= {f"{prefix}cls_token": (1, 1, dim)} if cls else {}
        if separable:
            shapes |= {f"{prefix}pos_embed_spatial": (1, 4, dim), f"{prefix}pos_embed_temporal": (1, 2, dim)}
            shapes |= {f"{prefix}pos_embed_class": (1, 1, dim)} if cls else {}
        else:
            shapes |= {f"{prefix}pos_embed": (1, 8 + cls, dim)}
    return drawn(shapes)


def fine_tuned(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """VideoMAE's encoder as its classifier names it, with the classifier's own tensors."""
    encoder = {key.removeprefix("encoder."): x for key, x in state.items() if key.startswith("encoder.")}
    encoder = {key: x for key, x in encoder.items() if not key.startswith("norm.")}
    return encoder | drawn(
        {"fc_norm.weight": (192,), "fc_norm.bias": (192,), "head.weight": (5, 192), "head.bias": (5,)}
    )


@torch.no_grad()
def tokens(method: MaskedAutoencoder, clips: torch.Tensor) -> torch.Tensor:
    return method.eval().encoder(method.tokenizer(clips).unmasked()).features


def clip(*size: int) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))


def imagenet(x: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (x - mean.view(3, 1, 1, 1)) / std.view(3, 1, 1, 1)


def trains(name: str, state: dict[str, torch.Tensor]):
    """Loads without `meta` where sizes allow it; forward and backward reach every parameter."""
    method = load_official(name, state, META)
    method(Batch({"video": torch.rand(2, 3, 4, 16, 16)})).loss.backward()
    assert all(p.grad is not None for p in method.parameters())
    return method


@pytest.mark.parametrize("options", [{"cosine": True}, {"scaled": True}, {"biased": False}, {}])
@pytest.mark.parametrize("name", ["videomae", "videomaev2"])
def test_videomae_options(name, options):
    state = videomae(**options)
    method = trains(name, state)
    block = method.encoder.trunk.blocks[1]
    assert block.attn.heads == 3
    assert torch.equal(block.attn.qkv.weight, state["encoder.blocks.1.attn.qkv.weight"])
    if options.get("cosine"):
        assert torch.equal(block.attn.scale, state["encoder.blocks.1.attn.scale"])
        assert any(name.endswith("attn.scale") for name in method.no_weight_decay())
    if options.get("scaled"):
        assert torch.equal(block.scale2.gamma, state["encoder.blocks.1.gamma_2"])
    assert (block.attn.q_bias is None) == (options.get("biased") is False)


@pytest.mark.parametrize(
    "options", [{}, {"cls": False}, {"separable": False}, {"separable": False, "cls": False}, {"biased": False}]
)
def test_st_mae_options(options):
    state = st_mae(**options)
    method = trains("st-mae", state)
    fused = torch.cat([state[f"blocks.0.attn.{name}.weight"] for name in "qkv"])
    assert torch.equal(method.encoder.trunk.blocks[0].attn.qkv.weight, fused)
    assert (method.encoder.cls is None) == (options.get("cls") is False)
    whole = method.encoder.embed.positions(None, (2, 2, 2))
    if options.get("separable") is False:
        assert torch.equal(whole, state["pos_embed"][:, -8:])
    else:
        assert torch.equal(whole[0, 5], state["pos_embed_spatial"][0, 1] + state["pos_embed_temporal"][0, 1])


def test_a_decoder_that_leaves_nothing_out_is_videomae():
    state = videomae()
    meta = {"constructor": META["constructor"] | {"decoder_mask_ratio": 0.0}}
    batch = Batch({"video": torch.rand(2, 3, 4, 16, 16)})
    dual, plain = load_official("videomaev2", state, meta), load_official("videomae", state, META)
    cells = torch.rand(2, 4)
    dual_loss = dual(batch, draws={"video": {"cells": cells}}).loss
    torch.testing.assert_close(dual_loss, plain(batch, draws={"video": cells}).loss)


@pytest.mark.parametrize("options", [{}, {"cosine": True}, {"scaled": True}, {"biased": False}])
@pytest.mark.parametrize("size", [[16, 16], [16, 32]])
def test_a_fine_tuned_videomae_gives_the_official_tokens(options, size):
    state = fine_tuned(videomae(**options))
    with pytest.warns(UserWarning, match=r"(?s)no decoder.*head\.weight"):
        method = load_official("videomaev2", state, {"img_size": size, "all_frames": 4})

    x = clip(4, *size)
    rows = published.patch_tokens(state, imagenet(x))
    rows = published.transformer(state, "blocks.", rows + published.sinusoids(rows.shape[1], 192), heads=3)
    assert_close(tokens(method, x), published.layer_norm(state, "fc_norm", rows), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*is assumed")
@pytest.mark.parametrize(("name", "layout"), [("videomae", videomae), ("videomaev2", videomae), ("st_mae", st_mae)])
def test_an_encoder_by_name_reads_its_own_method_s_files(name, layout, tmp_path):
    """Methods list the official names of those that they extend, too."""
    save_file(layout(), tmp_path / "weights.safetensors")
    assert encoder(f"{name}_base", tmp_path / "weights.safetensors").config["origin"]["method"] == name


@pytest.mark.parametrize(
    ("meta", "options"),
    [({}, ["all_frames=16", "img_size=224"]), ({"img_size": 16}, ["all_frames=16"]), ({"all_frames": 4}, ["img_size"])],
)
def test_sizes_that_tensors_do_not_show_are_assumed_with_a_note(meta, options):
    with pytest.warns(UserWarning) as notes:
        method = load_official("videomae", videomae(), meta)
    assert method.tokenizer.size[1] == meta.get("img_size", 224)
    lines = str(notes[0].message).splitlines()
    assert len(lines) == len(options) and all(map(str.__contains__, lines, options))


@pytest.mark.parametrize("meta", [{"img_size": [16, 24]}, {"all_frames": 6, "img_size": [16, 24]}, {"all_frames": 6}])
def test_learned_positions_show_whatever_size_is_not_given(meta):
    state = fine_tuned(videomae()) | {"pos_embed": torch.zeros(1, 3 * 6, 192)}
    if "img_size" not in meta:
        state["pos_embed"] = torch.zeros(1, 3 * 9, 192)
    with pytest.warns(UserWarning, match="no decoder") as notes:
        method = load_official("videomae", state, meta)
    assert method.tokenizer.size == (6, *meta.get("img_size", [24, 24])) and "assumed" not in str(notes[0].message)


def test_learned_positions_of_a_classifier_are_read_and_show_the_size():
    state = fine_tuned(videomae()) | {"pos_embed": drawn({"pos_embed": (1, 8 * 9, 192)})["pos_embed"]}
    with pytest.warns(UserWarning, match="no decoder"):
        method = load_official("videomae", state)  # sixteen frames, as published
    assert method.tokenizer.size == (16, 24, 24)

    x = clip(16, 24, 24)
    rows = published.transformer(state, "blocks.", published.patch_tokens(state, imagenet(x)) + state["pos_embed"], 3)
    assert_close(tokens(method, x), published.layer_norm(state, "fc_norm", rows), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("rows", "message"), [(9, "use_learnable_pos_emb"), (7, "all_frames"), (6, "img_size")])
def test_learned_positions_that_fit_no_clip_are_refused(rows, message):
    state = videomae() | {"encoder.pos_embed": torch.zeros(1, rows, 192)}
    with pytest.raises(UserError, match=message):
        load_official("videomae", state, META)


def test_pictures_that_are_no_squares_give_the_official_loss():
    """V2's dual masking on 2 × 2 × 4 patches."""
    state, x = videomae(), clip(4, 16, 32)
    method = load_official("videomaev2", state, {"img_size": [16, 32], "all_frames": 4, "mask_ratio": 0.5})
    draws = {"cells": torch.rand(2, 8, generator=torch.Generator().manual_seed(2)), "phase": torch.tensor([0, 3])}
    out = method.eval()(Batch({"video": x}), draws={"video": draws})
    hidden, answered = out.masks["video"].hidden, out.masks["video"].queries["main"].rows.to_mask(16)
    assert hidden.sum(1).tolist() == answered.sum(1).tolist() == [8, 8]

    # Card of VideoMAE V2, sections 2 and 4: visible latents, then mask tokens at the decoder's rows.
    table = published.sinusoids(16, 192)
    rows = published.patch_tokens(state, imagenet(x), "encoder.") + table
    rows = published.transformer(state, "encoder.blocks.", rows[~hidden].view(2, 8, 192), heads=3)
    rows = published.layer_norm(state, "encoder.norm", rows) @ state["encoder_to_decoder.weight"].T
    table = table.expand(2, -1, -1)
    parts = [rows + table[~hidden].view(2, 8, 192), state["mask_token"] + table[answered].view(2, 8, 192)]
    rows = published.transformer(state, "decoder.blocks.", torch.cat(parts, 1), heads=3)[:, 8:]
    prediction = published.linear(state, "decoder.head", published.layer_norm(state, "decoder.norm", rows))

    target = published.cubes(x, (2, 8, 8))
    target = (target - target.mean(2, keepdim=True)) / (target.var(2, keepdim=True).sqrt() + 1e-6)
    error = (prediction - target.flatten(2)[answered].view(2, 8, -1)).square().mean(2)
    assert_close(out.loss, error[hidden[answered].view(2, 8)].mean(), atol=1e-5, rtol=1e-5)


def test_without_normalised_targets_pixels_are_predicted():
    method = load_official("videomae", videomae(), META["constructor"] | {"normlize_target": False})
    assert method.readouts["main"].objectives["pixels"].target.per == "none"


@pytest.mark.parametrize("name", ["videomae", "st-mae"])
def test_options_of_blocks_that_tensors_do_not_show(name):
    options = {"norm_layer": "partial(nn.LayerNorm, eps=1e-5)", "drop_path_rate": 0.3, "with_cp": True}
    state = videomae() if name == "videomae" else st_mae()
    method = load_official(name, state, META["constructor"] | options)
    norms = [part for part in method.modules() if isinstance(part, torch.nn.LayerNorm)]
    assert len(norms) == 10 and all(norm.eps == 1e-5 for norm in norms)
    for trunk in (method.encoder.trunk, method.readouts["main"].decoder.trunk):
        assert trunk.blocks[1].drop_path.drop_prob == 0.3


REFUSED = {"qk_scale": 0.5, "drop_rate": 0.1, "attn_drop_rate": 0.1, "norm_layer": "BatchNorm1d(eps=1e-6)"}


@pytest.mark.parametrize("option", REFUSED)
@pytest.mark.parametrize("name", ["videomae", "videomaev2", "st-mae"])
def test_options_that_are_not_offered_are_named(name, option):
    state = st_mae() if name == "st-mae" else videomae()
    with pytest.raises(UserError, match=f"{option}="):
        load_official(name, state, META["constructor"] | {option: REFUSED[option]})


def test_a_layer_behind_the_encoder_and_other_channels_than_the_decoder_s_are_named():
    with pytest.raises(UserError, match="encoder_num_classes"):
        load_official("videomae", videomae() | {"encoder.head.weight": torch.zeros(192, 192)}, META)
    four = videomae() | {"encoder.patch_embed.proj.weight": torch.zeros(192, 4, 2, 8, 8)}
    with pytest.raises(UserError, match="encoder_in_chans"):
        load_official("videomae", four, META)


def test_patches_that_do_not_divide_the_assumed_clip_ask_for_its_size():
    state = videomae() | {"encoder.patch_embed.proj.weight": torch.zeros(192, 3, 2, 10, 10)}
    with pytest.raises(UserError, match="img_size"):
        load_official("videomae", fine_tuned(state))


@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("cls", [True, False])
@pytest.mark.parametrize("frames", [1, 2])
def test_st_mae_gives_the_official_loss(separable, cls, frames):
    """With positions joint or separable, with cls or without, one or both frames of a patch predicted (pred_t_dim)."""
    state = st_mae(separable, cls)
    state |= drawn({"decoder_pred.weight": (192 * frames, 512), "decoder_pred.bias": (192 * frames,)})
    method, x = load_official("st-mae", state, META["constructor"] | {"mask_ratio": 0.5}), clip(4, 16, 16)
    noise = torch.rand(2, 8, generator=torch.Generator().manual_seed(2))
    out = method.eval()(Batch({"video": x}), draws={"video": noise})

    shuffle = noise.argsort(1)
    x = (x - 0.45) / 0.225
    rows = published.patch_tokens(state, x) + st_positions(state, "")
    rows = with_cls(state, "", rows.gather(1, shuffle[:, :4, None].expand(-1, -1, 192)))
    rows = published.layer_norm(state, "norm", published.transformer(state, "blocks.", rows, heads=3))[:, int(cls) :]
    assert_close(out.latents["video"].features, rows, atol=1e-5, rtol=1e-5)

    rows = published.linear(state, "decoder_embed", rows)
    rows = torch.cat([rows, state["mask_token"].expand(2, 4, -1)], 1)
    rows = rows.gather(1, shuffle.argsort(1)[..., None].expand(-1, -1, 512)) + st_positions(state, "decoder_")
    rows = published.transformer(state, "decoder_blocks.", with_cls(state, "decoder_", rows), heads=16)
    rows = published.linear(state, "decoder_pred", published.layer_norm(state, "decoder_norm", rows))[:, int(cls) :]

    shown = x[:, :, torch.linspace(0, 3, 2 * frames).long()]
    target = published.cubes(shown, (frames, 8, 8)).flatten(2)
    target = (target - target.mean(2, keepdim=True)) / (target.var(2, keepdim=True) + 1e-6).sqrt()
    error = (rows - target).square().mean(2)
    assert_close(out.loss, error.gather(1, shuffle[:, 4:]).mean(), atol=1e-5, rtol=1e-5)


def st_positions(state: dict[str, torch.Tensor], prefix: str) -> torch.Tensor:
    if f"{prefix}pos_embed" in state:
        return state[f"{prefix}pos_embed"][:, -8:]
    spatial, temporal = (state[f"{prefix}pos_embed_{axes}"] for axes in ("spatial", "temporal"))
    return spatial.repeat(1, 2, 1) + temporal.repeat_interleave(4, 1)


def with_cls(state: dict[str, torch.Tensor], prefix: str, rows: torch.Tensor) -> torch.Tensor:
    if f"{prefix}cls_token" not in state:
        return rows
    joint = f"{prefix}pos_embed" in state
    position = state[f"{prefix}pos_embed"][:, :1] if joint else state[f"{prefix}pos_embed_class"]
    return torch.cat([(state[f"{prefix}cls_token"] + position).expand(2, -1, -1), rows], 1)


@pytest.mark.parametrize("cls", [True, False])
def test_a_joint_table_alone_is_mapped_as_its_checkpoint_says(cls):
    """A recorded gradient comes by itself; whether its first row is that of cls, the whole file tells."""
    state = st_mae(separable=False, cls=cls)
    mapped = find_official("st-mae").keys({"decoder_pos_embed": state["decoder_pos_embed"]}, state)
    assert sum(prod(part.shape) for part in mapped.values()) == (8 + cls) * 512
    assert len(mapped) == 1 + cls and all(name.startswith("readouts.main.decoder.") for name in mapped)


def test_a_joint_table_that_fits_no_clip_asks_for_its_size():
    state = st_mae(separable=False)
    with pytest.raises(UserError, match="num_frames"):
        load_official("st-mae", state, {"num_frames": 6})
    wide = state | {name: torch.zeros(1, 17, state[name].shape[2]) for name in ("pos_embed", "decoder_pos_embed")}
    with pytest.raises(UserError, match="img_size"):
        load_official("st-mae", wide, {"num_frames": 4})
    assert load_official("st-mae", wide, {"num_frames": 4, "img_size": [16, 32]}).tokenizer.grid == (2, 2, 4)
