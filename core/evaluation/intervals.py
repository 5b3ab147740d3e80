"""Bootstrap intervals: 95 %, percentile, over test samples (whole groups of them) and over seeds at the same time."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

DRAWS = 2000
LEVEL = 0.95
CHUNK = 200  # draws held in memory at a time


@dataclass(frozen=True)
class Interval:
    """A figure and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, draws: np.ndarray) -> "Interval":
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return cls(float(value), float(low), float(high))

    def as_dict(self) -> dict[str, float]:
        return {name: round(value, 6) for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_interval(values: np.ndarray, groups: np.ndarray | None = None, seed: int = 0) -> Interval:
    """Mean of `values` (R, T) over R seeds and T test samples, both redrawn, independently of each other.

    For a paired comparison `values` are differences. `groups` (T,): samples that are redrawn together (clips of a
    scene). With one seed only the samples are redrawn.
    """
    values = np.atleast_2d(np.asarray(values, dtype=np.float64))
    rng = np.random.default_rng(seed)
    draws = []
    for weights in _redraw(values.shape[1], groups, rng):
        by_seed = values @ weights.T / weights.sum(1)  # (R, draws)
        seeds = rng.multinomial(values.shape[0], np.full(values.shape[0], 1 / values.shape[0]), size=len(weights))
        draws.append((by_seed.T * seeds).sum(1) / values.shape[0])
    return Interval.of(values.mean(), np.concatenate(draws))


def skill_interval(error: np.ndarray, fillers: np.ndarray, seed: int = 0) -> Interval:
    """skill = 1 - Σ error / min over fillers of Σ error of the filler.

    error (S,) and fillers (F, S): sums over each sample's tokens. The best filler is found anew in every draw.
    Raises ValueError where no filler makes any error (there is nothing to gain).
    """
    error, fillers = np.asarray(error, dtype=np.float64), np.asarray(fillers, dtype=np.float64)
    if not fillers.sum(1).min() > 0:
        raise ValueError("a filler without any error leaves no room for skill")
    rng = np.random.default_rng(seed)
    tiny = np.finfo(np.float64).tiny  # a draw may consist of samples that the filler answers without error
    ratios = []
    for weights in _redraw(len(error), None, rng):
        ratios.append(weights @ error / np.maximum((fillers @ weights.T).min(0), tiny))
    return Interval.of(1 - error.sum() / fillers.sum(1).min(), 1 - np.concatenate(ratios))


def _redraw(count: int, groups: np.ndarray | None, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each of `count` samples is drawn, (draws, count) at a time."""
    member = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(member.max()) + 1
    for start in range(0, DRAWS, CHUNK):
        size = min(CHUNK, DRAWS - start)
        yield rng.multinomial(units, np.full(units, 1 / units), size=size)[:, member].astype(np.float64)
