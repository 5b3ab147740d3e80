"""Files of another layout or method: transformers' and timm's load, anything else is named in one line."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from core.catalogue import official_names
from core.checkpoint_files import read_checkpoint
from core.convert import main
from core.errors import UserError
from core.export import load_encoder, open_encoder
from core.interop import load_official
from tests.core.official_files import official_mae, official_videomae
from tests.modalities.graph.checkpoints import Model, official_state

pytestmark = pytest.mark.filterwarnings("ignore")
PARTS = ("attn.proj", "mlp.fc1", "mlp.fc2", "norm1", "norm2")
# A block's parts in transformers' own source, models/vit_mae and models/videomae: version 4.57, and 5.24 (ViTs alone).
OLD = ("attention.output.dense", "intermediate.dense", "output.dense", "layernorm_before", "layernorm_after")
NEW = ("attention.o_proj", "mlp.fc1", "mlp.fc2", "layernorm_before", "layernorm_after")
BLOCKS = {"old": ("encoder.layer", "attention.attention.", OLD), "new": ("layers", "attention.", NEW)}
PROJECTIONS = {"old": ("query", "key", "value"), "new": ("q_proj", "k_proj", "v_proj")}


def vit_names(state: dict[str, torch.Tensor], version: str, prefix: str = "vit.") -> dict[str, torch.Tensor]:
    """MAE's tensors as transformers' ViTMAEForPreTraining names them."""
    layers, attention, parts = BLOCKS[version]
    whole = {
        "cls_token": f"{prefix}embeddings.cls_token",
        "pos_embed": f"{prefix}embeddings.position_embeddings",
        "mask_token": "decoder.mask_token",
        "decoder_pos_embed": "decoder.decoder_pos_embed",
    }
    starts = {
        "patch_embed.proj.": f"{prefix}embeddings.patch_embeddings.projection.",
        "blocks.": f"{prefix}{layers}.",
        "norm.": f"{prefix}layernorm.",
        "decoder_blocks.": "decoder.decoder_layers.",
        "decoder_": "decoder.decoder_",
        "head.": "classifier.",
    }
    named = {}
    for key, value in state.items():
        start = next((start for start in starts if key.startswith(start)), None)
        name = whole.get(key) or starts[start] + key.removeprefix(start)
        for ours, theirs in zip(PARTS, parts, strict=True):
            name = name.replace(f".{ours}.", f".{theirs}.")
        if ".attn.qkv." not in name:
            named[name] = value
            continue
        for projection, part in zip(PROJECTIONS[version], value.chunk(3), strict=True):
            named[name.replace(".attn.qkv.", f".{attention}{projection}.")] = part
    return named


def video_names(state: dict[str, torch.Tensor], biases: str) -> dict[str, torch.Tensor]:
    """VideoMAE's tensors as transformers' VideoMAEForPreTraining names them, `biases`: up to version 4 or from 5 on."""
    query, value_bias = ("q_bias", "v_bias") if biases == "old" else ("query.bias", "value.bias")
    starts = {
        "encoder.patch_embed.proj.": "videomae.embeddings.patch_embeddings.projection.",
        "encoder.blocks.": "videomae.encoder.layer.",
        "encoder.norm.": "videomae.layernorm.",
        "decoder.blocks.": "decoder.decoder_layers.",
        "patch_embed.proj.": "videomae.embeddings.patch_embeddings.projection.",
        "blocks.": "videomae.encoder.layer.",
        "head.": "classifier.",
    }
    named = {}
    for key, value in state.items():
        start = next((start for start in starts if key.startswith(start)), "")
        name = starts.get(start, "") + key.removeprefix(start)
        for ours, theirs in zip(PARTS, OLD, strict=True):
            name = name.replace(f".{ours}.", f".{theirs}.")
        name = name.replace(".attn.q_bias", f".attention.attention.{query}")
        name = name.replace(".attn.v_bias", f".attention.attention.{value_bias}")
        if not name.endswith(".attn.qkv.weight"):
            named[name] = value
            continue
        for projection, part in zip(PROJECTIONS["old"], value.chunk(3), strict=True):
            named[name.replace(".attn.qkv.", f".attention.attention.{projection}.")] = part
    return named


def classifier(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """VideoMAE's encoder as fine-tuned and distilled files hold it."""
    encoder = {key.removeprefix("encoder."): x for key, x in state.items() if key.startswith("encoder.")}
    encoder |= {f"fc_norm.{part}": encoder.pop(f"norm.{part}") for part in ("weight", "bias")}
    return encoder | {"head.weight": torch.zeros(5, 192), "head.bias": torch.zeros(5)}


@pytest.mark.parametrize("version", ["old", "new"])
@pytest.mark.parametrize("prefix", ["vit.", ""])
def test_transformers_vit_mae_gives_what_the_official_names_give(version, prefix):
    """The same tensors, hence the same method. Blocks of 4.57 and 5.24; heads by the published width."""
    ours, theirs = load_official("mae", official_mae()), None
    with pytest.warns(UserWarning, match="names are those of transformers"):
        theirs = load_official("mae", vit_names(official_mae(), version, prefix))
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
    assert theirs.encoder.trunk.norm.eps == 1e-12  # layer_norm_eps, the default of ViTMAEConfig


def test_transformers_classifiers_leave_their_head_out():
    state = {key: x for key, x in official_mae().items() if not key.startswith(("decoder", "mask_token"))}
    state = vit_names(state | {"head.weight": torch.zeros(5, 192), "head.bias": torch.zeros(5)}, "new")
    with pytest.warns(UserWarning, match=r"(?s)no decoder.*head.*: the classifier, left out"):
        method = load_official("mae", state)
    assert torch.equal(method.encoder.cls.token, official_mae()["cls_token"])


@pytest.mark.parametrize("biases", ["old", "new"])
@pytest.mark.parametrize("name", ["videomae", "videomaev2"])
def test_transformers_videomae_gives_what_the_official_names_give(biases, name):
    options = {"img_size": 16, "all_frames": 4}
    ours = load_official(name, official_videomae(), options)
    for state in (official_videomae(), classifier(official_videomae())):
        theirs = load_official(name, video_names(state, biases), options)
        for key, value in ours.encoder.state_dict().items():
            assert torch.equal(value, theirs.encoder.state_dict()[key]), key
    theirs = load_official(name, video_names(official_videomae(), biases), options)
    for key, value in ours.readouts.state_dict().items():
        assert torch.equal(value, theirs.readouts.state_dict()[key]), key


def test_a_config_beside_the_file_tells_what_tensors_do_not_show(tmp_path, capsys):
    """As transformers' save_pretrained writes it."""
    save_file(vit_names(official_mae(dim=128), "old"), tmp_path / "model.safetensors")
    config = {"model_type": "vit_mae", "num_attention_heads": 8, "layer_norm_eps": 1e-5, "mask_ratio": 0.6}
    (tmp_path / "config.json").write_text(json.dumps(config | {"norm_pix_loss": True}))
    method = load_official("mae", read_checkpoint(tmp_path / "model.safetensors"))
    assert method.encoder.trunk.blocks[0].attn.heads == 8 and method.encoder.trunk.norm.eps == 1e-5
    assert method.masker.ratio == 0.6

    arguments = ["official=mae", f"path={tmp_path / 'model.safetensors'}", f"out={tmp_path / 'out'}"]
    assert main(arguments) == 0 and "heads" not in capsys.readouterr().out
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    assert main(arguments) == 2 and "hidden_act" in capsys.readouterr().err


def save_folder(folder, state, config, kind="safetensors"):
    """A folder as transformers' save_pretrained writes it: in one file, by torch.save, or in two parts."""
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(state)
    if kind == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    elif kind == "safetensors":
        save_file(state, folder / "model.safetensors")
    else:
        weight_map = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
        for file in set(weight_map.values()):
            save_file({name: state[name] for name in names if weight_map[name] == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("kind", ["safetensors", "bin", "parts"])
def test_a_folder_of_transformers_tells_sizes_by_its_config(tmp_path, capsys, kind):
    config = {"model_type": "videomae", "image_size": 16, "num_frames": 4, "num_attention_heads": 3}
    save_folder(tmp_path, video_names(official_videomae(), "old"), config, kind)
    assert main(["official=videomae", f"path={tmp_path}", f"out={tmp_path / 'out'}"]) == 0
    assert "assumed" not in capsys.readouterr().out
    assert load_encoder(tmp_path / "out").tokenizer.size == (4, 16, 16)
    assert open_encoder("video", "videomae_base", tmp_path).tokenizer.size == (4, 16, 16)


def test_a_folder_of_transformers_without_weights(tmp_path, capsys):
    save_folder(tmp_path, {}, {"model_type": "vit_mae"})
    (tmp_path / "model.safetensors").unlink()
    assert main(["official=mae", f"path={tmp_path}", f"out={tmp_path / 'out'}"]) == 2
    assert "without weights (model.safetensors or pytorch_model.bin)" in capsys.readouterr().err


def test_sinusoids_in_a_file_of_transformers_show_the_size():
    state = video_names(official_videomae(), "old")
    state["videomae.embeddings.position_embeddings"] = torch.zeros(1, 8 * 9, 192)
    assert load_official("videomae", state).tokenizer.size == (16, 24, 24)
    assert load_official("videomae", state, {"img_size": 16}).tokenizer.size == (36, 16, 16)


def test_pre_training_files_of_transformers_without_a_last_norm():
    """`use_mean_pooling`, the default of VideoMAEConfig, leaves the encoder's last norm to the classifier."""
    state = {k: v for k, v in official_videomae().items() if not k.startswith("encoder.norm.")}
    options = {"img_size": 16, "all_frames": 4}
    with pytest.warns(UserWarning, match="no last norm"):
        method = load_official("videomae", video_names(state, "old"), options)
    assert isinstance(method.encoder.trunk.norm, torch.nn.Identity)
    for config in ({"use_mean_pooling": False}, {"use_mean_pooling": False, "hidden_size": 192}):
        with pytest.raises(UserError, match=r"missing: encoder\.trunk\.norm"):
            load_official("videomae", {"model": video_names(state, "old"), "args": config}, options)
    with pytest.raises(UserError, match=r"missing: encoder\.trunk\.norm"):
        load_official("videomae", state, options)


@torch.no_grad()
def test_features_are_those_of_transformers_vit_mae():
    """Where transformers is installed; its masking is switched off, which leaves the order of patches."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        hidden_size=192, num_hidden_layers=2, num_attention_heads=3, intermediate_size=384, image_size=32,
        patch_size=8, mask_ratio=0.0, decoder_hidden_size=512, decoder_num_hidden_layers=1,
    )  # fmt: skip
    model = transformers.ViTMAEForPreTraining(config).eval()
    method = load_official("mae", model.state_dict()).eval()

    pixels = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    order = torch.arange(16).float().expand(2, -1)
    theirs = model.vit(normalised, noise=order).last_hidden_state
    latent = method.encoder(method.tokenizer(pixels).unmasked())
    assert_close(torch.cat([latent.cls[:, None], latent.features], 1), theirs, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_features_are_those_of_transformers_videomae():
    """Where transformers is installed."""
    transformers = pytest.importorskip("transformers")
    config = transformers.VideoMAEConfig(
        hidden_size=192, num_hidden_layers=2, num_attention_heads=3, intermediate_size=384, image_size=16,
        patch_size=8, num_frames=4, use_mean_pooling=False, decoder_hidden_size=192, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=3,
    )  # fmt: skip
    model = transformers.VideoMAEForPreTraining(config).eval()
    method = load_official("videomae", model.state_dict(), {"img_size": 16, "all_frames": 4}).eval()

    clip = torch.rand(2, 3, 4, 16, 16)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (clip - mean.view(3, 1, 1, 1)) / std.view(3, 1, 1, 1)
    theirs = model.videomae(normalised.transpose(1, 2)).last_hidden_state
    ours = method.encoder(method.tokenizer(clip).unmasked()).features
    assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["token", "avg"])
def test_a_vit_of_timm_loads_as_mae(pool):
    """Its encoder; expected features are timm's own."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, global_pool=pool).eval()
    method = load_official("mae", model.state_dict()).eval()
    pixels = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    theirs = model.forward_features(normalised)
    if pool == "avg":
        theirs = model.fc_norm(theirs)
    latent = method.encoder(method.tokenizer(pixels).unmasked())
    assert_close(torch.cat([latent.cls[:, None], latent.features], 1), theirs, atol=1e-4, rtol=1e-4)


def timm_state(name: str, **options) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        model = timm.create_model(name, **options)
    return {key: torch.zeros(value.shape) for key, value in model.state_dict().items()}


def module_state(module: torch.nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{key}": value for key, value in module.state_dict().items()}


FILES = {
    "mae": official_mae(),
    "transformers ViTMAE": vit_names(official_mae(), "old"),
    "transformers ViT": vit_names(
        {k: v for k, v in official_mae().items() if "decoder" not in k and "mask" not in k}, "new"
    ),
    "videomae": official_videomae(),
    "transformers VideoMAE": video_names(official_videomae(), "old"),
    "distilled": classifier(official_videomae()),
    "graphmae": official_state(Model()),
    "graphmae2": official_state(Model(is_second=True)),
    "timm ViT": timm_state("vit_tiny_patch16_224", depth=1),
    "timm ResNet": timm_state("resnet18"),
    "timm ConvNeXt": timm_state("convnext_small", depths=(1, 1, 1, 1)),
    "DINOv2": timm_state("vit_small_patch14_dinov2", depth=1, img_size=28),
    "DeiT": timm_state("deit_tiny_distilled_patch16_224", depth=1),
    "Swin": timm_state("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1)),
    "BEiT": timm_state("beit_base_patch16_224", depth=1),
    "ours": {"encoder.trunk.blocks.0.norm1.weight": torch.zeros(8), "encoder.embed.proj.weight": torch.zeros(8, 3)},
    "CLIP": {"visual.conv1.weight": torch.zeros(8, 3, 4, 4), "logit_scale": torch.zeros(())},
    "PyG": {"convs.0.lin.weight": torch.zeros(8, 3), "convs.0.bias": torch.zeros(8)},
    "LoRA": {"base_model.layers.0.q_proj.lora_A.weight": torch.zeros(8, 3)},
    "a linear layer": module_state(torch.nn.Linear(3, 4), ""),
    "a recurrent network": module_state(torch.nn.LSTM(3, 4), "lstm."),
    "flat patches": official_mae() | {"patch_embed.proj.weight": torch.zeros(192, 192)},
    "scalars": dict.fromkeys(official_mae(), torch.zeros(())),
    "empty tensors": dict.fromkeys(official_mae(), torch.zeros(0)),
}
READERS = {
    "mae": ["mae"],
    "transformers ViTMAE": ["mae"],
    "transformers ViT": ["mae"],
    "videomae": ["videomae", "videomaev2"],
    "transformers VideoMAE": ["videomae", "videomaev2"],
    "distilled": ["videomae", "videomaev2"],
    "graphmae": ["graphmae", "graphmae-gin"],
    "graphmae2": ["graphmae2"],
    "timm ViT": ["mae"],
    "timm ResNet": ["spark"],
    "timm ConvNeXt": ["spark"],
}
WORDS = {
    "DINOv2": "DINOv2",
    "DeiT": "DeiT",
    "Swin": "Swin",
    "BEiT": "BEiT",
    "ours": "Lacuna's own weights: pass the run's folder",
    "CLIP": "CLIP",
    "PyG": "PyTorch Geometric",
    "LoRA": "LoRA",
}


@pytest.mark.parametrize("kind", FILES)
def test_every_reader_loads_a_file_or_names_its_kind_in_one_line(kind):
    readers = READERS.get(kind, [])
    for name in official_names():
        if name in readers:
            load_official(name, FILES[kind])
            continue
        with pytest.raises(UserError) as error:
            load_official(name, FILES[kind])
        message = str(error.value)
        assert "\n" not in message
        for words in [*readers, WORDS.get(kind, "")]:
            assert words in message, f"official={name}: {message}"
