"""Saved encoders: config.json + model.safetensors, opened with one call and no training code."""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from core.checkpoint_files import read_checkpoint
from core.config import compose
from core.config.allowed import checked_targets
from core.config.build import build, build_method
from core.encoder import Encoder, EncoderByView
from core.errors import UserError
from core.files import explain_write_errors, write_atomic
from core.interop import open_official
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokenizers import Tokenizer, TokenizerByView
from core.tokens import Latent

FORMAT = 1
DATA_LICENCE = "that of the data it was trained on"


@dataclass(frozen=True)
class Features:
    """A saved encoder's features of a raw batch."""

    tokens: Tensor  # (B, N, D)
    valid: Tensor | None  # (B, N) bool, False at padding; None: no padding
    _: KW_ONLY
    pooled: Tensor  # (B, D) mean of valid tokens without cls; (S, D) of packed data
    cls: Tensor | None = None  # (B, D)
    grid: tuple[int, ...] | None = None  # of the tokens, where they lie on one
    sample: Tensor | None = None  # (N,) sample of each token, of packed data


class SavedEncoder(nn.Module):
    """Tokenizer and encoder: takes raw batches of its view as the readers make them, nothing hidden.

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
        layout = latent.layout
        return Features(
            latent.features,
            layout.valid,
            pooled=_pool(latent),
            cls=latent.cls,
            grid=layout.grid,
            sample=layout.sample,
        )

    def latent(self, data: Any, taps: tuple[str, ...] = ()) -> Latent:
        """The encoder's latent, with the block outputs named in `taps` ("block0", …)."""
        return self.encoder(self.tokenizer(data).unmasked(), taps)


def save_encoder(path: str | Path, encoder: SavedEncoder) -> None:
    """Writes config.json and model.safetensors, each atomically. Reading them needs no training code."""
    path = Path(path)
    tensors = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    text = json.dumps(encoder.config, indent=2)

    with explain_write_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        write_atomic(path / "model.safetensors", save(tensors))
        write_atomic(path / "config.json", f"{text}\n".encode())


def export_encoder(run_dir: str | Path, method: MaskedAutoencoder, config: Mapping[str, Any]) -> Path:
    """Saves a trained method's encoder as `<run_dir>/encoder`, or one for each view as `<run_dir>/encoder/<view>`."""
    path = Path(run_dir) / "encoder"
    description = _describe(config, DATA_LICENCE)
    if not isinstance(method.encoder, EncoderByView):
        save_encoder(path, SavedEncoder(method.tokenizer, method.encoder, description))
        return path

    for view, encoder in method.encoder.views.items():
        of_view = {**description, "view": view, "encoder": description["encoder"]["views"][view]}
        tokenizer = method.tokenizer
        if isinstance(tokenizer, TokenizerByView):
            tokenizer = tokenizer.views[view]
            of_view["tokenizer"] = description["tokenizer"]["views"][view]
        save_encoder(path / view, SavedEncoder(tokenizer, encoder, of_view))
    return path


def export_official(
    name: str,
    checkpoint: Mapping[str, Any],
    path: Path,
    meta: Mapping[str, Any] | None = None,
) -> SavedEncoder:
    """Saves the encoder of an official checkpoint in `path` and returns it; `meta` as for `load_official`."""
    method, config = open_official(name, checkpoint, meta)
    description = _describe(config, licence=f"that of the {name} checkpoint")
    encoder = SavedEncoder(method.tokenizer, method.encoder, description)
    save_encoder(path, encoder)
    return encoder.eval()


def load_encoder(path: str | Path, pretrained: bool = True, view: str | None = None) -> SavedEncoder:
    """Opens a saved encoder, in eval mode. `path`: its folder, or that of a run.

    `pretrained=False`: the same shape with random weights (a baseline). `view`: which one, where the run has several.
    Raises: UserError when files are missing or damaged, when the config names anything outside the allow-list, and
    when several views leave the choice open.
    """
    path = _find_encoder(Path(path), view)
    config = _read_config(path)
    if view not in (None, config["view"]):
        raise UserError(f"{path} holds an encoder of the view {config['view']}, none of view={view}.")

    # Copies: building completes nodes, and the config is that of the file.
    nodes = {key: deepcopy(config[key]) for key in ("tokenizer", "encoder")}
    checked_targets(nodes)
    tokenizer = build(nodes["tokenizer"], key="tokenizer", kind=Tokenizer)
    scope = getattr(tokenizer, "provides", {})
    encoder = build(nodes["encoder"], scope, key="encoder", kind=Encoder)

    saved = SavedEncoder(tokenizer, encoder, config)
    if pretrained:
        saved.load_state_dict(_read_weights(path / "model.safetensors", saved))
    return saved.eval()


def open_encoder(modality: str, name: str, weights: str | Path | None = None) -> SavedEncoder:
    """An encoder by name, "<method>_<size>" ("mae_base"), in eval mode. `modalities.<m>.encoder` calls it.

    `weights`: None for random ones; a run's folder or a saved encoder; or a file of official weights
    (.safetensors, or .pth read without unpickling code), whose own sizes then count.
    Raises: UserError for unknown names and for files that are missing, damaged or of another kind.
    """
    if weights is not None and Path(weights).is_dir():
        return load_encoder(weights)

    # No data are read: input sizes are as published, for users' own data.
    prefix, _, size = name.rpartition("_")
    choices = [f"modality={modality}", f"method={prefix}", f"size={size}"]
    config = compose([*choices, "data=folder", "data.root=none"])

    if weights is None:
        method, licence = build_method(config), "yours"
    else:
        *_, official = config["method"]["official"]  # the method's own name follows those that it extends
        method, config = open_official(official, read_checkpoint(weights))
        licence = f"that of {Path(weights).name}"
    return SavedEncoder(method.tokenizer, method.encoder, _describe(config, licence)).eval()


def _find_encoder(path: Path, view: str | None) -> Path:
    """The folder of one saved encoder: `path` itself, or the one of `view` in it, or in that of a run."""
    if (path / "encoder").is_dir():  # a run's folder
        path = path / "encoder"

    views = sorted(file.parent.name for file in path.glob("*/config.json"))
    if not views:
        return path
    if view not in views:
        raise UserError(f"{path} holds an encoder for each of the views {', '.join(views)}: choose one by view=.")
    return path / view


def _describe(config: Mapping[str, Any], licence: str) -> dict[str, Any]:
    """The contents of config.json, from the config of a run whose method was built."""
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
        remedy = "Pass a run folder or its encoder/."
        if (path / "config.yaml").exists():
            remedy = f"The run has not come to its end: python -m core.train config={path / 'config.yaml'} goes on."
        raise UserError(f"{path} holds no saved encoder (no config.json). {remedy}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path / 'config.json'} cannot be read: {error}") from None

    missing = {"format", "view", "tokenizer", "encoder"} - config.keys()
    if missing or config["format"] != FORMAT:
        raise UserError(
            f"{path / 'config.json'} is no encoder of format {FORMAT} (missing: {sorted(missing) or 'none'})."
        )
    return config


def _read_weights(path: Path, encoder: nn.Module) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from None

    expected = encoder.state_dict()
    misfits = expected.keys() ^ tensors.keys()
    for name in expected.keys() & tensors.keys():
        if expected[name].shape != tensors[name].shape:
            misfits.add(name)
    if misfits:
        raise UserError(f"{path} does not fit its config.json: {', '.join(sorted(misfits)[:4])}.")
    return tensors


def _pool(latent: Latent) -> Tensor:
    """Mean of valid tokens (B, D), or of every sample of packed data (S, D)."""
    layout, x = latent.layout, latent.features

    if layout.sample is not None and layout.samples is not None:  # packed: x is (1, N, D)
        total = x.new_zeros(layout.samples, x.shape[2]).index_add(0, layout.sample, x[0])
        size = torch.bincount(layout.sample, minlength=layout.samples).clamp(min=1)
        return total / size[:, None]

    if layout.valid is None:
        return x.mean(1)
    weight = layout.valid[..., None].to(x.dtype)
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1)
