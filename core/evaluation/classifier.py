"""A fine-tuned network as people use it: opened with one call, it gives probabilities and class names.

A folder: config.json (classes, kind of label, pooling, reader), head.safetensors, encoder/ (a saved encoder,
which opens by itself), predictions.csv of the samples that were tested, confusion.csv of classes.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from core.config.build import build
from core.data.reader import Reader
from core.data.sources import Item
from core.errors import BadSample, UserError
from core.evaluation.labelled import Label
from core.evaluation.metrics import METRICS
from core.evaluation.network import LabelledNetwork
from core.export import SavedEncoder, load_encoder, save_encoder
from core.files import explain_write_errors, write_atomic
from core.interop import ClassifierOptions

FORMAT = 1
CONFIG, HEAD, ENCODER = "config.json", "head.safetensors", "encoder"
PREDICTIONS, CONFUSION = "predictions.csv", "confusion.csv"


@dataclass(frozen=True)
class Predictions:
    """Of a batch. `labels`: the name of each sample's most probable class; of questions, those answered yes.

    `probabilities`: (B, classes), summing to 1; of questions (B, questions), of a yes to each; else the
    values (B, L), and `labels` are those.
    """

    labels: list
    probabilities: Tensor


class Classifier(nn.Module):
    """An encoder with a trained head: `classifier(images)` gives `Predictions`, without gradients.

    It takes raw batches as the encoder does (images uint8 or [0, 1] (B, C, H, W), …), arrays of such, or
    paths of files, which its reader prepares as in evaluation. `classes`: names of classes, questions or
    values.
    `config`: the content of its config.json.
    """

    def __init__(self, network: LabelledNetwork, reader: Reader, config: Mapping[str, Any]):
        super().__init__()
        self.network, self.reader, self.config = network, reader, dict(config)

    @property
    def classes(self) -> list[str]:
        return list(self.network.label.names)

    @property
    def encoder(self) -> SavedEncoder:
        return self.network.encoder

    @torch.no_grad()
    def forward(self, data: Any) -> Predictions:
        """Raises: UserError where a path cannot be read."""
        if isinstance(data, str | Path):
            data = [data]
        if isinstance(data, list | tuple) and data and all(isinstance(entry, str | Path) for entry in data):
            data = self.read(data)
        elif isinstance(data, np.ndarray):
            data = torch.from_numpy(data)

        device = next(self.parameters()).device
        inputs: Any = data  # a tensor, or graphs
        probabilities = self.network.probabilities(self.network.outputs(inputs.to(device))).cpu()
        return Predictions(self._labels(probabilities), probabilities)

    def read(self, paths: Sequence[str | Path]) -> Any:
        """The files as one raw batch, prepared as for evaluation.

        Raises: UserError naming a file and its fault.
        """
        samples = []
        for path in map(Path, paths):
            try:
                samples.append(self.reader.read_views(Item(path.name, str(path)), False))
            except BadSample as error:
                raise UserError(f"{path}: {error}") from None
        return self.reader.collate_views(samples)[self.reader.view]

    def _labels(self, probabilities: Tensor) -> list:
        names = self.classes
        if self.network.label.kind == "classes":
            return [names[number] for number in probabilities.argmax(1).tolist()]
        if self.network.label.kind == "values":
            return probabilities.tolist()

        labels = []
        for row in (probabilities >= 0.5).tolist():
            labels.append(list(compress(names, row)))
        return labels

    def extra_repr(self) -> str:
        names = self.classes
        examples = list(names[:6])
        if len(names) > 6:
            examples.append("…")
        text = f"takes {self.encoder.view} data or paths of files; {len(names)} {self.network.label.kind}"
        return f"{text}: {', '.join(examples)}"


def save_classifier(
    folder: Path,
    network: LabelledNetwork,
    *,
    reader: Mapping[str, Any],
    trained_on: str,
) -> None:
    """Writes a trained network. `reader`: the node of the reader that it was trained with."""
    encoder, label = network.encoder, network.label
    save_encoder(folder / ENCODER, encoder)

    head = {}
    for name, value in network.state_dict().items():
        if not name.startswith("encoder."):
            head[name] = value.detach().cpu().contiguous()
    config = {
        "format": FORMAT,
        "label": label.name,
        "kind": label.kind,
        "classes": list(label.names),
        "metric": label.metric.name,
        "pool": network.pool,
        "head": network.options.head,
        "view": encoder.view,
        "reader": dict(reader),
        "trained_on": trained_on,
    }
    with explain_write_errors(folder):
        write_atomic(folder / HEAD, save(head))
        write_atomic(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def load_classifier(path: str | Path) -> Classifier:
    """Opens a classifier, in eval mode. `path`: its folder, or that of a run that holds one.

    Raises: UserError where there is none, where there are several, or where a file is damaged.
    """
    folder = _find(Path(path))
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        head = load_file(folder / HEAD)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} holds no whole classifier: {error}. Fine-tune again (task=finetune).") from None

    kind, metric = config.get("kind"), METRICS.get(config.get("metric"))
    if config.get("format") != FORMAT or metric is None:
        raise UserError(f"{folder / CONFIG} is no classifier of format {FORMAT}.")

    label = Label(config["label"], kind, names=config["classes"], metric=metric())
    options = ClassifierOptions(head=config.get("head", "linear"))
    network = LabelledNetwork(load_encoder(folder / ENCODER), label, config["pool"], options=options)
    expected = {}
    for name, value in network.state_dict().items():
        if not name.startswith("encoder."):
            expected[name] = value.shape
    if {name: value.shape for name, value in head.items()} != expected:
        raise UserError(f"{folder / HEAD} does not fit {CONFIG} beside it.")

    network.load_state_dict(head, strict=False)
    reader = build(dict(config["reader"]), key="reader", kind=Reader)
    return Classifier(network, reader, config).eval()


def write_predictions(
    folder: Path,
    label: Label,
    keys: Sequence[str],
    truth: np.ndarray,
    predictions: np.ndarray,
    probabilities: np.ndarray,
) -> None:
    """Writes predictions.csv of tested items and, for classes, confusion.csv: rows are true classes.

    Shapes: of classes `truth` and `predictions` (T,), `probabilities` (T, classes); else all (T, L).
    """
    names = list(label.names)
    if label.kind == "classes":
        rows = [["key", "truth", "prediction", "probability"]]
        for key, y, number, row in zip(keys, truth, predictions, probabilities, strict=True):
            rows.append([key, names[int(y)], names[int(number)], f"{row[int(number)]:.4f}"])
    else:
        header = ["key"]
        for name in names:
            header += [f"truth: {name}", f"prediction: {name}", f"probability: {name}"]

        rows = [header]
        for key, y, values, row in zip(keys, truth, predictions, probabilities, strict=True):
            cells = []
            for true, value, probability in zip(y, values, row, strict=True):
                cells += _cells(label, true, value, probability)
            rows.append([key, *cells])

    with explain_write_errors(folder):
        write_atomic(folder / PREDICTIONS, _as_csv(rows))
        if label.kind == "classes":
            counts = np.zeros((len(names), len(names)), dtype=int)
            np.add.at(counts, (truth.astype(int), predictions.astype(int)), 1)
            table = [["truth \\ prediction", *names]]
            table += [[name, *row] for name, row in zip(names, counts.tolist(), strict=True)]
            write_atomic(folder / CONFUSION, _as_csv(table))


def read_confusion(file: Path) -> tuple[list[str], np.ndarray] | None:
    """Class names and counts (C, C) of a confusion.csv, true classes in rows.

    None where there is no such file.
    """
    if not file.exists():
        return None
    head, *rows = csv.reader(io.StringIO(file.read_text(encoding="utf-8")))
    return head[1:], np.array([list(map(int, row[1:])) for row in rows])


def _cells(label: Label, true: float, value: float, probability: float) -> list[str]:
    """Truth, prediction and probability of one question, or of one value, which has none."""
    known = "" if np.isnan(true) else f"{true:g}"
    if label.kind == "values":
        return [known, f"{value:g}", ""]
    return [known, str(int(value >= 0)), f"{probability:.4f}"]


def _as_csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _find(path: Path) -> Path:
    """The folder of the only classifier that is `path` or lies in the run `path`."""
    if (path / HEAD).exists():
        return path
    folders = sorted(file.parent for file in (path / "classifier").rglob(HEAD))
    if not folders:
        raise UserError(
            f"{path} holds no classifier; python -m core.evaluate run=<run> task=finetune leaves one there."
        )
    if len(folders) > 1:
        raise UserError(f"{path} holds several classifiers; choose one of {', '.join(map(str, folders))}.")
    return folders[0]
