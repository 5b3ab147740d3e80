"""From errors per token to a skill per region, with its interval."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from core.evaluation.intervals import skill_interval

REGIONS = ("total", "object", "background")
ROUNDING = 1e-6  # an error so much smaller than another is none


@dataclass
class Sums:
    """Per objective and region, sums over each sample's scored tokens: the error of every answer, and the tokens.

    `by_token`: each token stands for itself, where there is one sample only, whose parts are all there is to redraw.
    """

    by_token: bool = False
    sums: defaultdict = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    def add(
        self, objective: str, region: str, errors: Mapping[str, Tensor], flag: Tensor, owner: Tensor, samples: int
    ) -> None:
        """Errors (B, M) of each answer at the flagged tokens (B, M); `owner` (B, M) is the sample that each is of."""
        owner = owner[flag]
        for part, error in {**errors, "tokens": torch.ones_like(flag, dtype=torch.float32)}.items():
            values = error[flag].double()
            total = values if self.by_token else values.new_zeros(samples).index_add(0, owner, values)
            self.sums[objective, region][part].append(total.cpu().numpy())

    def of(self, objective: str, region: str) -> dict[str, np.ndarray]:
        """(S,) by part, of the samples (or tokens) that have tokens in this region."""
        joined = {part: np.concatenate(values) for part, values in self.sums[objective, region].items()}
        return {part: values[joined["tokens"] > 0] for part, values in joined.items()}

    @property
    def objectives(self) -> list[str]:
        return list(dict.fromkeys(objective for objective, _ in self.sums))


def figures(sums: Sums, objective: str, seed: int) -> dict:
    known = [region for region in REGIONS if (objective, region) in sums.sums]
    return {region: _region(sums.of(objective, region), sums.by_token, seed) for region in known}


def _region(parts: dict[str, np.ndarray], by_token: bool, seed: int) -> dict:
    tokens = parts["tokens"].sum()
    if not tokens:
        return {"tokens": 0, "samples": 0}
    references = np.stack([parts["filler"], parts["zero"]])
    counts = {"samples": 1 if by_token else len(parts["tokens"]), "tokens": int(tokens)}
    errors = references.sum(1)
    if errors.min() <= ROUNDING * errors.max():
        return {**counts, "result": "a trivial answer has no error: no room"}
    skill = skill_interval(parts["prediction"], references, seed)
    found = {
        "skill": skill.as_dict(),
        "result": "wins" if skill.low > 0 else "not resolvable at this size",
        "error": {part: float(parts[part].sum() / tokens) for part in ("prediction", "filler", "zero")},
        "better_reference": ("filler", "zero")[int(errors.argmin())],
        **counts,
    }
    if "clean" in parts:  # what a perfect picture scores against its decoded self
        found["codec_ceiling"] = skill_interval(parts["clean"], references, seed).as_dict()
    return found
