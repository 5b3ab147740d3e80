"""Files of weights as people have them: what is beside the weights, other kinds of file, damage."""

import argparse
import gzip
import io
import json
import pickle
import random
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from core.checkpoint_files import read_checkpoint
from core.convert import main
from core.errors import UserError
from core.interop import load_official
from tests.core.official_files import official_mae

PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body></body></html>\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 343249461\n"


def small_state() -> dict[str, torch.Tensor]:
    return official_mae(dim=16, depth=1, width=8)


def saved(content: object, **options) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


class Trainer:
    """An object of a training script, with weights and code beside."""

    def __init__(self):
        self.rate = np.float32(0.1)
        self.network = torch.nn.Linear(2, 2)


def network() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Sequential(torch.nn.BatchNorm1d(4)))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_whatever_stands_beside_the_weights_is_passed_over(tmp_path, zipped, protocol):
    """As training scripts save it; of the command line, options are read."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(5, 3)).sum().backward()
    optimizer.step()
    content = {
        "model": small_state(),
        "optimizer": optimizer.state_dict(),
        "optimizer_object": optimizer,
        "scaler": {"scale": 65536.0},
        "epoch": np.int64(3),
        "best": np.array([0.5]),
        "random": np.random.get_state(),
        "args": argparse.Namespace(mask_ratio=0.5, norm_pix_loss=False, device=torch.device("cpu")),
        "trainer": Trainer(),
    }
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
    (tmp_path / "a.pth").write_bytes(saved(content, **options))

    with pytest.warns(UserWarning, match="heads"):
        method = load_official("mae", read_checkpoint(tmp_path / "a.pth"))
    assert method.masker.ratio == 0.5 and method.readouts["main"].objectives["pixels"].target.per == "none"
    assert torch.equal(method.encoder.cls.token, small_state()["cls_token"])


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_module_is_read_as_its_weights(tmp_path, zipped):
    model = network()
    for number, content in enumerate((model, {"net": model, "epoch": 1})):
        path = tmp_path / f"{number}.pt"
        path.write_bytes(saved(content, _use_new_zipfile_serialization=zipped))
        weights = read_checkpoint(path)
        weights = weights.get("net", weights)
        assert weights.keys() == model.state_dict().keys()
        for name, value in model.state_dict().items():
            assert torch.equal(weights[name], value)


@pytest.mark.parametrize("name", ["a.pth", "a.bin", "a.ckpt", "a"])
def test_safetensors_are_known_by_their_content(tmp_path, name):
    save_file(small_state(), tmp_path / name)
    assert read_checkpoint(tmp_path / name).keys() == small_state().keys()


def test_a_pickle_called_safetensors_is_read_too(tmp_path):
    torch.save(small_state(), tmp_path / "a.safetensors")
    assert read_checkpoint(tmp_path / "a.safetensors").keys() == small_state().keys()


def archive(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as content:
        for name in names:
            content.writestr(name, b"text")
    return file.getvalue()


def arrays() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.ones(3))
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as content:
        content.addfile(tarfile.TarInfo("weights.txt"))
    return file.getvalue()


def program() -> bytes:
    """As torch.jit.save writes it: the names of its members say so."""
    return archive("model/data.pkl", "model/constants.pkl", "model/code/__torch__.py")


OTHER_KINDS = {
    "page": (PAGE, "web page.*raw"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
    "pointer": (POINTER, "git-LFS pointer.*git lfs pull"),
    "empty": (b"", r"empty \(0 bytes\)"),
    "zeros": (bytes(4096), "zeros alone"),
    "npy": (array(), "NumPy array"),
    "npz": (arrays(), r"NumPy arrays \(\.npz\).*a\.npy"),
    "zip": (archive("readme.txt", "mae.pth"), r"zip archive.*unpack.*mae\.pth"),
    "tar": (tar(), "tar archive.*unpack"),
    "gzip": (gzip.compress(b"text"), "gzip.*unpack"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5.*Keras"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:\x8f\x01", "ONNX"),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(40), "TensorFlow"),
    "torchscript": (program(), "TorchScript"),
    "json": (json.dumps({"weight_map": {"a": "b"}}).encode(), "JSON text.*weight_map"),
    "text": ("Qualität: gut\n".encode(), "a text.*Qualität"),
    "pickle": (pickle.dumps({"a": 1}), "pickle that torch.save did not write"),
    "noise": (bytes(range(7, 200)), "no checkpoint of a known kind"),
    "list": (saved([torch.ones(1)]), "one list, no weights by name"),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_a_file_of_another_kind_is_named(tmp_path, capsys, kind):
    content, message = OTHER_KINDS[kind]
    path = tmp_path / "mae.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_checkpoint(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)

    assert main(["official=mae", f"path={path}", f"out={tmp_path / 'out'}"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.ckpt-3.index", "model.data-00000-of-00001", "saved_model.pb"])
def test_files_of_tensorflow_are_known_by_their_names(tmp_path, name):
    (tmp_path / name).write_bytes(bytes([0, 1, 2, 200, 255]) * 9)
    with pytest.raises(UserError, match="TensorFlow"):
        read_checkpoint(tmp_path / name)


def test_a_folder_is_named_with_the_files_in_it(tmp_path):
    save_file(small_state(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"is a folder: .*model\.safetensors"):
        read_checkpoint(tmp_path)


def damaged(content: bytes, count: int) -> list[bytes]:
    """Cuts, changed bytes and replaced stretches, half of them in the first 6,000 bytes."""
    draw = random.Random(0)
    versions = []
    for number in range(count):
        version = bytearray(content)
        end = len(version) if draw.random() < 0.5 else min(6000, len(version))
        place = draw.randrange(end)
        if number % 3 == 0:
            del version[place:]
        elif number % 3 == 1:
            version[place] = draw.randrange(256)
        else:
            version[place : place + draw.randrange(1, 20)] = draw.randbytes(draw.randrange(20))
        versions.append(bytes(version))
    return versions


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["old", "new", "safetensors"])
def test_100_cuts_and_changes_load_or_are_refused_in_one_message(tmp_path, kind):
    content = {"model": small_state(), "args": argparse.Namespace(blr=1e-3)}
    original = (
        save(small_state()) if kind == "safetensors" else saved(content, _use_new_zipfile_serialization=kind == "new")
    )
    path, refused = tmp_path / "a.pth", 0
    for version in damaged(original, 100):
        path.write_bytes(version)
        try:
            load_official("mae", read_checkpoint(path))
        except UserError as error:
            assert str(error).strip()
            refused += 1
    assert refused >= 33  # every cut at least
