"""Files of weights as people have them: contents without running code, or a message about the file's kind."""

import json
import mmap
import re
import warnings
import zipfile
from codecs import getincrementaldecoder
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from core import inert_pickle
from core.errors import UserError, one_line

HEAD = 512  # bytes that show a file's kind
LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # the number that torch.save put first until version 1.6
TRANSFORMERS = ("model.safetensors", "pytorch_model.bin")  # names of its weights, the preferred first
TORCHSCRIPT = b"constants.pkl"
AGAIN = "the download or copy ended early: get the file again"

# Kinds of file by their first bytes, and the remedy.
SIGNATURES = (
    (b"version https://git-lfs", "a git-LFS pointer, not the file: run `git lfs pull`, or download the file"),
    (b"\x93NUMPY", "a NumPy array: weights are a dict of tensors by name (torch.save, safetensors)"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras and TensorFlow save weights; PyTorch's are read"),
    (b"GGUF", "a GGUF file of quantised weights; PyTorch's are read"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (b"\xfd7zXZ", "compressed by xz: unpack it first"),
    (b"BZh", "compressed by bzip2: unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a picture (PNG)"),
    (b"\xff\xd8\xff", "a picture (JPEG)"),
)
FLAX = "a checkpoint of JAX or Flax (msgpack); PyTorch's are read"


def read_checkpoint(path: str | Path) -> Mapping[str, Any]:
    """The contents of a checkpoint file: safetensors, or what torch.save writes, under whatever name.

    A folder that transformers saved stands for the weights in it.
    Nothing in it is run (`core.inert_pickle`): tensors, dicts and lists are read, of any other object an
    inert stand-in is left, with its attributes. A pickled module becomes the dict of its weights. Where
    transformers left a config.json beside the file, the result has it under "args".
    Raises: UserError, with the kind of the file, where it is missing, damaged or of another kind.
    """
    path = Path(path)
    if is_transformers(path):
        return _folder(path)
    try:
        head = _head(path)
        if _is_safetensors(head):
            return _with_config(load_file(path), path)

        _refuse_other_kinds(path, head)
        # Not `weights_only`, which refuses a file for every object that it does not know, and pickles of
        # another protocol. This module looks names up in a table of its own and runs none: no less strict.
        options = {"weights_only": False, "pickle_module": inert_pickle, "encoding": "latin1"}
        with open(path, "rb") as file, warnings.catch_warnings(action="ignore"):
            content = torch.load(file, map_location="cpu", **options)
    except UserError:
        raise
    except SafetensorError as error:
        reason = one_line(error)
        raise UserError(f"{path} is damaged or cut off: {reason} ({_size(path)}); {AGAIN}.") from None
    except Exception as error:  # damaged files raise anything
        reason = one_line(error).split(". ")[0]
        fault = f"damaged or cut off ({_size(path)}: {reason})"
        raise UserError(f"{path} is no readable checkpoint: {fault}.") from None

    content = _weights_of(content)
    if isinstance(content, Mapping):
        content = {name: _weights_of(value) for name, value in content.items()}
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds one {type(content).__name__}, no weights by name: pass a state dict.")
    return _with_config(content, path)


def is_transformers(path: Path) -> bool:
    """Whether it is a folder as transformers' save_pretrained writes it."""
    return path.is_dir() and "model_type" in _json(path / "config.json")


def _folder(path: Path) -> Mapping[str, Any]:
    """The weights of a folder of transformers, in one file or cut into several."""
    for name in TRANSFORMERS:
        if (path / name).exists():
            return read_checkpoint(path / name)

        parts = _json(path / f"{name}.index.json").get("weight_map")
        if isinstance(parts, Mapping):
            content: dict[str, Any] = {}
            for part in sorted(set(map(str, parts.values()))):
                content |= read_checkpoint(path / Path(part).name)["model"]
            return _with_config(content, path / name)
    raise UserError(f"{path} is a folder of transformers without weights ({' or '.join(TRANSFORMERS)}).")


def _json(path: Path) -> Mapping[str, Any]:
    """An object; empty where there is no such file."""
    content = None
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, Mapping) else {}


def _with_config(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The contents, with the options that transformers saved beside them as `args`."""
    config = _json(path.with_name("config.json"))
    if "model_type" not in config or "args" in content:
        return content
    return {"model": content, "args": config}


def _weights_of(value: Any) -> Any:
    """The weights of a pickled module; anything else as it is."""
    if isinstance(value, inert_pickle.StandIn):
        return module_weights(value) or value
    return value


def module_weights(module: Mapping[str, Any], prefix: str = "") -> dict[str, torch.Tensor]:
    """The state dict of a pickled module, by the attributes that modules have; empty where it is none."""
    tensors = {}
    for part in ("_parameters", "_buffers"):
        for name, value in _mapping(module.get(part)).items():
            if isinstance(value, torch.Tensor):
                tensors[f"{prefix}{name}"] = value

    for name, child in _mapping(module.get("_modules")).items():
        tensors |= module_weights(_mapping(child), f"{prefix}{name}.")
    return tensors


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _head(path: Path) -> bytes:
    """The first bytes. Raises: UserError where there is no file, or nothing in it."""
    if path.is_dir():
        names = sorted(file.name for file in path.iterdir())
        weights = [name for name in names if name.endswith((".safetensors", ".pth", ".pt", ".bin", ".ckpt"))]
        raise UserError(f"{path} is a folder: pass a file of weights in it ({_shortened(weights or names)}).")
    if not path.exists():
        raise UserError(f"{path} does not exist; pass a checkpoint file or a run's folder.")

    with open(path, "rb") as file:
        head = file.read(HEAD)
    if not head:
        raise UserError(f"{path} is empty (0 bytes): {AGAIN}.")
    if not any(head) and not _any_byte(path):
        raise UserError(f"{path} holds zeros alone ({_size(path)}): {AGAIN}.")
    return head


def _is_safetensors(head: bytes) -> bool:
    """Eight bytes of the header's length, at most 100 MB, then JSON."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 10**8


def _any_byte(path: Path) -> bool:
    """Whether any byte of the file is not zero."""
    with open(path, "rb") as file:
        while block := file.read(2**20):
            if any(block):
                return True
    return False


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    """Raises: UserError unless the file looks like one that torch.save wrote."""
    if head.startswith(b"PK\x03\x04"):
        return _refuse_other_zips(path)
    if LEGACY in head[:32]:
        return None

    for start, kind in SIGNATURES:
        if head.startswith(start):
            raise UserError(f"{path} is {kind}.")
    raise UserError(f"{path} is {_kind(path, head)}.")


def _refuse_other_zips(path: Path) -> None:
    """A zip that torch.save wrote holds data.pkl."""
    # Searched for in the bytes: torch would run such an archive, whichever reader of zips finds it in there.
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(TORCHSCRIPT) >= 0:
            raise UserError(
                f"{path} is a TorchScript archive, a program with its weights, which is not read: save its "
                "weights alone, torch.save(torch.jit.load(path).state_dict(), 'weights.pth')."
            )

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        fault = f"a zip, as torch.save writes, that is cut off ({_size(path)})"
        raise UserError(f"{path} is {fault}; {AGAIN}.") from None

    if not any(name.endswith("data.pkl") for name in names):
        is_arrays = names and all(name.endswith(".npy") for name in names)
        kind = "a zip archive of other files: unpack it first"
        if is_arrays:
            kind = "a file of NumPy arrays (.npz)"
        raise UserError(f"{path} is {kind} ({_shortened(names) or 'empty'}).")


def _kind(path: Path, head: bytes) -> str:
    """The kind of a file that is no checkpoint, and the remedy."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        return 'a web page, not the file: use the link of the download itself ("raw", "resolve")'
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    if head[4:8] == b"TFL3" or re.search(r"\.(pb|index|data-\d+-of-\d+|tflite|meta)$", path.name):
        return "a file of TensorFlow; PyTorch's are read"
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and head[2:3] == b"\x12"):
        return "an ONNX model; PyTorch's weights are read (torch.save(model.state_dict(), path))"
    if path.suffix == ".msgpack" or (0x81 <= head[0] <= 0x8F and b"params" in head[:16]):
        return FLAX
    if head[:1] == b"\x80":
        return "a pickle that torch.save did not write: save the weights by torch.save or as safetensors"

    with suppress(UnicodeDecodeError):
        line = getincrementaldecoder("utf-8")().decode(head)[:60].split("\n")[0].strip()
        if line.isprintable():
            if line.startswith(("{", "[")):
                return f"a JSON text, such as an index or a config, and not the weights ({line!r} …)"
            return f"a text ({line!r} …), no checkpoint"
    kinds = "safetensors, .pth, .pt, .ckpt and .bin of PyTorch are read"
    return f"no checkpoint of a known kind ({_size(path)}; {kinds})"


def _size(path: Path) -> str:
    return f"{path.stat().st_size} bytes"


def _shortened(names: list[str]) -> str:
    return f"{', '.join(names[:4])}{' …' if len(names) > 4 else ''}"
