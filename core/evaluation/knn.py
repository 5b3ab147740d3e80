"""Nearest neighbours: what the geometry of the features says, with nothing trained."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from core.evaluation.probe import Probe

CHUNK = 1024  # queries at a time


class Neighbours(Probe):
    """The k training samples with the highest cosine vote for their classes with weight exp(cosine / 0.07).

    Source: weighted kNN of DINO (facebookresearch/dino), whose default is k = 20.
    """

    name = "knn"
    settings = (1, 5, 10, 20, 50)
    default = 20

    def predict(self, x: np.ndarray, y: np.ndarray, queries: np.ndarray, settings: Sequence[float]) -> list[np.ndarray]:
        classes, numbers = np.unique(y, return_inverse=True)
        bank, votes = F.normalize(torch.from_numpy(x).float(), dim=1), torch.from_numpy(numbers)
        found: list[list[torch.Tensor]] = [[] for _ in settings]
        for part in F.normalize(torch.from_numpy(queries).float(), dim=1).split(CHUNK):
            near = (part @ bank.T).topk(min(int(max(settings)), len(bank)), dim=1)
            weight = ((near.values - 1) / 0.07).exp()
            for predictions, k in zip(found, settings, strict=True):
                score = torch.zeros(len(part), len(classes))
                score.scatter_add_(1, votes[near.indices[:, : int(k)]], weight[:, : int(k)])
                predictions.append(score.argmax(1))
        return [classes[torch.cat(predictions).numpy()] for predictions in found]
