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


def test_what_is_wrong_is_said_once(tmp_path, capsys):
    assert main(["official=mae", f"out={tmp_path}"]) == 2
    assert main(["official=mea", "path=x.pth", f"out={tmp_path}"]) == 2
    assert main(["officail=mae"]) == 2
    said = capsys.readouterr().err
    assert "path=" in said and "x.pth does not exist" in said and "official" in said
