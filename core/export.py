"""Saved encoders: config.json + model.safetensors, opened with one call and no training code."""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.export
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from core.checkpoint_files import is_transformers, read_checkpoint
from core.config import compose, load
from core.config.allowed import checked_targets, load_target
from core.config.build import build, build_method
from core.data.memory import Sample, as_items
from core.data.reader import PIXELS, Reader
from core.encoder import Encoder, EncoderByView
from core.errors import BadSample, UserError, suggestion
from core.files import explain_write_errors, write_atomic, write_json
from core.interop import open_official, read_official
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokenizers import Patchify, Tokenizer, TokenizerByView
from core.tokens import Batch, Latent

FORMAT = 1
DECODER, METHOD = "decoder.safetensors", "method.json"  # beside the encoder of an official file, to train on from
DATA_LICENCE = "that of the data it was trained on"
SLACK = 0.25  # beyond [0, 1]: pictures that were resized overshoot a little


@dataclass(frozen=True)
class Features:
    """A saved encoder's features of a raw batch. A pytree, so that a whole encoder can be exported."""

    tokens: Tensor  # (B, N, D)
    valid: Tensor | None  # (B, N) bool, False at padding; None: no padding
    _: KW_ONLY
    pooled: Tensor  # (B, D) mean of valid tokens without cls; (S, D) of packed data
    cls: Tensor | None = None  # (B, D)
    grid: tuple[int, ...] | None = None  # of the tokens, where they lie on one
    sample: Tensor | None = None  # (N,) sample of each token, of packed data
    coords: Tensor | None = None  # (B, N, A) of the tokens, such as the centres of groups, where these have some


torch.export.register_dataclass(Features, serialized_type_name="core.export.Features")


class SavedEncoder(nn.Module):
    """Tokenizer and encoder: takes raw batches of its view as the readers make them, nothing hidden.

    `encoder(batch)`: features of a raw batch, a tensor or NumPy array where the view has those.
    `encoder.read(samples)`: a raw batch of files, PIL images or arrays, prepared as for evaluations.
    `encoder.encode(samples)`: their pooled features, as a NumPy array.

    Its weights take no gradients until `train()` or `unfreeze()`. `config`: the nodes it was built from, its
    origin and licence. `view`: the modality's name.
    """

    def __init__(self, tokenizer: Tokenizer, encoder: Encoder, config: Mapping[str, Any]):
        super().__init__()
        self.tokenizer, self.encoder, self.config = tokenizer, encoder, dict(config)
        self.view: str = config["view"]
        self.takes_pixels: bool = config.get("values") == PIXELS
        self.frozen: frozenset[str] = frozenset()
        self.has_warned = False

    @property
    def embed_dim(self) -> int:
        return self.encoder.embed_dim

    @cached_property
    def reader(self) -> Reader:
        """The reader of the run, which prepares samples as for evaluations.

        Raises: UserError where the encoder was saved without one.
        """
        if "reader" not in self.config:
            raise UserError("This encoder was saved without its reader, by an earlier version: give it batches.")
        reader = build(deepcopy(self.config["reader"]), key="reader", kind=Reader)
        if reader.view != self.view:
            raise UserError(f"The reader makes the view {reader.view}, not {self.view}: give it batches.")
        return reader

    def forward(self, data: Any) -> Features:
        """Raw data: images uint8 or [0, 1] (B, C, H, W), clips (B, C, T, H, W), …

        Warns once where pixels are not of that range. Raises: UserError for other types, shapes and NaN.
        """
        latent = self.latent(data)
        layout = latent.layout
        return Features(
            latent.features,
            layout.valid,
            pooled=_pool(latent),
            cls=latent.cls,
            grid=layout.grid,
            sample=layout.sample,
            coords=layout.coords,
        )

    def latent(self, data: Any, taps: tuple[str, ...] = ()) -> Latent:
        """The encoder's latent, with the block outputs named in `taps` ("block0", …)."""
        if isinstance(data, np.ndarray):
            data = torch.from_numpy(data).to(self.device)
        if not torch.compiler.is_compiling():
            if self.takes_pixels:
                self._check_pixels(data)
            if isinstance(self.tokenizer, Patchify):
                _check_shape(tuple(data.shape), self.tokenizer)
        return self.encoder(self.tokenizer(data).unmasked(), taps)

    def read(self, samples: Sample | Sequence[Sample]) -> Any:
        """A raw batch for `forward`: of a file or PIL image, or a list of files, PIL images, arrays of one sample.

        Of an array alone, the first axis counts samples. Nothing is drawn: samples are cut and resized as for
        evaluations. Raises: UserError with the reason where a sample cannot be read.
        """
        try:
            data = [self.reader.read(item, train=False) for item in as_items(samples)]
        except BadSample as error:
            raise UserError(f"A sample cannot be read: {error}.") from None
        return self.reader.collate(data)

    @torch.no_grad()
    def encode(self, samples: Sample | Sequence[Sample], batch_size: int = 64) -> np.ndarray:
        """Pooled features (N, D), float32, of what `read` takes.

        A sample that cannot be read has a row of NaN, and one warning names it.
        Raises: UserError where none can be read.
        """
        items, faults = as_items(samples), {}
        rows = np.full((len(items), self.embed_dim), np.nan, dtype=np.float32)
        for start in range(0, len(items), batch_size):
            data, places = [], []
            for place in range(start, min(start + batch_size, len(items))):
                try:
                    data.append(self.reader.read(items[place], train=False))
                    places.append(place)
                except BadSample as error:
                    faults[items[place].key] = str(error)
            if data:
                batch = Batch({self.view: self.reader.collate(data)}).to(self.device)
                rows[places] = self(batch.views[self.view]).pooled.float().cpu().numpy()

        if faults:
            key, reason = next(iter(faults.items()))
            text = f"{len(faults)} of {len(items)} samples cannot be read ({key}: {reason})"
            if len(faults) == len(items):
                raise UserError(f"{text}.")
            warnings.warn(f"{text}: their rows are NaN.", stacklevel=2)
        return rows

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def freeze(self) -> "SavedEncoder":
        """No gradients of the weights until `unfreeze` or `train()`."""
        trained = [name for name, parameter in self.named_parameters() if parameter.requires_grad]
        self.frozen |= frozenset(trained)
        for name in trained:
            self.get_parameter(name).requires_grad_(False)
        return self

    def unfreeze(self) -> "SavedEncoder":
        """Gradients again, of the weights that a method trains."""
        for name in self.frozen:
            self.get_parameter(name).requires_grad_(True)
        self.frozen = frozenset()
        return self

    def train(self, mode: bool = True) -> "SavedEncoder":
        if mode:
            self.unfreeze()
        return super().train(mode)

    def _check_pixels(self, data: Any) -> None:
        """Raises: UserError for types that are no pixels, and NaN. Warns, once, of floats far from [0, 1]."""
        expected = "uint8, or floats from 0 to 1, before any normalisation"
        if not isinstance(data, Tensor):
            raise UserError(
                f"This encoder takes a batch of pixels, {expected}, not {type(data).__name__}. encoder.read(…) makes "
                "one of files, pictures and arrays."
            )
        if data.dtype != torch.uint8 and not data.is_floating_point():
            remedy = "data.to(torch.uint8), if they are from 0 to 255"
            if data.dtype == torch.uint16:
                remedy = "data / 65535"
            raise UserError(f"Pixels of type {data.dtype}: expected are {expected}. Convert them: {remedy}.")
        if data.dtype == torch.uint8 or not data.numel():
            return

        low, high = map(float, data.detach().aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise UserError(f"The batch holds NaN or infinite values: expected are {expected}.")
        if (low < -SLACK or high > 1 + SLACK) and not self.has_warned:
            self.has_warned = True
            cause = "They look normalised already: give the pixels themselves, the encoder normalises"
            if low >= -SLACK and high > 16:
                cause = "Divide them by 255, or give uint8"
            text = f"Floats from {low:.3g} to {high:.3g}: expected are {expected}. {cause}."
            warnings.warn(text, UserWarning, stacklevel=4)

    def __repr__(self) -> str:
        """The input and the output; `encoder.encoder` prints the layers."""
        origin = self.config.get("origin", {})
        count = sum(parameter.numel() for parameter in self.parameters())
        names = " ".join(str(origin[name]) for name in ("method", "size") if name in origin)
        data = self.tokenizer.takes or f"a batch of the view {self.view}, as encoder.read(…) makes it"
        if isinstance(self.tokenizer, Patchify):
            sides = ", ".join(map(str, self.tokenizer.size))
            values = "uint8, or floats from 0 to 1" if self.takes_pixels else "values"
            data = (
                f"{values}, (B, {self.tokenizer.channels}, {sides}); other sizes in multiples of {self.tokenizer.patch}"
            )
        head = f"SavedEncoder of the view {self.view} ({names}, {count / 1e6:.1f} M parameters)"
        return f"{head}\n  in:  {data}\n  out: tokens (B, N, {self.embed_dim}), pooled (B, {self.embed_dim})"


def _check_shape(shape: tuple[int, ...], tokenizer: Patchify) -> None:
    """Raises: UserError, with the remedy, for a batch that patches do not cut."""
    channels, size, patch = tokenizer.channels, tokenizer.size, tokenizer.patch
    sides = ", ".join(map(str, size))
    fault = (
        f"The batch has shape {shape}: this encoder takes (B, {channels}, {sides}), or other sizes in multiples of "
        f"{patch}."
    )
    if len(shape) == len(size) + 1:
        raise UserError(f"{fault} One sample needs the axis of the batch too: data[None].")
    if len(shape) != len(size) + 2:
        raise UserError(f"{fault} encoder.read(…) makes such a batch of files, pictures and arrays.")
    if shape[1] != channels and shape[-1] == channels:
        raise UserError(f"{fault} Channels come second: torch.movedim(data, -1, 1).")
    if shape[1] != channels:
        raise UserError(f"{fault} It was trained on {channels} channels, these have {shape[1]}.")
    if any(length % side or not length for length, side in zip(shape[2:], patch, strict=True)):
        raise UserError(f"{fault} Resize the batch; encoder.read(…) does so with files, pictures and arrays.")


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

    for view in method.encoder.views:
        of_view = {**description, "view": view, "encoder": description["encoder"]["views"][view]}
        encoder: Any = method.encoder.views[view]
        tokenizer: Any = method.tokenizer
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
    """Saves the encoder of an official checkpoint in `path` and returns it; `meta` as for `load_official`.

    Where the file has a decoder, it is saved beside the encoder, so that `init.from=` begins with both.
    Raises: UserError also for names in `meta` that the file leaves no choice about, or that do not exist.
    """
    opened = read_official(name, checkpoint, meta)
    if opened.unread:
        option = opened.unread[0]
        raise UserError(
            f"meta: {option!r} is no option that this file leaves open to official={name}; sizes are those of its "
            f"tensors.{suggestion(option, opened.options)}"
        )
    method, config = opened.method, opened.config
    description = _describe(config, licence=f"that of the {name} checkpoint")
    encoder = SavedEncoder(method.tokenizer, method.encoder, description)
    save_encoder(path, encoder)

    for file in (DECODER, METHOD):
        (path / file).unlink(missing_ok=True)  # of another conversion into the same folder
    if opened.has_decoder:
        decoder = {}
        for key, value in method.state_dict().items():
            if not key.startswith("encoder."):
                decoder[key] = value.contiguous()
        with explain_write_errors(path):
            write_atomic(path / DECODER, save(decoder))
        write_json(path / METHOD, config["method"])
    return encoder.eval().freeze()


def load_encoder(path: str | Path, pretrained: bool = True, view: str | None = None) -> SavedEncoder:
    """Opens a saved encoder, in eval mode, without gradients until `train()`. `path`: its folder, or that of a run.

    `pretrained=False`: the same shape with random weights (a baseline). `view`: which one, where the run has several.
    Raises: UserError when files are missing or damaged, when the config names anything outside the allow-list, and
    when several views leave the choice open.
    """
    path = _find_encoder(Path(path), view)
    config = _read_config(path)
    if view not in (None, config["view"]):
        raise UserError(f"{path} holds an encoder of the view {config['view']}, none of view={view}.")

    # Copies: building completes nodes, and the config is that of the file.
    nodes = {key: deepcopy(config[key]) for key in ("tokenizer", "encoder", "reader") if key in config}
    checked_targets(nodes)
    tokenizer = build(nodes["tokenizer"], key="tokenizer", kind=Tokenizer)
    scope = getattr(tokenizer, "provides", {})
    encoder = build(nodes["encoder"], scope, key="encoder", kind=Encoder)

    saved = SavedEncoder(tokenizer, encoder, config)
    if pretrained:
        saved.load_state_dict(_read_weights(path / "model.safetensors", saved))
    return saved.eval().freeze()


def with_settings(encoder: SavedEncoder, settings: Mapping[str, Any]) -> SavedEncoder:
    """The same weights in an encoder whose node has these settings too, such as a class token for fine-tuning.

    Parts that the encoder lacks begin anew, and those that it then has no place for are left out. Raises:
    UserError for settings that its class does not take.
    """
    if not settings:
        return encoder
    config = {**encoder.config, "encoder": {**deepcopy(encoder.config["encoder"]), **deepcopy(dict(settings))}}
    scope = getattr(encoder.tokenizer, "provides", {})
    changed = build(config["encoder"], scope, key="encoder", kind=Encoder)

    weights, expected = encoder.encoder.state_dict(), changed.state_dict()
    changed.load_state_dict({name: weights.get(name, value) for name, value in expected.items()})
    return SavedEncoder(encoder.tokenizer, changed, config).eval().freeze()


def open_encoder(modality: str, name: str, weights: str | Path | None = None) -> SavedEncoder:
    """An encoder by name, "<method>_<size>" ("mae_base"), in eval mode. `modalities.<m>.encoder` calls it.

    `weights`: None for random ones; a run's folder or a saved encoder; or a file of official weights
    (.safetensors, or .pth read without unpickling code) or a folder of transformers, whose own sizes then count.
    Raises: UserError for unknown names and for files that are missing, damaged or of another kind.
    """
    if weights is not None and Path(weights).is_dir() and not is_transformers(Path(weights)):
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
    return SavedEncoder(method.tokenizer, method.encoder, _describe(config, licence)).eval().freeze()


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
    reader = config["modality"]["reader"]
    return {
        "format": FORMAT,
        "view": config["modality"]["name"],
        "values": load_target(reader["_target_"]).values,
        "reader": reader,
        "tokenizer": config["method"]["tokenizer"],
        "encoder": config["method"]["encoder"],
        "origin": {
            "method": config["method"]["name"],
            "data": config["data"]["name"],
            "size": config["size"]["name"],
            "licence": licence,
        },
    }


def _ending(run: Path) -> str:
    """The settings by which an unfinished run ends at its newest checkpoint, with an encoder."""
    newest = max(run.glob("checkpoints/step_*"), default=None)
    if newest is None:
        return ""
    settings = f"steps={int(newest.name.removeprefix('step_'))}"
    if load(run / "config.yaml")["optim"]["schedule"] != "constant":
        settings += " optim.schedule=cosine"
    return f", and with {settings} ends where it is and saves its encoder"


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / "config.json").read_text())
    except FileNotFoundError:
        remedy = "Pass a run folder or its encoder/."
        if (path / "config.yaml").exists():
            command = f"python -m core.train config={path / 'config.yaml'} run_dir={path}"
            remedy = f"The run has not come to its end: {command} goes on{_ending(path)}."
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
