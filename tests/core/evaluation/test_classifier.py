"""Classifiers: saved and opened they say the same, and their tables hold what was tested."""

import csv
import json

import numpy as np
import pytest
import torch

from core.errors import UserError
from core.evaluation import classifier as classifiers
from core.evaluation.classifier import load_classifier, read_confusion, save_classifier, write_predictions
from core.evaluation.labelled import Label
from core.evaluation.metrics import METRICS
from core.evaluation.network import LabelledNetwork
from core.export import load_encoder
from core.interop import ClassifierOptions
from core.report.confusion import confusion_chart

LABELS = {
    "classes": Label("side", "classes", names=["left", "right", "<b>"], metric=METRICS["accuracy"]()),
    "answers": Label("tags", "answers", names=["a", "b", "c"], metric=METRICS["micro_f1"]()),
    "values": Label("size", "values", names=["x", "y", "z"], metric=METRICS["r2"]()),
}
READER = {"_target_": "modalities.image.reader.ImageReader"}


@pytest.fixture
def saved(tmp_path):
    """A folder with a classifier of a kind of label, and the network that it was saved from."""
    from core.config import compose
    from core.config.build import build_method
    from core.export import SavedEncoder, _describe

    config = compose(
        [
            "modality=image",
            "modality.size=[16,16]",
            "modality.patch=[4,4]",
            "size.dim=24",
            "size.depth=1",
            "size.heads=2",
        ]
    )
    torch.manual_seed(0)
    method = build_method(config)
    encoder = SavedEncoder(method.tokenizer, method.encoder, _describe(config, "yours")).eval()

    def make(kind, folder="c", head="linear"):
        network = LabelledNetwork(encoder, LABELS[kind], "mean", options=ClassifierOptions(head=head)).eval()
        if kind == "values":
            network.mean, network.scale = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 2.0])
        if head == "linear":
            torch.nn.init.normal_(network.head.weight)
        save_classifier(tmp_path / folder, network, reader=config["modality"]["reader"], trained_on="ten samples")
        return tmp_path / folder, network

    return make


@pytest.mark.parametrize("kind", LABELS)
def test_a_classifier_says_what_its_network_said(saved, kind):
    folder, network = saved(kind)
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    opened = load_classifier(folder)
    with torch.no_grad():
        outputs, answers = network.outputs(images), network.predictions(images)
    result = opened(images)
    assert opened.classes == list(LABELS[kind].names) and not result.probabilities.requires_grad
    if kind == "classes":
        torch.testing.assert_close(result.probabilities, outputs.softmax(1))
        assert result.labels == [["left", "right", "<b>"][n] for n in answers.tolist()]
        torch.testing.assert_close(opened(images.numpy()).probabilities, result.probabilities)
    elif kind == "answers":
        torch.testing.assert_close(result.probabilities, outputs.sigmoid())
        assert result.labels == [[n for n, yes in zip("abc", row, strict=True) if yes >= 0] for row in answers.tolist()]
    else:
        torch.testing.assert_close(result.probabilities, 2 * outputs + torch.tensor([1.0, 2.0, 3.0]))
        assert result.labels == result.probabilities.tolist()
    assert load_encoder(folder).embed_dim == 24, "the fine-tuned encoder opens by itself"


def test_a_head_of_two_hidden_layers_is_saved_too(saved):
    folder, network = saved("classes", head="mlp")
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        expected = network.outputs(images).softmax(1)
    torch.testing.assert_close(load_classifier(folder)(images).probabilities, expected)

    config = json.loads((folder / classifiers.CONFIG).read_text())
    (folder / classifiers.CONFIG).write_text(json.dumps(config | {"head": "linear"}))
    with pytest.raises(UserError, match="does not fit"):
        load_classifier(folder)


def test_files_are_prepared_by_the_reader(saved, tmp_path):
    from PIL import Image

    folder, _ = saved("classes")
    paths = []
    for number, size in enumerate([(40, 30), (16, 16), (100, 20)]):
        picture = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(picture).save(paths[-1])
    opened = load_classifier(folder)
    together = opened(paths).probabilities
    assert together.shape == (3, 3)
    for path, row in zip(paths, together, strict=True):
        torch.testing.assert_close(opened(str(path)).probabilities[0], row)

    (tmp_path / "torn.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"torn\.png: "):
        opened([paths[0], tmp_path / "torn.png"])


@pytest.mark.parametrize("damage", ["config", "head", "missing", "format", "names", "nothing", "several"])
def test_a_damaged_classifier_is_one_message(saved, tmp_path, damage):
    folder, _ = saved("classes")
    config = json.loads((folder / classifiers.CONFIG).read_text())
    if damage == "config":
        (folder / classifiers.CONFIG).write_text("{")
    elif damage == "head":
        (folder / classifiers.HEAD).write_bytes(b"cut")
    elif damage == "missing":
        (folder / classifiers.CONFIG).unlink()
    elif damage == "format":
        (folder / classifiers.CONFIG).write_text(json.dumps(config | {"format": 9}))
    elif damage == "names":
        (folder / classifiers.CONFIG).write_text(json.dumps(config | {"classes": ["only"]}))
    elif damage == "nothing":
        folder = tmp_path
    elif damage == "several":
        folder = tmp_path / "run"
        saved("classes", "run/classifier/finetune")
        assert load_classifier(folder).classes == ["left", "right", "<b>"]
        saved("classes", "run/classifier/finetune-other")
    with pytest.raises(UserError, match=r"classifier|does not fit"):
        load_classifier(folder)


def test_predictions_and_confusions_of_classes(tmp_path):
    truth, predictions = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 0])
    probabilities = np.full((5, 3), 0.1) + 0.7 * np.eye(3)[predictions]
    write_predictions(tmp_path, LABELS["classes"], list("vwxyz"), truth, predictions, probabilities)
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    assert rows[1] == {"key": "w", "truth": "left", "prediction": "right", "probability": "0.8000"}
    assert [row["key"] for row in rows] == list("vwxyz")
    names, counts = read_confusion(tmp_path / "confusion.csv")
    assert names == ["left", "right", "<b>"] and counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]

    html = confusion_chart("side", names, counts)
    assert html.count("<title>") == 9 and "&lt;b&gt; predicted as left: 1 of 2" in html and "<b>" not in html
    assert "Most frequent mistakes: left as right (1 of 2); &lt;b&gt; as left (1 of 2)." in html


def test_predictions_of_questions_and_values(tmp_path):
    truth = np.array([[1.0, 0.0, np.nan]])
    write_predictions(
        tmp_path, LABELS["answers"], ["k"], truth, np.array([[0.2, -1, 3]]), np.array([[0.55, 0.27, 0.95]])
    )
    (row,) = csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines())
    assert row["truth: a"] == "1" and row["prediction: a"] == "1" and row["probability: c"] == "0.9500"
    assert row["truth: c"] == "" and row["prediction: b"] == "0" and not (tmp_path / "confusion.csv").exists()

    write_predictions(tmp_path, LABELS["values"], ["k"], truth, np.array([[0.2, -1, 3]]), np.array([[0.2, -1, 3]]))
    (row,) = csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines())
    assert row["prediction: y"] == "-1" and row["probability: y"] == ""
