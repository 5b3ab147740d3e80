"""Official checkpoints in: `load_official("mae", state_dict)` builds the same classes as `method=mae` with its weights.

What a checkpoint's tensors cannot say (heads, sometimes the input size) comes from published tables, or from `meta`.
"""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    concatenated along its first axis. `given`: the rule counts only where the checkpoint has that key too.
    """

    pattern: str
    names: tuple[str, ...]
    split: Callable[[Tensor], tuple[Tensor, ...]] | None = None
    given: str = ""


@dataclass(frozen=True)
class Official:
    """How one official code base's checkpoints are read. Lives in `modalities/<m>/official.py`.

    `overrides(state, settings)`: the config overrides that give the checkpoint's sizes and options.
    `rules`: key map; only renames, permutes, concatenates and splits, so that it carries gradients too.
    `replay(io, settings)`: recorded input and randomness of a reference vector as (batch, draws).
    """

    method: str
    modality: str
    rules: tuple[Rule, ...]
    overrides: Callable[[State, Mapping[str, Any]], list[str]]
    replay: Callable[[State, Mapping[str, Any]], tuple[Batch, dict]] | None = None

    def keys(self, state: State) -> dict[str, Tensor]:
        """Official names -> ours, for weights, gradients or anything of the same shapes; some may be absent."""
        out: dict[str, Tensor] = {}
        for key, value in state.items():
            for rule in self.rules:
                match = re.fullmatch(rule.pattern, key)
                if match and (not rule.given or rule.given in state):
                    parts = (value,) if rule.split is None else rule.split(value)
                    out |= {match.expand(name): part for name, part in zip(rule.names, parts, strict=True)}
                    break
            else:
                raise UserError(f"{key!r} is not a tensor of an official {self.method} checkpoint.")
        return _concatenate(out)


def load_official(name: str, state_dict: Mapping[str, Any], meta: Mapping[str, Any] | None = None) -> MaskedAutoencoder:
    """The method that an official checkpoint holds, decoder included.

    `state_dict`: what the file holds, with or without wrappers ("model", "module") and prefixes. `meta`: constructor
    arguments of reference vectors; a user's checkpoint comes without.
    A file that holds the encoder alone gives a method whose decoder is freshly initialised, and a warning says so.
    Raises: UserError for an unknown name or tensors that do not fit.
    """
    return open_official(name, state_dict, meta)[0]


def open_official(
    name: str, state_dict: Mapping[str, Any], meta: Mapping[str, Any] | None = None
) -> tuple[MaskedAutoencoder, dict[str, Any]]:
    """As `load_official`, with the config that was built: sizes and options are the checkpoint's."""
    official = find_official(name)
    state = unwrap(state_dict)
    # Published targets are those of people's own data; the generated world has plainer ones.
    own = ["data=folder", "data.root=none"]
    overrides = official.overrides(state, settings(meta or {}))
    config = compose([f"modality={official.modality}", f"method={official.method}", *own, *overrides])
    method = build_method(config)
    mapped = official.keys(state)
    buffers = {key for key, _ in method.named_buffers()}
    expected = method.state_dict()
    # What is never trained (a backbone's unused last norm) may be absent.
    frozen = {key for key, parameter in method.named_parameters() if not parameter.requires_grad}
    missing = expected.keys() - mapped.keys() - buffers - frozen
    fresh = {key for key in missing if key.startswith(DECODED)}
    if fresh and not any(key.startswith(DECODED) and key not in buffers for key in mapped):
        warnings.warn(f"The {name} checkpoint holds no decoder: only the encoder was loaded.", stacklevel=3)
        missing -= fresh
    wrong = {k for k in mapped.keys() & expected.keys() if mapped[k].shape != expected[k].shape}
    if missing or wrong or mapped.keys() - expected.keys():
        raise UserError(_mismatch(name, missing, mapped.keys() - expected.keys(), wrong))
    method.load_state_dict(mapped, strict=False)
    method.follow(mapped)
    return method, config


def read_checkpoint(path: str | Path) -> Mapping[str, Any]:
    """What a checkpoint file holds (.safetensors, or .pth / .pt of tensors); pickled code is refused.

    Raises: UserError when it is missing, damaged or holds anything that would have to be unpickled.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # on pickles of another protocol; they are read or refused alike
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; pass a checkpoint file or a run's folder.") from None
    except UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, which is not read: it could run code. "
            f"Ask its authors for safetensors, or save its weights alone. ({str(error).splitlines()[0]})"
        ) from None
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        raise UserError(f"{path} is no readable checkpoint: {error}") from None


def find_official(name: str) -> Official:
    """The reader of an official code base, by the name that a method's YAML lists under `official`."""
    known = official_names()
    if name not in known:
        raise UserError(f"No official checkpoints named {name!r} are known; there are: {', '.join(sorted(known))}.")
    return load_target(known[name])


def unwrap(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, without the wrappers and prefixes that training scripts add."""
    for wrapper in ("model", "module", "model_state", "state_dict"):
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    tensors = {re.sub(r"^(module\.|_orig_mod\.|backbone\.)+", "", k): v for k, v in state.items()}
    if isinstance(tensors.get("config"), Mapping):  # SparK's says in words what the tensors say as well
        del tensors["config"]
    strange = [key for key, value in tensors.items() if not isinstance(value, Tensor)]
    if strange or not tensors:
        raise UserError(f"The checkpoint holds no tensors under {strange[:3] or 'any key'}; pass its weights.")
    return tensors


def settings(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of a reference vector's meta.json, whichever of its four layouts it has."""
    found = {k: v for k, v in meta.items() if not isinstance(v, Mapping)}
    for key in ("mask", "config", "constructor", "constructor_args"):
        value = meta.get(key)
        if isinstance(value, Mapping):
            inner = [v for v in value.values() if isinstance(v, Mapping)] if key == "constructor_args" else []
            found |= {k: v for part in (inner or [value, value.get("kw", {})]) for k, v in part.items()}
    return found


# Heads of the published ViT widths; the tensors of a checkpoint do not say.
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}


def trunk_overrides(
    state: State, node: str, blocks: str, dim: int, heads: int | None, published: Mapping[int, int]
) -> list[str]:
    """Overrides that give the trunk at `node` the depth, heads, MLP width and attention options of `{blocks}.<i>.…`.

    `heads` where it is known, else by the table of published widths, else one for every 64 channels.
    """
    numbers = [int(m[1]) for key in state if (m := re.match(re.escape(blocks) + r"\.(\d+)\.", key))]
    if not numbers:
        raise UserError(f"The checkpoint has no tensors named {blocks}.0.…")
    first = f"{blocks}.0."
    # Half a unit on top: the product with dim must truncate to the very hidden width.
    ratio = (state[first + "mlp.fc1.weight"].shape[0] + 0.5) / dim
    heads = heads or published.get(dim) or max(dim // 64, 1)
    overrides = [f"{node}.depth={1 + max(numbers)}", f"{node}.heads={heads}", f"{node}.mlp_ratio={ratio}"]
    if first + "attn.scale" in state:
        overrides.append(f"{node}.cosine=true")
    if first + "gamma_1" in state:
        overrides.append(f"{node}.layer_scale=1.0")
    biased = any(first + f"attn.{name}" in state for name in ("q_bias", "qkv.bias", "q.bias"))
    return overrides if biased else [*overrides, f"{node}.bias=none"]


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


def _mismatch(name: str, missing, unexpected, wrong) -> str:
    lines = [f"These tensors are no official {name} checkpoint of a kind we know:"]
    for what, keys in (("missing", missing), ("not known", unexpected), ("of another shape", wrong)):
        if keys:
            shown = sorted(keys)
            lines.append(f"  {what}: {', '.join(shown[:4])}{' …' if len(shown) > 4 else ''}")
    return "\n".join(lines)
