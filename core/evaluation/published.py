"""task=published: an encoder measured as its paper measured it, by the node `published` of its experiment."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from core.config.build import build
from core.data.opening import open_source
from core.data.reader import Reader
from core.data.sources import Source
from core.errors import UserError
from core.evaluation.compare import random_encoder
from core.evaluation.verdicts import RANDOM
from core.export import SavedEncoder, load_encoder

Figures = dict[str, float | list[float]]


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A paper's figure, in %, with its deviation over so many seeds, and where it stands."""

    mean: float
    deviation: float | None = None
    seeds: int | None = None
    metric: str = "accuracy"
    source: str = ""


class Published(ABC):
    """A paper's protocol; its constructor takes the settings that the paper gives for the data set.

    `reported`: the paper's figure for it, None where there is none. The first sentence of its docstring
    describes the protocol to users.
    """

    reported: Reported | None = None

    @abstractmethod
    def __call__(self, encoder: SavedEncoder, reader: Reader, source: Source, seed: int) -> Figures:
        """Figures by name, from 0 to 1; "final" is the one that is compared.

        A list: the parts that a figure averages.

        The encoder is left as it is. `seed`: of whatever is random in it. Raises: UserError for data that
        do not fit.
        """


def evaluate_published(
    runs: Sequence[Path], config: Mapping[str, Any], seed: int = 0, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """The record of runs that differ in seed: figures of `each`, of each one untrained, their spread.

    `config`: of such a run, with the data to measure on.
    Raises: UserError where the config names no protocol, or the data do not fit it.
    """
    if config.get("published") is None:
        raise UserError(
            "task=published: the run's config does not say how a paper measured it. Experiments do, such as "
            "experiment=graphmae_cora; to another run give published={_target_: …, …} as an experiment has "
            "it, or choose task=knn or linear."
        )

    protocol = build(dict(config["published"]), key="published", kind=Published)
    reader, source = open_source(config)
    trained, untrained = [], []
    for number, run in enumerate(runs):
        trained.append(protocol(load_encoder(run).to(device), reader, source, seed))
        untrained.append(protocol(random_encoder(run, seed, number).to(device), reader, source, seed))

    return {
        "figures": _spread_by_name(trained),
        RANDOM: _spread_by_name(untrained),
        "each": trained,
        f"each, {RANDOM}": untrained,
        "protocol": config["published"],
        "described": describe(protocol),
    }


def describe(protocol: Published) -> str:
    """The protocol in a sentence: the first one of its docstring."""
    paragraph = (type(protocol).__doc__ or type(protocol).__name__).strip().partition("\n\n")[0]
    return " ".join(paragraph.split())


def _spread_by_name(runs: Sequence[Figures]) -> dict[str, dict[str, float | None]]:
    names = [name for name, value in runs[0].items() if not isinstance(value, list)]
    values = {name: [figures[name] for figures in runs] for name in names}
    return {name: spread(cast(list[float], figures)) for name, figures in values.items()}


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, population deviation (as papers give it), and half the mean's 95 % interval (t distribution)."""
    from scipy.stats import t

    n = len(values)
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5) if n > 1 else None
    return {"mean": float(np.mean(values)), "deviation": float(np.std(values)), "half_interval": half}
