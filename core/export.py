"""The encoder is the product: saved as config.json + model.safetensors, opened with one call and no training code."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from core.config import compose
from core.config.allowed import checked_targets
from core.config.build import build, build_method
from core.encoder import Encoder
from core.errors import UserError
from core.files import explain_write_errors, write_atomic
from core.interop import open_official, read_checkpoint
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokenizers import Tokenizer
from core.tokens import Latent

FORMAT = 1
DATA_LICENCE = "that of the data it was trained on"


@dataclass(frozen=True)
class Features:
    """What a saved encoder says of a raw batch.

    `tokens` (B, N, D), `valid` (B, N) bool or None, `pooled` (B, D) the mean of valid tokens without cls, `cls` (B, D)
    or None, `grid` of the tokens where they lie on one. Packed data also have `sample` (N,), with `pooled` (S, D).
    """

    tokens: Tensor
    valid: Tensor | None
    pooled: Tensor
    cls: Tensor | None
    grid: tuple[int, ...] | None
    sample: Tensor | None = None


class SavedEncoder(nn.Module):
    """Tokenizer and encoder: takes raw batches of its view as the readers make them, sees all of it.

    `config`: the nodes it was built from, its origin and licence. `view`: the modality's name.
    """

    def __init__(self, tokenizer: Tokenizer, encoder: Encoder, config: Mapping[str, Any]):
        super().__init__()
        self.tokenizer, self.encoder, self.config = tokenizer, encoder, dict(config)
        self.view: str = config["view"]

    @property
    def embed_dim(self) -> int:
        return self.encoder.embed_dim

    def forward(self, data: Any) -> Features:
        """Raw data: images uint8 or [0, 1] (B, C, H, W), clips (B, C, T, H, W), …"""
        latent = self.latent(data)
        return Features(
            latent.features, latent.layout.valid, _pool(latent), latent.cls, latent.layout.grid, latent.layout.sample
        )

    def latent(self, data: Any, taps: tuple[str, ...] = ()) -> Latent:
        """The encoder's own answer; `taps` asks for block outputs ("block0", …)."""
        return self.encoder(self.tokenizer(data).unmasked(), taps)


def save_encoder(path: str | Path, encoder: SavedEncoder) -> None:
    """Writes config.json and model.safetensors, each atomically. Nothing in it needs training code to be read."""
    path = Path(path)
    tensors = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    contents = {"model.safetensors": save(tensors), "config.json": f"{json.dumps(encoder.config, indent=2)}\n".encode()}
    with explain_write_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_atomic(path / name, content)


def export_encoder(run_dir: str | Path, method: MaskedAutoencoder, config: Mapping[str, Any]) -> Path:
    """Saves a trained method's encoder as `<run_dir>/encoder`."""
    path = Path(run_dir) / "encoder"
    save_encoder(path, SavedEncoder(method.tokenizer, method.encoder, _describe(config, DATA_LICENCE)))
    return path


def export_official(
    name: str, checkpoint: Mapping[str, Any], path: Path, meta: Mapping[str, Any] | None = None
) -> SavedEncoder:
    """Saves the encoder of an official checkpoint in `path` and returns it; `meta` as for `load_official`."""
    method, config = open_official(name, checkpoint, meta)
    encoder = SavedEncoder(
        method.tokenizer, method.encoder, _describe(config, licence=f"that of the {name} checkpoint")
    )
    save_encoder(path, encoder)
    return encoder.eval()


def load_encoder(path: str | Path, pretrained: bool = True) -> SavedEncoder:
    """Opens a saved encoder, in eval mode. `path`: its folder, or that of a run.

    `pretrained=False`: the same shape with fresh weights (a baseline).
    Raises: UserError when files are missing or damaged, or when the config names anything outside the allow-list.
    """
    path = Path(path)
    path = path / "encoder" if (path / "encoder" / "config.json").exists() else path
    config = _read_config(path)
    nodes = {key: json.loads(json.dumps(config[key])) for key in ("tokenizer", "encoder")}
    checked_targets(nodes)
    tokenizer = build(nodes["tokenizer"], key="tokenizer", kind=Tokenizer)
    given = getattr(tokenizer, "provides", {})
    encoder = SavedEncoder(tokenizer, build(nodes["encoder"], given, key="encoder", kind=Encoder), config)
    if pretrained:
        encoder.load_state_dict(_read_weights(path / "model.safetensors", encoder))
    return encoder.eval()


def open_encoder(modality: str, name: str, weights: str | Path | None = None) -> SavedEncoder:
    """An encoder by name, "<method>_<size>" ("mae_base"), in eval mode: what `modalities.<m>.encoder` calls.

    `weights`: None for fresh ones; a run's folder or a saved encoder; or a file of official weights (.safetensors, or
    .pth read without unpickling code), whose own sizes then count.
    Raises: UserError for unknown names and for files that are missing, damaged or of another kind.
    """
    if weights is not None and Path(weights).is_dir():
        return load_encoder(weights)
    method, _, size = name.rpartition("_")
    # No data are read: published input sizes are those of people's own.
    config = compose([f"modality={modality}", f"method={method}", f"size={size}", "data=folder", "data.root=none"])
    if weights is None:
        built = build_method(config)
    else:
        *_, official = config["method"]["official"]  # its own name follows those of methods that it extends
        built, config = open_official(official, read_checkpoint(weights))
    licence = "yours" if weights is None else f"that of {Path(weights).name}"
    return SavedEncoder(built.tokenizer, built.encoder, _describe(config, licence)).eval()


def _describe(config: Mapping[str, Any], licence: str) -> dict[str, Any]:
    """What config.json holds, of the config of a run whose method was built."""
    return {
        "format": FORMAT,
        "view": config["modality"]["name"],
        "tokenizer": config["method"]["tokenizer"],
        "encoder": config["method"]["encoder"],
        "origin": {
            "method": config["method"]["name"],
            "data": config["data"]["name"],
            "size": config["size"]["name"],
            "licence": licence,
        },
    }


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / "config.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{path} holds no saved encoder (no config.json). Pass a run folder or its encoder/.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path / 'config.json'} cannot be read: {error}") from None
    lacking = {"format", "view", "tokenizer", "encoder"} - config.keys()
    if lacking or config["format"] != FORMAT:
        raise UserError(
            f"{path / 'config.json'} is no encoder of format {FORMAT} (missing: {sorted(lacking) or 'none'})."
        )
    return config


def _read_weights(path: Path, encoder: nn.Module) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from None
    expected = {name: value.shape for name, value in encoder.state_dict().items()}
    wrong = [k for k in expected.keys() | tensors.keys() if k not in tensors or expected.get(k) != tensors[k].shape]
    if wrong:
        raise UserError(f"{path} does not fit its config.json: {', '.join(sorted(wrong)[:4])}.")
    return tensors


def _pool(latent: Latent) -> Tensor:
    layout, x = latent.layout, latent.features
    if layout.sample is not None and layout.samples is not None:
        total = x.new_zeros(layout.samples, x.shape[2]).index_add(0, layout.sample, x[0])
        size = torch.bincount(layout.sample, minlength=layout.samples).clamp(min=1)
        return total / size[:, None]
    if layout.valid is None:
        return x.mean(1)
    weight = layout.valid[..., None].to(x.dtype)
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1)
