"""Settings for people's own data, chosen from the samples at hand; anything that is given wins.

The rules come from a small search at size nano (`benchmarks/defaults.yaml`), whose figures the README shows. Larger
models take them over by the square root of their width, which was not searched.
"""

from collections.abc import Collection, Mapping, Sequence
from math import ceil, gcd, lcm, prod, sqrt
from statistics import fmean, median
from typing import Any

from core.data.facts import DataFacts
from core.data.sources import Setting
from core.errors import show

TOKENS, TOKENS_NANO = 14, 8  # along each side of a picture
LEAST_TOKENS = 4  # along each side; fewer are too few to hide most of them
NEARLY_SQUARE = 0.8  # short side / long side, from which a square shows enough of a picture
PATCH, PATCH_NANO = 16, 8  # sides at most
FRAMES, FRAMES_NANO = 16, 8
STRIDE = 8  # of convolutional networks, at least
BATCH, BATCH_NANO = 32, 8
BATCHES = 8  # in an epoch at least, by smaller batches
RATE, WIDTH = 1e-3, 128  # of AdamW and LAMB at BATCH, for models so wide
STEPS, STEPS_NANO = 3000, 6000
EPOCHS = 300  # at most: few samples are learned by heart
CACHE = 2048  # MB of decoded samples that stay in memory, as of the generated world
SHORT = 1000  # steps below which little is learned

# Settings that settle another one as well.
RIVALS = {
    "steps": ("epochs",),
    "optim.lr": ("optim", "optim.base_lr"),
    "modality.side": ("modality.patch", "method.encoder.stride"),
    "method.encoder.stride": ("modality.patch", "modality.side"),
    "modality.groups": ("modality.pyramid", "modality.members"),
    "modality.members": ("modality.pyramid", "modality.groups"),
    "modality.channels": ("modality.normalise", "init.from"),  # loaded weights have theirs
}


def choose(
    config: Mapping[str, Any],
    facts: DataFacts,
    count: int,
    given: Collection[str],
    of_data: Sequence[Setting] = (),
) -> list[Setting]:
    """Sizes, channels, batch, rate and length for `count` training samples.

    `config`: composed without them. `facts`: of a few samples. `given`: keys that were set, which are left alone.
    `of_data`: what source and reader choose themselves, which is preferred.
    """
    of_samples = [*_shape(config, facts, given), *_batch(config, count), *_cache(config, facts, count)]
    choices = {setting.key: setting for setting in [*of_samples, *of_data]}
    batch = config["batch_size"]
    if not _is_given("batch_size", given):
        batch = choices["batch_size"].value

    for setting in (*_rate(config, batch), *_length(config, count, batch)):
        choices.setdefault(setting.key, setting)
    return [setting for setting in choices.values() if not _is_given(setting.key, given)]


def saved(config: Mapping[str, Any], given: Collection[str]) -> list[Setting]:
    """The choices that stand in a run's config."""
    choices = []
    for key, node in config.get("chosen", {}).items():
        if not _is_given(key, given):
            choices.append(Setting(key, node["value"], reason=node["reason"]))
    return choices


def describe(choices: Sequence[Setting], title: str = "Chosen from your data") -> str:
    """One line a choice, for the screen."""
    lines = [f"{title}; whatever you set yourself wins:"]
    for choice in choices:
        lines.append(f"  {choice.override:<28} {choice.reason}")
    return "\n".join(lines)


def warn_of_length(steps: int, given: Collection[str]) -> str | None:
    """A warning where a run that somebody has set is too short to learn much."""
    if steps >= SHORT or not {"steps", "epochs"} & set(given):
        return None
    return (
        f"{steps} steps are few to learn from: sets of a few thousand samples took about {STEPS_NANO} of "
        f"{BATCH_NANO} samples (steps={STEPS_NANO})."
    )


def _shape(config: Mapping[str, Any], facts: DataFacts, given: Collection[str]) -> list[Setting]:
    """Channels, size and patch, where samples lie on a grid of two axes, or three with time."""
    modality = config["modality"]
    choices = []
    if facts.channels is not None and facts.channels != modality.get("channels"):
        kind = {1: "grey"}.get(facts.channels, f"of {facts.channels} channels")
        reason = f"all of {facts.samples} samples looked at are {kind}"
        choices.append(Setting("modality.channels", facts.channels, reason=reason))
    if not facts.sizes or "size" not in modality:
        return choices

    if "modality.size" in given:
        return [*choices, *choose_patch(config, given)]

    is_nano, tokens = _is_nano(config), _tokens(config)
    short = median(min(size[-2:]) for size in facts.sizes)
    patch = _even(short / tokens, PATCH_NANO if is_nano else PATCH)
    side = patch * tokens
    frames = []
    if len(modality["size"]) == 3:
        frames = [_frames(facts.sizes, is_nano)]

    reason = f"{tokens} tokens a side of {side} pixels"
    if _is_given("modality.side", given):
        frames, side, reason = _fit_to_patch(modality["patch"], frames, side)
    of_size = f"{reason}; the samples' short side is {short:g} (median){_ends_lost(facts.sizes, patch, tokens, frames)}"
    size = Setting("modality.size", [*frames, side, side], reason=of_size)
    return [*choices, size, _patch(config, patch, reason)]


def choose_patch(config: Mapping[str, Any], given: Collection[str]) -> list[Setting]:
    """The patch for a size that was given, which needs no look at samples.

    None where it was given too, or where no patch gives at least `LEAST_TOKENS` a side.
    """
    if "modality.size" not in given or "size" not in config["modality"]:
        return []

    size, tokens = config["modality"]["size"][-2:], _tokens(config)
    patch = _divisor(size, tokens)
    choice = _patch(config, patch, f"about {tokens} tokens a side")
    if patch == 1 or min(size) / patch < LEAST_TOKENS or _is_given(choice.key, given):
        return []
    return [choice]


def _fit_to_patch(patch: Sequence[int], frames: list[int], side: int) -> tuple[list[int], int, str]:
    """Frames and side that a given patch divides, the nearest to those wished for, and a reason."""
    common = lcm(*patch[-2:])
    side = common * max(LEAST_TOKENS, round(side / common))
    if frames:
        frames = [patch[0] * max(1, round(frames[0] / patch[0]))]
    return frames, side, f"{side} pixels a side, in patches of {show(list(patch))}"


def _patch(config: Mapping[str, Any], side: int, reason: str) -> Setting:
    """The setting by which tokens have this side, in pixels."""
    if "stride" in config["method"]["encoder"]:  # convolutions: patches are as large as their strides together
        return Setting("method.encoder.stride", max(STRIDE, 1 << (side.bit_length() - 1)), reason=reason)
    return Setting("modality.side", side, reason=reason)


def _ends_lost(sizes: Sequence[tuple[int, ...]], patch: int, tokens: int, frames: Sequence[int]) -> str:
    """The share of oblong samples that a square shows, and the size that shows them whole; empty for others."""
    seen = median(min(size[-2:]) / max(size[-2:]) for size in sizes)
    if seen > NEARLY_SQUARE:
        return ""

    whole = list(frames)
    for axis in (-2, -1):
        whole.append(patch * round(tokens * median(size[axis] / min(size[-2:]) for size in sizes)))
    remedy = Setting("modality.size", whole, reason="").override
    return f"; their middle square is read, {seen:.0%} of each (median): {remedy} takes all"


def _is_nano(config: Mapping[str, Any]) -> bool:
    return config["size"]["name"] == "nano"


def _tokens(config: Mapping[str, Any]) -> int:
    """Tokens along each side."""
    return TOKENS_NANO if _is_nano(config) else TOKENS


def _cache(config: Mapping[str, Any], facts: DataFacts, count: int) -> list[Setting]:
    """Pictures and films are decoded once where all of them fit in memory."""
    if not facts.sizes or "size" not in config["modality"]:
        return []
    values = fmean(prod(size) for size in facts.sizes) * max(3, facts.channels or 3)
    megabytes = ceil(count * values / 2**20)
    if megabytes > CACHE:
        return []
    return [Setting("data.cache_mb", CACHE, reason=f"decoded, all samples take about {megabytes} MB of memory")]


def _usual_batch(config: Mapping[str, Any]) -> int:
    """Of few samples at nano: as much is computed, and many steps learn more than large batches."""
    return BATCH_NANO if _is_nano(config) else BATCH


def _batch(config: Mapping[str, Any], count: int) -> list[Setting]:
    batch = _usual_batch(config)
    while batch > 1 and batch * BATCHES > count:
        batch //= 2
    return [Setting("batch_size", batch, reason=f"{count} training samples")]


def _rate(config: Mapping[str, Any], batch: int) -> list[Setting]:
    if config["optim"]["lr"] is not None:  # an absolute one belongs to the method
        return []
    usual = _usual_batch(config)
    rate = RATE * sqrt(batch / usual) * sqrt(WIDTH / config["size"]["dim"])
    reason = f"{RATE:g} at batch {usual} and width {WIDTH}, by the square root of both"
    return [Setting("optim.lr", float(f"{rate:.2g}"), reason=reason)]


def _length(config: Mapping[str, Any], count: int, batch: int) -> list[Setting]:
    steps = STEPS_NANO if _is_nano(config) else STEPS
    most = EPOCHS * count // batch
    if most < steps:
        return [Setting("steps", most, reason=f"{EPOCHS} epochs: few samples are learned by heart")]
    return [Setting("steps", steps, reason=f"{steps * batch / count:.3g} epochs; more steps learn more")]


def _is_given(key: str, given: Collection[str]) -> bool:
    """Whether a setting, one inside it, or one that settles it as well was set."""
    for name in (key, *RIVALS.get(key, ())):
        if any(text == name or text.startswith(f"{name}.") for text in given):
            return True
    return False


def _even(value: float, most: int) -> int:
    """The nearest even number from 2 to `most`."""
    return min(most, max(2, 2 * round(value / 2)))


def _divisor(size: Sequence[int], tokens: int) -> int:
    """The side that divides all of `size` and cuts the shortest into the number of tokens nearest to `tokens`.

    Sides up to `PATCH`, then up to twice that, … go first where they give at most twice as many: 16 for 224
    pixels, rather than 28.
    """
    common, shortest = gcd(*size), min(size)
    sides = [side for side in range(2, common + 1) if common % side == 0 and shortest / side <= 2 * tokens]
    most = PATCH
    while sides and min(sides) > most:
        most *= 2
    usual = [side for side in sides if side <= most]
    return min(usual, key=lambda side: abs(shortest / side - tokens), default=common)


def _frames(sizes: Sequence[tuple[int, ...]], is_nano: bool) -> int:
    """Frames of a clip: as many as most samples have, an even number up to the usual one."""
    return _even(median(size[0] for size in sizes), FRAMES_NANO if is_nano else FRAMES)
