"""Bootstrap intervals: 95 %, percentile, over test units (whole groups of them) and over seeds at once."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from core.reconstruction.skill import skill

DRAWS = 2000
LEVEL = 0.95
CHUNK = 200  # draws held in memory at a time
Statistic = Callable[[np.ndarray], np.ndarray]  # weights (W, T) of units -> figures (R, W) by seed


@dataclass(frozen=True)
class Interval:
    """A figure and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, draws: np.ndarray) -> "Interval":
        """From bootstrap draws (W,); draws without a figure (NaN) do not count."""
        draws = draws[~np.isnan(draws)]
        if not len(draws):
            return cls(float(value), float("nan"), float("nan"))
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return cls(float(value), float(low), float(high))

    def as_dict(self) -> dict[str, float]:
        return {name: round(value, 6) for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(
    statistic: Statistic, *, units: int, seeds: int, groups: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """Draws (2000,) of a statistic whose T test units and R seeds are redrawn, independently of each other.

    The mean over the seeds of a draw. `groups` (T,): units that are redrawn together (clips of a scene).
    With one seed only the units are redrawn. The same `seed` redraws the same units: paired.
    """
    rng = np.random.default_rng(seed)
    draws = []
    for weights in _redraw(units, groups, rng):
        by_seed = statistic(weights)
        repeats = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=len(weights))
        draws.append((by_seed.T * repeats).sum(1) / seeds)
    return np.concatenate(draws)


def skill_interval(error: np.ndarray, references: np.ndarray, seed: int = 0) -> Interval:
    """skill = 1 - Σ error / min over references of Σ error of the reference.

    error (S,) and references (F, S): sums over each sample's tokens. The best reference is searched anew in
    every draw. Raises ValueError where no reference makes any error (there is nothing to gain).
    """
    error, references = np.asarray(error, dtype=np.float64), np.asarray(references, dtype=np.float64)
    totals = references.sum(1)
    if not totals.min() > 0:
        raise ValueError("a reference without any error leaves no room for skill")

    def redrawn(weights: np.ndarray) -> np.ndarray:
        return skill(weights @ error, references @ weights.T)[None]

    draws = bootstrap(redrawn, units=len(error), seeds=1, seed=seed)
    return Interval.of(float(skill(error.sum(), totals)), draws)


def _redraw(count: int, groups: np.ndarray | None, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each of `count` units is drawn, (draws, count) at a time."""
    member = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    size = int(member.max()) + 1
    for start in range(0, DRAWS, CHUNK):
        draws = min(CHUNK, DRAWS - start)
        yield rng.multinomial(size, np.full(size, 1 / size), size=draws)[:, member].astype(np.float64)
