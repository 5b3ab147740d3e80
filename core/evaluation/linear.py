"""A linear probe: what a linear function of frozen features can say."""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from core.evaluation.probe import Probe

ITERATIONS = 500


class Logistic(Probe):
    """Multinomial logistic regression: mean cross entropy + λ/2 · ‖W‖², by L-BFGS; the setting is λ.

    λ is per sample, so that what is chosen on a part fits the whole. A fit that uses up its iterations is taken as it
    is, for encoders and baselines alike.
    """

    name = "linear"
    settings = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # strong to weak: each starts from the last
    default = 1e-2

    def predict(self, x: np.ndarray, y: np.ndarray, queries: np.ndarray, settings: Sequence[float]) -> list[np.ndarray]:
        model = LogisticRegression(max_iter=ITERATIONS, warm_start=True)
        x, queries = np.asarray(x, dtype=np.float32), np.asarray(queries, dtype=np.float32)
        predictions = []
        for strength in settings:
            model.set_params(C=1 / (strength * len(x)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(x, y)
            predictions.append(model.predict(queries))
        return predictions
