"""Held-out figures while a run trains: skill on fixed masks, and nearest neighbours where samples have labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from core.data.reader import Reader
from core.data.sources import Item, Source
from core.evaluation.features import Extractor, extract, extractor
from core.evaluation.labelled import draw_items
from core.evaluation.probes import NeighbourVote
from core.evaluation.reconstruction import evaluate_reconstruction
from core.evaluation.settings import LoaderSettings
from core.export import SavedEncoder
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.reconstruction.baseline import baseline_of

SCORED = 64  # held-out samples whose reconstruction is scored
NEIGHBOURS, QUERIES = 256, 128  # labelled samples of the training part, and held-out ones, that are compared
BATCH = 32
VOTERS = 20  # neighbours that vote


class HeldOutWatch:
    """Figures of a method's weights at hand: {"skill": …, "knn": …}, on a small fixed draw of samples and masks.

    skill: of the first objective, over all its hidden tokens. knn: accuracy of the first label's classes by
    weighted nearest neighbours (k = 20), of features averaged over tokens; absent without labels. Beside it
    stand the label's name, "label", and "chance", the accuracy of the training part's most frequent class. They
    are for watching a run, smaller and without intervals; evaluations measure all.
    """

    def __init__(self, reader: Reader, source: Source, modality: Mapping[str, Any]):
        self.reader, self.source, self.view = reader, source, modality["name"]
        self.baseline = baseline_of(modality)

    def __call__(self, method: MaskedAutoencoder) -> dict[str, float | str]:
        """Measures without changing weights, modes or random numbers. Raises: UserError where it cannot be done."""
        device = next(method.parameters()).device
        loader = LoaderSettings(self.reader, BATCH, workers=0, device=device)

        was_training = method.training
        try:
            with torch.random.fork_rng():
                return {**self._skill(method, loader), **self._accuracy(method, loader)}
        finally:
            method.train(was_training)

    def _skill(self, method: MaskedAutoencoder, loader: LoaderSettings) -> dict[str, float]:
        record = evaluate_reconstruction(method, self.source, loader, samples=SCORED, seed=0, baseline=self.baseline)
        figures = next(iter(record["figures"].values()))["total"]
        if "skill" not in figures:
            return {}
        return {"skill": figures["skill"]["value"]}

    def _accuracy(self, method: MaskedAutoencoder, loader: LoaderSettings) -> dict[str, float | str]:
        name = next(iter(self.source.classes), None)
        if name is None:
            return {}

        train = draw_items(_labelled(self.source.items("train"), name), NEIGHBOURS, seed=0)
        test = draw_items(_labelled(self.source.items("test"), name), QUERIES, seed=0)
        if not train or not test:
            return {}

        encoder = SavedEncoder(method.tokenizer, method.encoder, {"view": self.view})
        model = extractor(encoder, "mean", loader.device)
        x, y = _features(model, train, loader, name)
        queries, truth = _features(model, test, loader, name)
        predictions = NeighbourVote().predict(x, y, queries, [VOTERS])[0]
        chance = float((truth == np.bincount(y).argmax()).mean())
        return {"knn": float((predictions == truth).mean()), "label": name, "chance": chance}


def _features(
    model: Extractor, items: Sequence[Item], loader: LoaderSettings, label: str
) -> tuple[np.ndarray, np.ndarray]:
    """Features (S, D) and class numbers (S,) of the items that can be read."""
    table = extract({"encoder": model}, items, loader)
    classes = [item.labels[label] for item in table.items]
    return table.features["encoder"], np.array(classes)


def _labelled(items: Sequence[Item], name: str) -> list[Item]:
    """The items with a class number."""
    labelled = []
    for item in items:
        number = item.labels.get(name)
        if isinstance(number, int) and number >= 0:
            labelled.append(item)
    return labelled
