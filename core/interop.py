"""Official checkpoints in: `load_official("mae", state_dict)` builds the same classes as `method=mae` with its weights.

Sizes come from the tensors. Options that leave no trace there (heads, sometimes the input size, the target) come from
`meta`, else from the command line that the training script saved beside the weights, else from published tables.
"""

import argparse
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from core.config import compose, official_names
from core.config.allowed import load_target
from core.config.build import build_method
from core.errors import UserError
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Batch

State = Mapping[str, Tensor]
DECODED = "readouts."  # our names of what an encoder-only file lacks start like this


@dataclass(frozen=True)
class Rule:
    """Official keys that match `pattern` become `names` (templates for `re.Match.expand`).

    `split` turns one tensor into as many as there are names. A name ending in "#k" is the k-th part of a tensor that is
    concatenated along its first axis. Keys of a rule without names are left out.
    `requires`: the rule counts only where the checkpoint has that key too. `note`: shown to the user where it counts.
    """

    pattern: str
    names: tuple[str, ...]
    split: Callable[[Tensor], tuple[Tensor, ...]] | None = None
    requires: str = ""
    note: str = ""


@dataclass(frozen=True)
class Official:
    """How one official code base's checkpoints are read. Lives on a page of `modalities/<m>/methods/`.

    `overrides(state, settings)`: the config overrides that give the checkpoint's sizes and options.
    `rules`: key map; only renames, permutes, concatenates and splits, so that it carries gradients too.
    `replay(io, settings)`: recorded input and randomness of a reference vector as (batch, draws).
    """

    method: str
    modality: str
    rules: tuple[Rule, ...]
    overrides: Callable[[State, Mapping[str, Any]], list[str]]
    replay: Callable[[State, Mapping[str, Any]], tuple[Batch, dict]] | None = None

    def keys(self, state: State, checkpoint: State | None = None) -> dict[str, Tensor]:
        """Official names -> ours, for weights, gradients or anything of the same shapes; some may be absent.

        `checkpoint`: all tensors of the file, where `state` is a part of them (default: `state` is the whole).
        Raises: UserError for a key that no rule reads.
        """
        out: dict[str, Tensor] = {}
        for key, value in state.items():
            rule, match = self._rule(key, state if checkpoint is None else checkpoint)

            if rule.names:
                parts = (value,) if rule.split is None else rule.split(value)
                out |= {match.expand(name): part for name, part in zip(rule.names, parts, strict=True)}

        return _concatenate(out)

    def notes(self, state: State) -> list[str]:
        """A sentence for every rule with a note: the keys of `state` that it reads, and the note."""
        matches: dict[str, list[str]] = {}
        for key in state:
            note = self._rule(key, state)[0].note
            if note:
                matches.setdefault(note, []).append(key)

        return [f"{_shortened(keys)}: {note}." for note, keys in matches.items()]

    def _rule(self, key: str, checkpoint: State) -> tuple[Rule, re.Match]:
        for rule in self.rules:
            match = re.fullmatch(rule.pattern, key)
            if match and (not rule.requires or rule.requires in checkpoint):
                return rule, match
        raise UserError(f"{key!r} is not a tensor of an official {self.method} checkpoint.")


def load_official(name: str, state_dict: Mapping[str, Any], meta: Mapping[str, Any] | None = None) -> MaskedAutoencoder:
    """The method that an official checkpoint holds, decoder included.

    `state_dict`: contents of the file, with or without wrappers ("model", "module") and prefixes. `meta`: arguments of
    the official constructor, for options that tensors do not show ({"num_heads": 6}).
    A file that holds the encoder alone (pre-trained, fine-tuned or distilled) gives a method whose decoder is freshly
    initialised. One warning names that, and every tensor that is left out.
    Raises: UserError for an unknown name, tensors that do not fit, and options that are not offered.
    """
    return open_official(name, state_dict, meta)[0]


def open_official(
    name: str, state_dict: Mapping[str, Any], meta: Mapping[str, Any] | None = None
) -> tuple[MaskedAutoencoder, dict[str, Any]]:
    """As `load_official`, with the config that was built: sizes and options are the checkpoint's."""
    official = find_official(name)
    state = unwrap(state_dict)
    mapped, overrides, notes = _translate(name, official, state, arguments(state_dict) | settings(meta or {}))

    # Published targets are those of people's own data; the generated world has plainer ones.
    own = ["data=folder", "data.root=none"]
    config = compose([f"modality={official.modality}", f"method={official.method}", *own, *overrides])
    method = build_method(config)

    # Parameters that are never trained (a backbone's unused last norm) may be absent.
    buffers = {key for key, _ in method.named_buffers()}
    frozen = {key for key, parameter in method.named_parameters() if not parameter.requires_grad}
    expected = method.state_dict()
    missing = expected.keys() - mapped.keys() - buffers - frozen

    fresh = {key for key in missing if key.startswith(DECODED)}
    if fresh and not any(key.startswith(DECODED) and key not in buffers for key in mapped):
        notes = [f"The {name} checkpoint holds no decoder: only the encoder was loaded.", *notes]
        missing -= fresh

    wrong = {k for k in mapped.keys() & expected.keys() if mapped[k].shape != expected[k].shape}
    if missing or wrong or mapped.keys() - expected.keys():
        raise UserError(_mismatch(name, missing, mapped.keys() - expected.keys(), wrong))
    if notes:
        warnings.warn(" ".join(notes), stacklevel=3)

    method.load_state_dict(mapped, strict=False)
    method.follow(mapped)
    return method, config


class _Opaque:
    """Stands in for a harmless object of a pickle that is not needed: takes any arguments and state, keeps nothing."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


# Beside the weights, training scripts save numbers of NumPy and paths. Nothing of them is called: see `_Opaque`.
_NUMPY = [f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")]
_PATHS = [f"pathlib.{name}" for name in ("PosixPath", "WindowsPath", "_local.PosixPath", "_local.WindowsPath")]
_HARMLESS = [argparse.Namespace, *((_Opaque, name) for name in ("numpy.dtype", "numpy.ndarray", *_NUMPY, *_PATHS))]


def read_checkpoint(path: str | Path) -> Mapping[str, Any]:
    """The contents of a checkpoint file (.safetensors, or .pth / .pt of tensors); pickled code is refused.

    Command lines (argparse), numbers of NumPy and paths beside the tensors are no code: the first are read, the others
    passed over.
    Raises: UserError when it is missing, damaged or holds anything else that would have to be unpickled.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Pickles of another protocol bring a warning; they are read or refused alike.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; pass a checkpoint file or a run's folder.") from None
    except UnpicklingError as error:
        raise UserError(f"{path} {_unread(str(error))}") from None
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        raise UserError(f"{path} is no readable checkpoint: {error}") from None


def _unread(error: str) -> str:
    """Why a pickle is refused, of PyTorch's own message."""
    name = re.search(r"GLOBAL ([\w.]+)", error)
    if name is None:
        return "is no readable checkpoint: it is damaged, or a pickle of another kind than torch.save writes."
    return (
        f"holds more than tensors ({name[1]}), which is not read: it could run code. Ask its authors for safetensors, "
        "or, where you trust the file, save its weights alone: "
        'torch.save(torch.load(path, weights_only=False)["model"], "weights.pth")'
    )


def find_official(name: str) -> Official:
    """The reader of an official code base, by the name that a method's YAML lists under `official`."""
    known = official_names()
    if name not in known:
        raise UserError(f"No official checkpoints named {name!r} are known; there are: {', '.join(sorted(known))}.")
    return load_target(known[name])


def unwrap(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, without the wrappers and prefixes that training scripts add."""
    tensors = {re.sub(r"^(module\.|_orig_mod\.|backbone\.|model\.)+", "", k): v for k, v in _weights(state).items()}
    if isinstance(tensors.get("config"), Mapping):  # SparK's, which is read by `arguments`
        del tensors["config"]

    strange = [key for key, value in tensors.items() if not isinstance(value, Tensor)]
    if strange or not tensors:
        raise UserError(f"The checkpoint holds no tensors under {strange[:3] or 'any key'}; pass its weights.")
    return tensors


def arguments(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Options that are saved beside the weights: the training script's command line (`args`), SparK's `config`."""
    args, config = checkpoint.get("args"), _weights(checkpoint).get("config")
    if isinstance(args, argparse.Namespace):
        args = vars(args)

    options = [part for part in (args, config) if isinstance(part, Mapping)]
    return {key: value for part in options for key, value in part.items() if value is not None}


def _weights(state: Mapping[str, Any]) -> Mapping[str, Any]:
    for wrapper in ("model", "module", "model_state", "state_dict"):
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    return state


def settings(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of a reference vector's meta.json, whichever of its four layouts it has."""
    found = {k: v for k, v in meta.items() if not isinstance(v, Mapping)}
    for key in ("mask", "config", "constructor", "constructor_args"):
        value = meta.get(key)
        if isinstance(value, Mapping):
            inner = [v for v in value.values() if isinstance(v, Mapping)] if key == "constructor_args" else []
            found |= {k: v for part in (inner or [value, value.get("kw", {})]) for k, v in part.items()}
    return found


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and spread of RGB, with which most are trained

# Of fine-tuned ViTs. Official classifiers put fc_norm behind the mean of all tokens, an encoder has it before.
CLASSIFIER_RULES = (
    Rule(r"head\..*", (), note="the classifier, left out"),
    Rule(
        r"fc_norm\.(weight|bias)",
        (r"encoder.trunk.norm.\1",),
        note="read as the encoder's last norm, of every token; the classifier normalised their mean",
    ),
    Rule(
        r"(?:encoder\.)?norm\.(weight|bias)",
        (),
        requires="fc_norm.weight",
        note="left out, fc_norm stands for it",
    ),
)

# Heads of the published ViT widths; the tensors of a checkpoint do not say.
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}


def trunk_overrides(
    state: State, node: str, blocks: str, dim: int, heads: int | None, published: Mapping[int, int]
) -> list[str]:
    """Overrides that give the trunk at `node` the depth, heads, MLP width and attention options of `{blocks}.<i>.…`.

    `heads` where the caller knows them, else by cosine attention's scales, by the table of published widths, or one for
    every 64 channels, with a warning.
    Raises: UserError where heads do not divide the width.
    """
    numbers = [int(m[1]) for key in state if (m := re.match(re.escape(blocks) + r"\.(\d+)\.", key))]
    if not numbers:
        raise UserError(f"The checkpoint has no tensors named {blocks}.0.…")

    first = f"{blocks}.0."
    if first + "attn.scale" in state:
        heads = state[first + "attn.scale"].shape[0]
    heads = heads or published.get(dim) or _guess_heads(blocks, dim)
    if dim % heads:
        raise UserError(f"{blocks}: {heads} heads do not divide the width {dim} of the checkpoint's tensors.")

    # Half a unit on top: the product with dim must truncate to the very hidden width.
    ratio = (state[first + "mlp.fc1.weight"].shape[0] + 0.5) / dim
    overrides = [f"{node}.depth={1 + max(numbers)}", f"{node}.heads={heads}", f"{node}.mlp_ratio={ratio}"]

    if first + "attn.scale" in state:
        overrides.append(f"{node}.cosine=true")
    if first + "gamma_1" in state:
        overrides.append(f"{node}.layer_scale=1.0")
    biased = any(first + f"attn.{name}" in state for name in ("q_bias", "qkv.bias", "q.bias"))
    return overrides if biased else [*overrides, f"{node}.bias=none"]


def _guess_heads(blocks: str, dim: int) -> int:
    heads = max(dim // 64, 1)
    while dim % heads:
        heads -= 1
    warnings.warn(
        f"{blocks}: tensors do not show heads, and no published model is {dim} wide: {heads} taken. Pass "
        "meta={num_heads: …} (encoder_num_heads, decoder_num_heads) if there were others.",
        stacklevel=3,
    )
    return heads


def block_overrides(settings: Mapping[str, Any], *trunks: str) -> list[str]:
    """Overrides for options of a transformer's blocks that its tensors do not show, for the trunks at these nodes.

    Read are `norm_layer` (LayerNorm, its eps) and `drop_path_rate`. Recomputation in the backward pass
    (`use_checkpoint`, `with_cp`) changes no number.
    Raises: UserError for `qk_scale`, other norms and dropout, which are not offered.
    """
    if settings.get("qk_scale") is not None:
        raise UserError(f"qk_scale={settings['qk_scale']}: only attention scaled by head width ** -0.5 is offered.")
    for name in ("drop_rate", "attn_drop_rate"):
        if settings.get(name):
            raise UserError(
                f"{name}={settings[name]}: dropout inside blocks is not offered. Without it in meta the checkpoint is "
                "read, and computes the same in eval mode."
            )

    eps = _norm_eps(str(settings.get("norm_layer") or "LayerNorm(eps=1e-6)"))
    rate = settings.get("drop_path_rate") or 0.0
    overrides = [f"{node}.norm_eps={eps}" for node in trunks if eps != 1e-6]
    return overrides + [f"{node}.drop_path={rate}" for node in trunks if rate]


def _norm_eps(norm_layer: str) -> float:
    """The eps in words such as "LayerNorm(eps=1e-6)"; PyTorch's own where none is named, as in the official classes."""
    if "LayerNorm" not in norm_layer:
        raise UserError(f"norm_layer={norm_layer}: only blocks with LayerNorm are offered.")
    eps = re.search(r"eps\s*=\s*([\d.e+-]+)", norm_layer)
    return float(eps[1]) if eps else 1e-5


def image_size(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width in pixels: the constructor's `img_size`, one number or two, or a command line's `input_size`."""
    size = settings.get("img_size") or settings.get("input_size")
    if size is None or isinstance(size, int):
        return None if size is None else (size, size)
    height, width = size
    return int(height), int(width)


def table_grid(rows: int, patch: Sequence[int], settings: Mapping[str, Any], name: str) -> tuple[int, int]:
    """The grid (h, w) of a position table of that many rows: of the input's size where that fits, else a square.

    Raises: UserError where neither fits.
    """
    size = image_size(settings)
    if size is not None and (size[0] // patch[0]) * (size[1] // patch[1]) == rows:
        return size[0] // patch[0], size[1] // patch[1]

    side = isqrt(rows)
    if side * side != rows:
        raise UserError(
            f"{name} has {rows} places in a picture, which are no square: pass meta={{img_size: [height, width]}} in "
            f"pixels (patches are {list(patch)})."
        )
    return side, side


def channel_overrides(channels: int) -> list[str]:
    """Overrides for pictures of that many channels; 0.5 for mean and spread of others than RGB: none are published."""
    overrides = [f"modality.channels={channels}"]
    if channels != 3:
        overrides += ["modality.normalise.mean=[0.5]", "modality.normalise.std=[0.5]"]
    return overrides


def flat_kernel(weight: Tensor) -> tuple[Tensor]:
    """A convolution's (D, C, *patch) as a linear layer's (D, values), channel fastest."""
    return (weight.movedim(1, -1).flatten(1),)


def raw_pixels(x: Tensor, mean: Sequence[float], std: Sequence[float], dtype=torch.float64) -> Tensor:
    """Recorded normalised input (B, C, …) as [0, 1] pixels; in double precision, normalising gives it back exactly."""
    shape = (1, -1) + (1,) * (x.dim() - 2)
    return x.to(dtype) * torch.tensor(std, dtype=dtype).view(shape) + torch.tensor(mean, dtype=dtype).view(shape)


def _concatenate(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    whole = {key: value for key, value in parts.items() if "#" not in key}
    for name in {key.partition("#")[0] for key in parts if "#" in key}:
        whole[name] = torch.cat([parts[key] for key in sorted(k for k in parts if k.startswith(name + "#"))])
    return whole


def _translate(
    name: str, official: Official, state: State, settings: Mapping[str, Any]
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Tensors by our names, overrides of the config, and notes for the user."""
    try:
        mapped = official.keys(state)
    except UserError as error:
        # An option that is refused by its name says more than the first strange key.
        reason = _refusal(official, state, settings) or error
        raise UserError(f"{reason}{_other_names(name, state)}") from None

    try:
        with warnings.catch_warnings(record=True, action="always") as doubts:
            overrides = official.overrides(state, settings)
    except KeyError as error:
        raise UserError(
            f"Official {name} checkpoints hold {error.args[0]!r}, this one does not. "
            f"It holds {_shortened(list(state))}.{_other_names(name, state)}"
        ) from None
    return mapped, overrides, [*official.notes(state), *(str(doubt.message) for doubt in doubts)]


def _refusal(official: Official, state: State, settings: Mapping[str, Any]) -> UserError | None:
    """The error by which an official module refuses an option of its constructor, if it does."""
    with suppress(KeyError), warnings.catch_warnings(action="ignore"):
        try:
            official.overrides(state, settings)
        except UserError as error:
            return error
    return None


def _other_names(name: str, state: State) -> str:
    """A hint at the official names whose rules read all of these tensors."""
    names = [other for other in sorted(official_names()) if other != name and _reads(find_official(other), state)]
    return f" All its tensors fit official={' or '.join(names)}." if names else ""


def _reads(official: Official, state: State) -> bool:
    try:
        return bool(official.keys(state))
    except UserError:
        return False


def _mismatch(name: str, missing, unexpected, wrong) -> str:
    lines = [f"These tensors are no official {name} checkpoint of a kind we know:"]
    for what, keys in (("missing", missing), ("not known", unexpected), ("of another shape", wrong)):
        if keys:
            lines.append(f"  {what}: {_shortened(sorted(keys))}")
    return "\n".join(lines)


def _shortened(keys: list[str]) -> str:
    return f"{', '.join(keys[:4])}{' …' if len(keys) > 4 else ''}"
