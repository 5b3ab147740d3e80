"""Labels that tokens carry instead of samples (nodes of a graph): each labelled token becomes an item of its own."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.data.reader import Reader, TokenLabels
from core.data.sources import Item
from core.errors import BadSample, UserError

LABEL = "token"


@dataclass(frozen=True)
class TokenItems:
    """Samples, the tokens of each by its key, the keys of those that are tested, and the names of the classes."""

    samples: Sequence[Item]
    by_sample: Mapping[str, Sequence[Item]]
    tested: frozenset[str]
    classes: list[str]

    def asked(self, tokens: Sequence[Item]) -> tuple[list[Item], dict[str, Tensor]]:
        """The samples that these tokens are of, and their tokens' classes (N,), -1 where it is none of these."""
        wanted, samples, classes = {token.key for token in tokens}, [], {}
        for sample in self.samples:
            y = [token.labels[LABEL] if token.key in wanted else -1 for token in self.by_sample[sample.key]]
            if any(number >= 0 for number in y):
                samples.append(sample)
                classes[sample.key] = torch.tensor(y)
        return samples, classes


def token_items(reader: Reader, samples: Sequence[Item], fit: Collection[str]) -> TokenItems | None:
    """None where the first sample's tokens have no labels. `fit`: keys of the samples to train on.

    Tokens without a split of their own belong where their sample does; those of neither part of a split (validation)
    lose their label. Samples that cannot be read are left out.
    Raises: UserError where only some samples have labelled tokens.
    """
    by_sample, tested, names = {}, set(), []
    for sample in samples:
        try:
            labels = reader.token_labels(sample)
        except BadSample:
            continue
        if labels is None:
            if by_sample:
                raise UserError(f"{sample.key}: its tokens carry no labels, though those of other samples do.")
            return None
        tokens, flags = _tokens(sample, labels, sample.key in fit)
        by_sample[sample.key] = tokens
        names = list(labels.names) or names
        tested |= {token.key for token, flag in zip(tokens, flags, strict=True) if flag}
    largest = max((token.labels.get(LABEL, -1) for tokens in by_sample.values() for token in tokens), default=-1)
    known = [sample for sample in samples if sample.key in by_sample]
    return TokenItems(known, by_sample, frozenset(tested), names or [str(number) for number in range(largest + 1)])


def _tokens(sample: Item, labels: TokenLabels, fits: bool) -> tuple[list[Item], list[bool]]:
    """A sample's tokens, and which of them are tested."""
    count = len(labels.classes)
    test = labels.splits.get("test", torch.full((count,), not fits))
    train = labels.splits.get("train", ~test)
    known = (labels.classes >= 0) & (train | test)
    rows = zip(labels.classes.tolist(), known.tolist(), strict=True)
    items = [
        replace(sample, key=f"{sample.key}/{i}", labels={LABEL: number} if asked else {})
        for i, (number, asked) in enumerate(rows)
    ]
    return items, test.tolist()
