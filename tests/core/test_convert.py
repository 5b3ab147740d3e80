"""From an official file to an encoder that opens without any training code."""

import torch
from safetensors.torch import save_file

from core import load_encoder
from core.convert import main
from tests.core.official_files import official_mae


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


def test_what_is_wrong_is_said_once(tmp_path, capsys):
    assert main(["official=mae", f"out={tmp_path}"]) == 2
    assert main(["official=mea", "path=x.pth", f"out={tmp_path}"]) == 2
    assert main(["officail=mae"]) == 2
    said = capsys.readouterr().err
    assert "path=" in said and "x.pth does not exist" in said and "official" in said
