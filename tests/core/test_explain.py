"""`core.explain`: every setting of a part with type, value and meaning."""

import pytest

from core.config.files import GROUPS, choices
from core.config.types import signature_of, target_of
from core.explain import composed, lines, main, meaning


def told(capsys, *argv) -> str:
    assert main(list(argv)) == 0
    return capsys.readouterr().out


def test_a_part_of_a_modality(capsys):
    text = told(capsys, "modality.reader", "modality=image", "modality.reader.white=4095")
    assert text.startswith("modality.reader: modalities.image.reader.ImageReader\n  Reads one image")
    rows = {line.split()[0]: line for line in text.splitlines()[2:]}
    assert list(rows) == ["size", "channels", "transform", "repeats", "crop_ratio", "white"]
    assert "number (float)" in rows["crop_ratio"] and " 1.0 " in rows["crop_ratio"]
    assert " 4095 " in rows["white"] and "16-bit" in rows["white"]


@pytest.mark.parametrize(
    "argv", [["method=mae"], ["method", "modality=image"], ["method.masker"], ["optim"], ["size=base"]]
)
def test_groups_and_parts(capsys, argv):
    assert told(capsys, *argv)


def test_data_that_must_be_given_stand_open(capsys):
    text = told(capsys, "data.source", "modality=image", "data=folder")
    assert "FolderSource" in text and "holdout" in text and " 0.1 " in text
    assert "<your data>" in told(capsys, "data.root", "modality=image", "data=folder")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["steps"], ["steps = ", "optimiser steps; wins over epochs"]),
        (["batch_size", "batch_size=7"], ["batch_size = 7", "samples per optimiser step"]),
        (["seeds"], ["seeds: that many runs"]),
        (["dry_run"], ["dry_run: true: everything is checked"]),
        (["config"], ["config.yaml"]),
        (["init"], ["init: a run, saved encoder or checkpoint", "from", "part"]),
        (["precision"], ["auto, fp32 or bf16"]),
    ],
)
def test_settings_of_a_run_as_a_whole(capsys, argv, words):
    text = told(capsys, *argv)
    assert all(word in text for word in words)


def test_every_setting_of_train_yaml_has_a_meaning():
    config = composed(["modality=image"])
    for key in set(config) - {*GROUPS, "choose"}:
        text = "\n".join(lines(key, config))
        assert len(text.split()) > 3, key


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["modality.raeder"], ["there is no modality.raeder", "Did you mean reader"]),
        (["steps.x"], ["there is no steps.x"]),
        (["dry_rum"], ["there is no dry_rum", "Did you mean dry_run"]),
        ([], ["Name one part"]),
        (["a", "b"], ["Name one part"]),
        (["optim", "modality=imgae"], ["modality=imgae"]),
    ],
)
def test_mistakes_are_one_message(capsys, argv, words):
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words) and message.count("\n") == 1


@pytest.mark.parametrize("modality", sorted(choices("modality")))
def test_every_part_of_a_modality_can_be_explained(modality):
    config = composed([f"modality={modality}"])
    for key in (*GROUPS[:-1], "modality.reader", "data.source", "method.encoder"):
        assert len(list(lines(key, config))) > 1


def test_all_settings_of_optimisers_and_engine_have_a_meaning():
    config = composed(["modality=image"])
    for group in ("optim", "engine"):
        target = target_of(config[group])
        named = [bool(meaning(name, target)) for name in signature_of(target).hints]
        assert all(named), group
