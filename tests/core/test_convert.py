"""From an official file to an encoder that opens without any training code."""

import re

import pytest
import torch
from safetensors.torch import save_file

from core import load_encoder
from core.convert import main
from tests.core.official_files import official_mae, official_point_mae, official_videomae


@torch.no_grad()
def test_an_official_file_becomes_an_encoder(tmp_path, capsys):
    save_file(official_mae(), tmp_path / "mae.safetensors")
    assert main(["official=mae", f"path={tmp_path / 'mae.safetensors'}", f"out={tmp_path / 'encoder'}"]) == 0
    assert "width 192" in capsys.readouterr().out
    encoder = load_encoder(tmp_path / "encoder")
    assert encoder(torch.rand(1, 3, 32, 32)).tokens.shape == (1, 16, 192)
    assert torch.equal(encoder.encoder.cls.token, official_mae()["cls_token"])


def test_a_fine_tuned_file_becomes_an_encoder_and_what_is_left_out_is_printed(tmp_path, capsys):
    """With heads that only the caller knows."""
    elsewhere = ("decoder", "mask_token", "norm")
    state = {key: x for key, x in official_mae(dim=320).items() if not key.startswith(elsewhere)}
    state |= {"fc_norm.weight": torch.ones(320), "fc_norm.bias": torch.zeros(320), "head.weight": torch.zeros(5, 320)}
    save_file(state, tmp_path / "tuned.safetensors")
    out = ["official=mae", f"path={tmp_path / 'tuned.safetensors'}", f"out={tmp_path / 'encoder'}"]

    assert main([*out, "meta={num_heads: 10}"]) == 0
    said = capsys.readouterr().out
    assert "width 320" in said and "head.weight: the classifier, left out" in said and "heads" not in said
    assert load_encoder(tmp_path / "encoder").encoder.trunk.blocks[0].attn.heads == 10
    assert main([*out, "meta=10"]) == 2 and main([*out, "meta={qk_scale: 0.5}"]) == 2
    assert "qk_scale=0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ("{nm_heads: 10}", "'nm_heads' is no option .* Did you mean num_heads"),
        ("{image_size: 32}", "Did you mean img_size"),
        ("{patch_size: 8}", "sizes are those of its tensors"),
        ("{num_heads: 3, normpixloss: true}", "'normpixloss' is no option .* Did you mean norm_pix_loss"),
    ],
)
def test_an_option_that_does_not_exist_is_refused_with_the_nearest(tmp_path, capsys, meta, message):
    save_file(official_mae(), tmp_path / "mae.safetensors")
    arguments = ["official=mae", f"path={tmp_path / 'mae.safetensors'}", f"out={tmp_path / 'encoder'}"]
    assert main([*arguments, f"meta={meta}"]) == 2
    assert re.search(message, capsys.readouterr().err) and not (tmp_path / "encoder").exists()


@pytest.mark.parametrize(
    ("name", "state", "meta"),
    [
        ("mae", official_mae(), "{num_heads: 3, decoder_num_heads: 8, img_size: 32, mask_ratio: 0.5}"),
        ("videomae", official_videomae(), "{img_size: 16, all_frames: 4, encoder_num_heads: 3, norm_layer: LayerNorm}"),
        ("point-mae", official_point_mae(), "{num_group: 8, mask_type: rand, transformer_config: {num_heads: 6}}"),
    ],
)
def test_options_that_a_file_leaves_open_are_taken(tmp_path, capsys, name, state, meta):
    save_file(state, tmp_path / "a.safetensors")
    arguments = [f"official={name}", f"path={tmp_path / 'a.safetensors'}", f"out={tmp_path / 'encoder'}"]
    assert main([*arguments, f"meta={meta}"]) == 0, capsys.readouterr().err
    assert main([*arguments, f"meta={meta[:-1]}, depth: 2}}"]) == 2


def test_notes_stand_on_a_line_each(tmp_path, capsys):
    tuned = {key.removeprefix("encoder."): x for key, x in official_videomae().items() if key.startswith("encoder.")}
    save_file(tuned | {"head.weight": torch.zeros(5, 192)}, tmp_path / "a.safetensors")
    assert main(["official=videomae", f"path={tmp_path / 'a.safetensors'}", f"out={tmp_path / 'encoder'}"]) == 0
    notes = capsys.readouterr().out.splitlines()[1:]
    assert [note.split()[0] for note in notes] == ["note:"] * 4
    assert [note for note in notes if "img_size=224" in note] and [note for note in notes if "head.weight" in note]


def test_what_is_wrong_is_said_once(tmp_path, capsys):
    assert main(["official=mae", f"out={tmp_path}"]) == 2
    assert main(["official=mea", "path=x.pth", f"out={tmp_path}"]) == 2
    assert main(["officail=mae"]) == 2
    said = capsys.readouterr().err
    assert "path=" in said and "x.pth does not exist" in said and "official" in said
