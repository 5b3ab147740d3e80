"""Official checkpoints: `load_official("mae", state_dict)` gives `method=mae` with their weights.

Sizes come from the tensors. Options without tensors (heads, sometimes the input size, the target) come from
`meta`, else from the command line that the training script saved beside the weights, else from published
tables.
"""

import argparse
import re
import warnings
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import KW_ONLY, dataclass, field, replace
from math import isqrt
from typing import Any, Literal

import torch
from torch import Tensor

from core.catalogue import official_names
from core.config import compose
from core.config.allowed import load_target
from core.config.build import build_method
from core.errors import UserError
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Batch

State = Mapping[str, Tensor]
WRAPPERS = ("model", "module", "state_dict", "model_state_dict", "model_state", "net", "network", "weights", "params")
DECODER_PREFIX = "readouts."  # of our names of tensors that an encoder-only file lacks


@dataclass(frozen=True)
class Rule:
    """Official keys that match `pattern` become `names` (templates for `re.Match.expand`).

    A name ending in "#k" is the k-th part of a tensor that is concatenated along its first axis. Keys of a
    rule without names are left out.
    """

    pattern: str
    names: tuple[str, ...]
    _: KW_ONLY
    split: Callable[[Tensor], tuple[Tensor, ...]] | None = None  # one tensor -> as many as there are names
    requires: str = ""  # the rule counts only where the checkpoint has this key too
    note: str = ""  # shown to the user where the rule counts


@dataclass(frozen=True)
class OtherNames:
    """The same network as another library names it: official names by `rules`, where a key matches `mark`.

    `options(config)`: the official constructor's options, of the config that the library saves beside the
    weights and of its own defaults.
    """

    library: str
    mark: str
    _: KW_ONLY
    rules: tuple[Rule, ...]
    options: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions:
    """How a network is fine-tuned, as a method publishes it or by the settings of task=finetune.

    `head`: "linear" behind a norm, or "mlp": twice 256 units with batch norm, ReLU and dropout of a half.
    `pool`: of its features, as `pool=` has it; None: the mean of the tokens.
    `smoothing`: ε, shared out among the classes that are not the true one, ε / (K - 1) each; None: 0.1 among
    all classes. `clip`: the largest norm of the gradient. `encoder`: settings of the encoder's node that
    differ from those of pre-training. `no_weight_decay`: endings of names of the encoder's parameters.
    """

    head: Literal["linear", "mlp"] = "linear"
    pool: str | None = None
    smoothing: float | None = None
    clip: float = 1.0
    encoder: Mapping[str, Any] = field(default_factory=dict)
    no_weight_decay: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """Linear support vectors as a method publishes them: the pooling of its features, and C by data set."""

    pool: str
    strengths: Mapping[str, float]


@dataclass(frozen=True)
class Official:
    """The reader of one official code base's checkpoints. Lives on a page of `modalities/<m>/methods/`.

    `overrides(state, settings)`: the config overrides that give the checkpoint's sizes and options.
    `rules`: key map; only renames, permutes, concatenates and splits, so that it carries gradients too.
    `other_names`: of other libraries, whose files are read as well.
    `replay(io, settings)`: recorded input and randomness of a reference vector as (batch, draws).
    `load_teachers(method, state)`: loads frozen teachers that the file holds.
    `classifiers`: published ways to fine-tune, by a name such as that of the data; `svm`: published support
    vectors.
    """

    method: str
    modality: str
    _: KW_ONLY
    rules: tuple[Rule, ...]
    overrides: Callable[[State, Mapping[str, Any]], list[str]]
    other_names: tuple[OtherNames, ...] = ()
    replay: Callable[[State, Mapping[str, Any]], tuple[Batch, dict]] | None = None
    load_teachers: Callable[[MaskedAutoencoder, State], None] | None = None
    classifiers: Mapping[str, ClassifierOptions] = field(default_factory=dict)
    svm: LinearProbe | None = None

    def official_names(self, state: State, settings: Mapping[str, Any]) -> tuple[State, Mapping[str, Any], list[str]]:
        """Tensors by official names, options with those of the library that wrote the file, and notes."""
        for names in self.other_names:
            if any(re.fullmatch(names.mark, key) for key in state):
                page = replace(self, rules=names.rules)
                note = f"The tensors' names are those of {names.library}: they are read as such."
                options = ChainMap(settings, names.options(settings))  # type: ignore[arg-type]  # it only reads
                return page.keys(state), options, [note, *page.notes(state)]
        return state, settings, []

    def keys(self, state: State, checkpoint: State | None = None) -> dict[str, Tensor]:
        """Official names -> ours, for weights, gradients or anything of the same shapes; some may be absent.

        `checkpoint`: all tensors of the file, where `state` is only a part of them.
        Raises: UserError for a key that no rule reads.
        """
        if checkpoint is None:
            checkpoint = state

        parts: dict[str, Tensor] = {}
        for key, value in state.items():
            rule, match = self._rule(key, checkpoint)
            if not rule.names:
                continue

            values: Sequence[Tensor] = (value,)
            if rule.split is not None:
                values = rule.split(value)
            for name, part in zip(rule.names, values, strict=True):
                parts[match.expand(name)] = part

        return _concatenate(parts)

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


def load_official(
    name: str,
    state_dict: Mapping[str, Any],
    meta: Mapping[str, Any] | None = None,
) -> MaskedAutoencoder:
    """The method that an official checkpoint holds, decoder included.

    `state_dict`: contents of the file, with or without wrappers ("model", "module") and prefixes. `meta`:
    arguments of the official constructor, for options that tensors do not show ({"num_heads": 6}). A file
    that holds the encoder alone (pre-trained, fine-tuned or distilled) gives a method whose decoder has its
    initial weights. One warning names that, every tensor that is left out, and every assumption, a line each.
    Raises: UserError for an unknown name, tensors that do not fit, and options that are not offered.
    """
    return open_official(name, state_dict, meta)[0]


def open_official(
    name: str,
    state_dict: Mapping[str, Any],
    meta: Mapping[str, Any] | None = None,
) -> tuple[MaskedAutoencoder, dict[str, Any]]:
    """As `load_official`, with the config that was built: sizes and options are the checkpoint's."""
    opened = read_official(name, state_dict, meta)
    return opened.method, opened.config


@dataclass(frozen=True, kw_only=True)
class OfficialMethod:
    """An official checkpoint as our method, with the config that was built.

    `has_decoder`: the file held the decoder too. `options`: names that were looked up in `meta`, as the tensors
    do not show them; `unread`: names in `meta` that were not.
    """

    method: MaskedAutoencoder
    config: dict[str, Any]
    has_decoder: bool
    options: set[str]
    unread: list[str]


class Options(Mapping[str, Any]):
    """Options of an official constructor; `read` holds the names that were looked up."""

    def __init__(self, values: Mapping[str, Any]):
        self._values, self.read = dict(values), set[str]()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def read_official(name: str, state_dict: Mapping[str, Any], meta: Mapping[str, Any] | None = None) -> OfficialMethod:
    """As `load_official`, with the config and whether there was a decoder."""
    official = find_official(name)
    state = unwrap(state_dict)
    given = settings(meta or {})
    options = Options(arguments(state_dict) | given)
    mapped, overrides, notes = _translate(name, official, state, options)

    # Targets as published, for users' own data; those of the generated world are simpler.
    choices = [f"modality={official.modality}", f"method={official.method}", "data=folder", "data.root=none"]
    try:
        config = compose([*choices, *overrides])
        method = build_method(config)
    except UserError as error:
        raise UserError(
            f"The checkpoint's sizes make no {official.method}: {error} {description(name, state)}"
        ) from None

    # Parameters that are never trained (a backbone's unused last norm) may be absent.
    buffers = {key for key, _ in method.named_buffers()}
    frozen = {key for key, parameter in method.named_parameters() if not parameter.requires_grad}
    expected = method.state_dict()
    missing = expected.keys() - mapped.keys() - buffers - frozen

    # A file without any weight of a decoder holds the encoder alone.
    has_decoder = any(key.startswith(DECODER_PREFIX) for key in mapped.keys() - buffers)
    decoder = {key for key in missing if key.startswith(DECODER_PREFIX)}
    if decoder and not has_decoder:
        notes = [f"The {name} checkpoint holds no decoder: only the encoder was loaded.", *notes]
        missing -= decoder

    unexpected = mapped.keys() - expected.keys()
    misshapen = {key for key in mapped.keys() & expected.keys() if mapped[key].shape != expected[key].shape}
    if missing or misshapen or unexpected:
        raise UserError(f"{_mismatch(name, missing, unexpected, misshapen)} {description(name, state)}")
    if notes:
        warnings.warn("\n".join(notes), stacklevel=4)

    method.load_state_dict(mapped, strict=False)
    method.follow(mapped)
    if official.load_teachers is not None:
        official.load_teachers(method, state)
    return OfficialMethod(
        method=method,
        config=config,
        has_decoder=has_decoder,
        options=options.read,
        unread=[name for name in given if name not in options.read],
    )


def find_official(name: str) -> Official:
    """The reader of an official code base, by the name that a method's YAML lists under `official`."""
    targets = official_names()
    name = name.replace("_", "-")
    if name not in targets:
        names = ", ".join(sorted(targets))
        raise UserError(f"There are no official checkpoints named {name!r}; there are: {names}.")
    return load_target(targets[name])


def official_of(method: str) -> Official | None:
    """The page of a method by its own name ("point_mae"); None where it has no official checkpoints."""
    target = official_names().get(method.replace("_", "-"))
    return None if target is None else load_target(target)


def unwrap(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, without the wrappers and prefixes that training scripts add."""
    tensors = {}
    for key, value in _weights(state).items():
        if isinstance(key, str) and isinstance(value, Tensor):
            tensors[re.sub(r"^(module\.|_orig_mod\.|backbone\.|model\.)+", "", key)] = value

    if not tensors:
        raise UserError(f"The checkpoint holds no tensors by name, but {_shortened(list(map(str, state)))}.")
    return tensors


def arguments(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Options saved beside the weights: the training script's command line (`args`), SparK's `config`."""
    args, config = checkpoint.get("args"), _weights(checkpoint).get("config")
    if isinstance(args, argparse.Namespace):
        args = vars(args)

    options: dict[str, Any] = {}
    for part in (args, config):
        if not isinstance(part, Mapping):
            continue
        for key, value in part.items():
            if isinstance(value, int | float | str | list | tuple):
                options[key] = value
    return options


def _weights(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The contents of the innermost wrapper: one of the usual names, else the only part that holds tensors.

    Raises: UserError where there are several such parts.
    """
    parts = {}
    for name, value in state.items():
        if isinstance(value, Mapping) and _holds_tensors(value):
            parts[name] = value

    for wrapper in WRAPPERS:
        if wrapper in parts:
            return _weights(parts[wrapper])
    if not parts or any(isinstance(value, Tensor) and value.dim() for value in state.values()):
        return state
    if len(parts) > 1:
        raise UserError(
            f"The checkpoint holds several sets of weights, {', '.join(map(str, parts))}: pass one of them."
        )
    return _weights(*parts.values())


def _holds_tensors(value: Mapping[Any, Any]) -> bool:
    """Whether a part of a checkpoint holds weights: tensors by name, at any depth of wrappers."""
    for name, item in value.items():
        is_wrapper = isinstance(item, Mapping) and _holds_tensors(item)
        if isinstance(name, str) and (is_wrapper or isinstance(item, Tensor)):
            return True
    return False


def settings(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of a reference vector's meta.json, whichever of its four layouts it has.

    Those of a frozen CLIP stay under their own name.
    """
    arguments = {key: value for key, value in meta.items() if not isinstance(value, Mapping) or key == "clip"}
    for key in ("mask", "config", "constructor", "constructor_args"):
        section = meta.get(key)
        if not isinstance(section, Mapping):
            continue

        parts = [section, section.get("kw", {})]
        if key == "constructor_args":  # may hold the arguments of several classes
            parts = [value for value in section.values() if isinstance(value, Mapping)] or parts
        for part in parts:
            arguments |= part
    return arguments


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and spread of RGB, with which most are trained

# Of fine-tuned ViTs. Official classifiers put fc_norm behind the mean of all tokens, an encoder before.
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

# Heads of the published ViT widths; tensors do not show them.
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}


def trunk_overrides(
    state: State, node: str, blocks: str, dim: int, heads: int | None, published: Mapping[int, int]
) -> list[str]:
    """Overrides of depth, heads, MLP and attention of the trunk at `node`; official
    blocks are `{blocks}.<i>.…`.

    Heads come from cosine attention's scales, else from `heads`, else from the table of published widths,
    else they are one for every 64 channels, with a warning.
    Raises: UserError where there are no such blocks, or heads do not divide the width.
    """
    depth = 0
    for key in state:
        match = re.match(re.escape(blocks) + r"\.(\d+)\.", key)
        if match:
            depth = max(depth, 1 + int(match[1]))
    if not depth:
        raise UserError(f"The checkpoint has no tensors named {blocks}.0.…")

    prefix = f"{blocks}.0."
    if prefix + "attn.scale" in state:
        heads = state[prefix + "attn.scale"].shape[0]
    heads = heads or published.get(dim) or _guess_heads(blocks, dim)
    if dim % heads:
        raise UserError(f"{blocks}: {heads} heads do not divide the width {dim} of the checkpoint's tensors.")

    # Half a unit on top: the product with dim must truncate to the very hidden width.
    ratio = (state[prefix + "mlp.fc1.weight"].shape[0] + 0.5) / dim
    overrides = [f"{node}.depth={depth}", f"{node}.heads={heads}", f"{node}.mlp_ratio={ratio}"]

    if prefix + "attn.scale" in state:
        overrides.append(f"{node}.cosine=true")
    if prefix + "gamma_1" in state:
        overrides.append(f"{node}.layer_scale=1.0")
    if not any(prefix + f"attn.{name}" in state for name in ("q_bias", "qkv.bias", "q.bias")):
        overrides.append(f"{node}.bias=none")
    return overrides


def _guess_heads(blocks: str, dim: int) -> int:
    """One head for every 64 channels, or as many less as divides the width; warns."""
    heads = max(dim // 64, 1)
    while dim % heads:
        heads -= 1
    option = "num_heads"
    if "decoder" in blocks.lower():
        option = "decoder_num_heads"
    assume(option, heads, f"{blocks}: tensors do not show heads, and no published model is {dim} wide.")
    return heads


def assume(option: str, value: Any, reason: str) -> None:
    """Warns of an option that is taken for granted, with the way to pass another."""
    warnings.warn(
        f"{reason} {option}={value!r} is assumed; if it was another, pass it: meta={{{option}: …}}.", stacklevel=2
    )


def block_overrides(settings: Mapping[str, Any], *trunks: str) -> list[str]:
    """Overrides for the trunks at these nodes, from options of blocks that tensors do not show.

    These are `norm_layer` (LayerNorm, its eps) and `drop_path_rate`. Recomputation in the backward pass
    (`use_checkpoint`, `with_cp`) changes no number.
    Raises: UserError for `qk_scale`, other norms and dropout, which are not offered.
    """
    if settings.get("qk_scale") is not None:
        scale = settings["qk_scale"]
        raise UserError(f"qk_scale={scale}: only attention scaled by head width ** -0.5 is offered.")
    for name in ("drop_rate", "attn_drop_rate"):
        if settings.get(name):
            raise UserError(
                f"{name}={settings[name]}: dropout inside blocks is not offered. Without it in meta the "
                "checkpoint is read, and computes the same in eval mode."
            )

    eps = _norm_eps(str(settings.get("norm_layer") or "LayerNorm(eps=1e-6)"))
    rate = settings.get("drop_path_rate") or 0.0
    overrides = []
    for node in trunks:
        if eps != 1e-6:
            overrides.append(f"{node}.norm_eps={eps}")
        if rate:
            overrides.append(f"{node}.drop_path={rate}")
    return overrides


def _norm_eps(norm_layer: str) -> float:
    """The eps of a text such as "LayerNorm(eps=1e-6)"; without one PyTorch's, as in the official classes."""
    if "LayerNorm" not in norm_layer:
        raise UserError(f"norm_layer={norm_layer}: only blocks with LayerNorm are offered.")
    eps = re.search(r"eps\s*=\s*([\d.e+-]+)", norm_layer)
    if eps is None:
        return 1e-5
    return float(eps[1])


def image_size(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width in pixels: the constructor's `img_size`, one number or two, or `input_size`."""
    size = settings.get("img_size") or settings.get("input_size")
    if size is None:
        return None
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


def table_grid(rows: int, patch: Sequence[int], settings: Mapping[str, Any], name: str) -> tuple[int, int]:
    """The grid (h, w) of a position table of that many rows: the input's if it fits, else a square.

    Raises: UserError where neither fits.
    """
    size = image_size(settings)
    if size is not None:
        h, w = size[0] // patch[0], size[1] // patch[1]
        if h * w == rows:
            return h, w

    side = isqrt(rows)
    if side * side != rows:
        raise UserError(
            f"{name} has {rows} places in a picture, which are no square: pass "
            f"meta={{img_size: [height, width]}} in pixels (patches are {list(patch)})."
        )
    return side, side


def channel_overrides(channels: int) -> list[str]:
    """Overrides for pictures of that many channels; without published mean and spread, these are 0.5."""
    overrides = [f"modality.channels={channels}"]
    if channels != 3:
        overrides += ["modality.normalise.mean=[0.5]", "modality.normalise.std=[0.5]"]
    return overrides


def flat_kernel(weight: Tensor) -> tuple[Tensor]:
    """A convolution's (D, C, *patch) as a linear layer's (D, values), channel fastest."""
    return (weight.movedim(1, -1).flatten(1),)


def raw_pixels(x: Tensor, mean: Sequence[float], std: Sequence[float], dtype=torch.float64) -> Tensor:
    """Recorded normalised input (B, C, …) as [0, 1] pixels: x · std + mean.

    In double precision, normalising gives the input back exactly.
    """
    shape = (1, -1) + (1,) * (x.dim() - 2)
    scale = torch.tensor(std, dtype=dtype).view(shape)
    offset = torch.tensor(mean, dtype=dtype).view(shape)
    return x.to(dtype) * scale + offset


def _concatenate(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Joins "name#0", "name#1", … along their first axis."""
    tensors: dict[str, Tensor] = {}
    groups: dict[str, list[Tensor]] = {}
    for key in sorted(parts):
        name, mark, _ = key.partition("#")
        if mark:
            groups.setdefault(name, []).append(parts[key])
        else:
            tensors[key] = parts[key]

    for name, group in groups.items():
        tensors[name] = torch.cat(group)
    return tensors


def _translate(
    name: str, official: Official, state: State, settings: Mapping[str, Any]
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Tensors by our names, overrides of the config, and notes for the user."""
    reason: Exception
    try:
        # An option that is refused by its name makes a clearer message than the first unknown key.
        with warnings.catch_warnings(record=True, action="always") as doubts:
            named, options, notes = official.official_names(state, settings)
            overrides = official.overrides(named, options)
        mapped = official.keys(named)
    except UserError as error:
        reason = error
    except KeyError as error:
        reason = UserError(f"Official {name} checkpoints hold {error.args[0]!r}, this one does not.")
    except (ValueError, TypeError, IndexError, AttributeError, RuntimeError, ArithmeticError) as error:
        text = f"Its tensors have other shapes than those of official {name} checkpoints"
        reason = UserError(f"{text} ({error}).")
    else:
        notes += official.notes(named)
        notes += [str(doubt.message) for doubt in doubts]
        return mapped, overrides, notes

    raise UserError(f"{reason} {description(name, state)}") from None


# Checkpoints that no reader takes, by the keys that show them.
NETWORKS = (
    (
        r"(?:.*\.)?encoder\.trunk\.blocks\.0\..*|readouts\..*",
        "Lacuna's own weights: pass the run's folder, not a file of it",
    ),
    (
        r"lora_\w+\..*|.*\.lora_[AB]\..*",
        "LoRA adapters, without the weights that they adapt: merge them first",
    ),
    (r".*\.register_tokens|register_tokens|reg_token", "a ViT with register tokens (DINOv2 and later)"),
    (r"blocks\.0\.ls1\.gamma|.*layer\.0\.layer_scale1\..*", "a DINOv2 ViT, with a scale on every branch"),
    (r"dist_token|.*distillation_token", "a DeiT with a distillation token"),
    (r"(?:.*\.)?layers\.0\.blocks\.0\.attn\.relative_position_bias_table", "a Swin transformer"),
    (r".*relative_position_bias_table|rel_pos_bias\..*", "a BEiT, with relative position biases"),
    (r"visual\.(?:conv1|trunk)\..*|vision_model\..*|text_model\..*", "a CLIP or SigLIP model"),
    (r"conv_proj\.weight|encoder\.layers\.encoder_layer_0\..*", "torchvision's ViT, whose names are its own"),
    (r"blocks\.0\.attn\.qkv\.weight", "a ViT under timm's names with parts of its own"),
    (r"(?:.*\.)?(?:encoder\.layer|layers)\.0\.attention\..*", "a model of transformers"),
    (r"(?:features\.|layer1\.0\.conv1|stem\.0|stages\.0).*", "a convolutional network"),
    (r"convs\.0\..*|conv1\.lin(?:_src|_l)?\.weight", "a network of PyTorch Geometric"),
)


def description(name: str, state: State) -> str:
    """A sentence about a checkpoint that `official=name` does not read: its kind, and its reader."""
    names = []
    for candidate in sorted(official_names()):
        if candidate != name and _reads(find_official(candidate), state):
            names.append(candidate)
    fits = f"official={' or '.join(names)}"
    if _reads(find_official(name), state):
        text = "All its tensors have names of this method"
        if names:
            text += f", and of {fits}"
        return f"{text}."
    if names:
        return f"It looks like a checkpoint of another method: all its tensors fit {fits}."

    for pattern, network in NETWORKS:
        if any(re.fullmatch(pattern, key) for key in state):
            return f"It looks like {network}. It holds {_shortened(list(state))}."
    readers = ", ".join(sorted(official_names()))
    return f"It holds {_shortened(list(state))}, which fit none of official={readers}."


def _reads(official: Official, state: State) -> bool:
    """Whether the reader takes every tensor, and finds its sizes in them."""
    try:
        with warnings.catch_warnings(action="ignore"):
            named, options, _ = official.official_names(state, {})
            official.overrides(named, options)
            return bool(official.keys(named))
    except (UserError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError):
        return False


def _mismatch(name: str, missing: Set[str], unexpected: Set[str], misshapen: Set[str]) -> str:
    """The message for tensors that do not fit the method."""
    parts = []
    for fault, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)):
        if keys:
            parts.append(f"{fault}: {_shortened(sorted(keys))}")
    return f"These tensors are no official {name} checkpoint of a supported kind ({'; '.join(parts)})."


def _shortened(keys: list[str]) -> str:
    text = ", ".join(keys[:4])
    if len(keys) > 4:
        text += " …"
    return text
