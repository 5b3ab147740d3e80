"""The command as a user meets it, on a run of two steps with pictures of two classes."""

import json
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from core import evaluate, train
from core.errors import UserError
from core.evaluation import run_task
from core.evaluation.compare import SUPERVISED
from core.evaluation.settings import EvaluationSettings
from core.export import load_encoder
from core.runs import open_config, open_method

SMALL = ["size.dim=24", "size.depth=1", "size.heads=2", "modality.size=[16,16]", "engine.workers=0", "precision=fp32"]
TINY = [*SMALL, "batch_size=4", "steps=2", "method.readouts.main.decoder.trunk.depth=1"]


def draw(folder, split, label, count, grouped=False):
    """Pictures of class 0 are bright at the left, of class 1 at the right."""
    for index in range(count):
        picture = np.random.default_rng([label, index, split == "test"]).integers(0, 60, (16, 16, 3), dtype=np.uint8)
        picture[:, 8 * label : 8 * label + 8] += 150
        path = folder / split / f"class{label}" / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `pictures` in class folders and a finished `run` on them; the cache is in it too."""
    folder = tmp_path_factory.mktemp("evaluate")
    for split, count in (("train", 12), ("test", 6)):
        for label in (0, 1):
            draw(folder / "pictures", split, label, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LACUNA_CACHE", str(folder / "cache"))
        data = ["data=folder", f"data.root={folder / 'pictures'}"]
        assert train.main(["modality=image", *TINY, *data, "optim.ema=0.5", f"run_dir={folder / 'run'}"]) == 0
        yield folder


def run(capsys, *argv):
    """Exit code, stderr and stdout of the command, and the JSON of the last line (None where it failed)."""
    capsys.readouterr()
    code = evaluate.main([*argv, "--json"])
    out, err = capsys.readouterr()
    return code, err, out, json.loads(out.splitlines()[-1]) if out.splitlines() and code == 0 else None


@pytest.mark.parametrize("task", ["knn", "linear", "finetune"])
def test_another_run_is_asked_the_same(place, capsys, task):
    """A copy of the run differs in nothing."""
    copy = shutil.copytree(place / "run", place / f"copy_{task}")
    argv = [f"run={place / 'run'}", f"task={task}", "seeds=2", "epochs=1", "batch_size=8"]
    alone = run(capsys, *argv)[3]["figures"]["label"]
    code, err, out, record = run(capsys, *argv, f"compare_to={copy}")
    assert code == 0, err
    section = record["figures"]["label"]
    beside = section.pop("beside")
    assert section == alone and record["beside"] == [str(copy)] and "compare_to" in out
    assert beside["accuracy"] == section["accuracy"] and beside["trainings"] == 1
    assert beside["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}


@pytest.mark.parametrize("task", ["knn", "finetune"])
def test_another_run_answers_as_it_does_by_itself(place, capsys, task):
    """This one says the same of every picture."""
    other = shutil.copytree(place / "run", place / f"blind_{task}")
    weights = next((other / "encoder").glob("*.safetensors"))
    save_file({name: torch.zeros_like(value) for name, value in load_file(weights).items()}, weights)
    argv = [f"task={task}", "seeds=2", "epochs=1", "batch_size=8"]
    itself = run(capsys, f"run={other}", *argv)[3]["figures"]["label"]
    section = run(capsys, f"run={place / 'run'}", *argv, f"compare_to={other}")[3]["figures"]["label"]
    assert section["beside"]["accuracy"] == itself["accuracy"] != section["accuracy"]


def test_fine_tuning_stands_beside_training_from_scratch(place, capsys):
    argv = [f"run={place / 'run'}", "task=finetune", "epochs=2", "seeds=2", "batch_size=8"]
    code, err, out, record = run(capsys, *argv)
    assert code == 0, err
    assert record == json.loads((place / "run" / "evaluation" / "finetune.json").read_text())
    section = record["figures"]["label"]
    assert section["baselines"].keys() == {"majority class", "random init", SUPERVISED}
    assert sum(each["times"] for each in section["trained"]["chosen"]["settings"]) == 2
    assert record["counts"] == {"train": 24, "test": 12, "skipped": 0}
    assert "2 epochs of 22" in record["protocol"][SUPERVISED] and SUPERVISED in out  # 2 of 24 are for validation


def test_fine_tuning_repeats_itself_without_the_cache(place, capsys, tmp_path, monkeypatch):
    argv = [f"run={place / 'run'}", "task=finetune", "epochs=2", "seeds=1", "batch_size=8"]
    figures = []
    for name in ("a", "b"):
        monkeypatch.setenv("LACUNA_CACHE", str(tmp_path / name))
        figures.append(run(capsys, *argv)[3]["figures"])
    assert figures[0] == figures[1]


def test_probes_stand_beside_supervised_training_when_asked(place, capsys):
    argv = [f"run={place / 'run'}", "task=knn", "seeds=1", "epochs=2", "supervised=true", "train=20"]
    code, err, _, record = run(capsys, *argv)
    assert code == 0, err
    assert SUPERVISED in record["figures"]["label"]["baselines"] and SUPERVISED in record["protocol"]
    assert record["counts"] == {"train": 20, "test": 12, "skipped": 0} and record["protocol"]["train"] == 20


def test_the_compute_of_an_unfinished_run_is_not_known(place, capsys):
    other = shutil.copytree(place / "run", place / "cut")
    (other / "finished.json").unlink()
    code, err, _, _ = run(capsys, f"run={other}", "task=finetune")
    assert code == 2 and "is not finished" in err


@pytest.mark.parametrize("task", ["knn", "linear"])
def test_classes_are_told_beside_baselines(place, capsys, task):
    code, err, out, record = run(capsys, f"run={place / 'run'}", f"task={task}", "seeds=2")
    assert code == 0, err
    assert record == json.loads((place / "run" / "evaluation" / f"{task}.json").read_text())
    section = record["figures"]["label"]
    assert section["baselines"].keys() == {
        "majority class",
        "random init",
        "random init, whitened",
        "PCA of raw input",
        "PCA of raw input, whitened",
    }
    assert (
        section["baselines"]["PCA of raw input"]["value"] == 1
        and section["baselines"]["majority class"]["value"] == 0.5
    )
    assert section["verdict"]["result"] == "not resolvable at this size"  # the best baseline is perfect
    assert record["counts"] == {"train": 24, "test": 12, "skipped": 0}
    for key in ("command", "seed", "commit", "torch", "hardware", "data_hash", "seconds"):
        assert key in record
    assert "PCA of raw input, whitened" in out and "not resolvable" in out


def test_a_repeated_evaluation_gives_the_same(place, capsys):
    argv = [f"run={place / 'run'}", "task=knn", "seeds=2"]
    first, second = run(capsys, *argv)[3], run(capsys, *argv)[3]
    assert first["figures"] == second["figures"] and first["data_hash"] == second["data_hash"]


def test_training_leaves_its_reconstruction_and_the_command_repeats_it(place, capsys):
    kept = json.loads((place / "run" / "evaluation" / "reconstruction.json").read_text())
    code, err, out, record = run(capsys, f"run={place / 'run'}", "task=reconstruction")
    assert code == 0, err
    total = record["figures"]["pixels"]["total"]
    assert total == kept["figures"]["pixels"]["total"]  # with the running mean of the weights, in both
    assert "harmonic interpolation" in out


def test_the_method_that_is_opened_holds_the_exported_encoder(place):
    method = open_method(place / "run", open_config(place / "run"))
    saved = load_encoder(place / "run").encoder.state_dict()
    for name, value in method.encoder.state_dict().items():
        np.testing.assert_allclose(value, saved[name], err_msg=name)


def test_few_shots_and_other_data(place, capsys):
    other = place / "other"
    for label in (0, 1):
        draw(other, "train", label, 5)
        draw(other, "test", label, 4)
    (other / "test" / "class1" / "00.png").write_bytes(b"no picture")
    code, err, _, record = run(capsys, f"run={place / 'run'}", "task=knn", f"data.root={other}", "shots=1", "seeds=2")
    assert code == 0, err
    assert record["protocol"]["shots"] == 1 and record["counts"] == {"train": 10, "test": 7, "skipped": 1}
    assert record["skipped"][0][0] == "test/class1/00.png"
    settings = record["figures"]["label"]["trained"]["plain"]["settings"]
    assert [each["chosen_on_validation"] for each in settings] == [False]  # too few samples to choose on


def test_groups_are_folded(place, capsys):
    lines = ["path,label,split,scene"]
    for file in sorted((place / "pictures").rglob("*.png")):
        lines.append(f"{file},{file.parent.name},{file.parent.parent.name},s{int(file.stem) % 4}")
    table = place / "list.csv"
    table.write_text("\n".join(lines) + "\n")
    code, err, _, record = run(capsys, f"run={place / 'run'}", "task=knn", f"data.root={table}", "folds=3", "seeds=1")
    assert code == 0, err
    assert record["protocol"]["split"].startswith("3 folds of whole groups (4 groups)")
    assert record["figures"]["label"]["tested"] == 36


def test_several_runs_are_one_figure(place, capsys):
    shutil.copytree(place / "run", place / "run2", dirs_exist_ok=True)
    runs = f"run=[{place / 'run'},{place / 'run2'}]"
    code, err, _, record = run(capsys, runs, "task=knn", "seeds=1")
    assert code == 0, err
    assert record["figures"]["label"]["verdict"]["trainings"] == 2 and len(record["run"]) == 2
    assert record["protocol"]["seeds"] == 2  # one training each


def test_runs_of_another_shape_do_not_go_together(place, capsys):
    other = shutil.copytree(place / "run", place / "wider")
    config = json.loads((other / "encoder" / "config.json").read_text())
    config["encoder"]["trunk"]["mlp_ratio"] = 2
    (other / "encoder" / "config.json").write_text(json.dumps(config))
    code, err, _, _ = run(capsys, f"run=[{place / 'run'},{other}]", "task=knn")
    assert code == 2 and "another encoder" in err


def test_flat_pictures_have_no_labels(place, capsys):
    for source in (place / "pictures").rglob("*.png"):
        target = place / "flat" / f"{source.parent.name}{source.parent.parent.name}{source.name}"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(source, target)
    for task in ("linear", "finetune"):
        code, err, _, _ = run(capsys, f"run={place / 'run'}", f"task={task}", f"data.root={place / 'flat'}")
        assert code == 2 and "no labels" in err and "csv" in err


@pytest.mark.parametrize(
    "argv, message",
    [
        (["task=knn"], "run="),
        (["run={run}"], "task="),
        (["run={run}", "task=kn"], "knn"),
        (["run={run}/nowhere", "task=knn"], "no folder of a run"),
        (["run={run}", "task=knn", "method.masker.ratio=0.5"], "takes its run as it is"),
        (["run={run}", "task=knn", "shots=0"], "shots=0"),
        (["run={run}", "task=knn", "train=0"], "train=0"),
        (["run={run}", "task=finetune", "epochs=0"], "epochs=0"),
        (["run={run}", "task=knn", "shots=few"], "shots=few"),
        (["run={run}", "task=knn", "pool=cls", "data.root={run}/none"], "none"),
        (["run={run}", "task=knn", "pool=axis9"], "axis0"),
        (["run={run}", "task=reconstruction", "samples=0"], "samples=0"),
        (["run={run}", "task=knn", "device=toaster"], "device=toaster"),
        (["run=[{run},{run}]", "task=reconstruction"], "one run"),
        (["run={run}", "task=reconstruction", "compare_to={run}"], "compare_to"),
        (["run={run}", "task=knn", "compare_to=nowhere"], "nowhere"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(place, capsys, argv, message):
    code, err, _, _ = run(capsys, *(text.format(run=place / "run") for text in argv))
    assert code == 2 and message in err and "Traceback" not in err


def test_help_names_every_setting(capsys):
    assert evaluate.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name}=" in shown for name in EvaluationSettings.__dataclass_fields__ if name != "_")


def test_json_is_printed_when_asked_for_alone(place, capsys):
    argv = [f"run={place / 'run'}", "task=knn", "seeds=1"]
    assert evaluate.main(argv) == 0
    out = capsys.readouterr().out
    assert "{" not in out and "shape" not in out and "label: accuracy on 12 test samples, 2 classes" in out
    record = json.loads((place / "run" / "evaluation" / "knn.json").read_text())
    assert record["command"] == f"python -m core.evaluate run={place / 'run'} task=knn seeds=1"


def test_python_gives_what_the_command_gives(place, capsys):
    record = run(capsys, f"run={place / 'run'}", "task=knn", "seeds=2", f"data.root={place / 'pictures'}")[3]
    result = run_task(place / "run", "knn", f"data.root={place / 'pictures'}", seeds=2)
    assert result.record["figures"] == record["figures"] and capsys.readouterr().out == ""
    assert result.accuracy == result.value == record["figures"]["label"]["accuracy"]["value"]
    assert (result.task, result.metric, result.verdict) == ("knn", "accuracy", "not resolvable at this size")
    assert result.interval.low <= result.value <= result.interval.high
    assert result.baselines["PCA of raw input"].value == 1 and result.of("label") == result
    page = result._repr_html_()
    assert "<pre" in page and "PCA of raw input, whitened" in page
    with pytest.raises(AttributeError, match="its metric is accuracy"):
        result.r2  # noqa: B018
    assert pickle.loads(pickle.dumps(result)) == result


def test_skill_is_a_result_too(place):
    result = run_task(str(place / "run"), "reconstruction", samples=8, batch_size=4)
    assert result.skill == result.record["figures"]["pixels"]["total"]["skill"]["value"]
    assert result.interval.low <= result.skill and "pixels" in str(result) and result.verdict


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"task": "kn"}, "task=kn: choose knn"),
        ({"metrik": "map"}, "no setting metrik"),
        ({"metric": "ap"}, "metric=ap: choose accuracy"),
        ({"metric": "retrieval_map"}, "go together"),
        ({"task": "retrieval", "metric": "accuracy"}, "go together"),
        ({"task": "svm", "metric": "map"}, "task=svm takes classes"),
        ({"metric": "r2"}, "names are no numbers"),
        ({"task": "reconstruction", "metric": "map"}, "takes no metric="),
        ({"metric": "roc_auc", "shots": 3}, "shots= counts samples of a class"),
    ],
)
def test_mistakes_in_python_are_users_errors(place, settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        run_task(place / "run", **{"task": "knn", "seeds": 1, **settings})


@pytest.mark.parametrize("metric", ["retrieval_map", "retrieval_top1"])
def test_samples_of_a_class_are_retrieved(place, capsys, metric):
    code, err, out, record = run(capsys, f"run={place / 'run'}", "task=retrieval", "seeds=2", f"metric={metric}")
    assert code == 0, err
    section = record["figures"]["label"]
    assert section["baselines"].keys() == {"random order", "random init", "PCA of raw input"}
    assert section["baselines"]["PCA of raw input"]["value"] > 0.9 > section["baselines"]["random order"]["value"]
    assert section["metric"] == metric
    assert f"{metric} on 12 test samples" in out


@pytest.mark.parametrize("metric", ["balanced_accuracy", "miou", "micro_f1", "map", "roc_auc"])
def test_other_metrics_of_classes(place, capsys, metric):
    """The PCA of these pictures tells them apart, by every metric."""
    for task in ("knn", "linear"):
        code, err, _, record = run(capsys, f"run={place / 'run'}", f"task={task}", "seeds=1", f"metric={metric}")
        assert code == 0, err
        section = record["figures"]["label"]
        assert section["baselines"]["PCA of raw input"]["value"] == 1 >= section[metric]["value"] > 0
    constant = "majority class" if metric in ("balanced_accuracy", "miou", "micro_f1") else "share of yes in training"
    expected = {"balanced_accuracy": 0.5, "miou": 0.25, "micro_f1": 0.5, "map": 0.5, "roc_auc": 0.5}
    assert section["baselines"][constant]["value"] == expected[metric]


def test_values_are_predicted(place, capsys):
    """Each picture's value is its own: 1.5 for the left class and -2.25 for the right one, and a part of its number."""
    lines = ["path,label,split"]
    for file in sorted((place / "pictures").rglob("*.png")):
        value = (1.5 if file.parent.name == "class0" else -2.25) + int(file.stem) / 1000
        lines.append(f"{file},{value},{file.parent.parent.name}")
    table = place / "values.csv"
    table.write_text("\n".join(lines) + "\n")
    argv = [f"run={place / 'run'}", f"data.root={table}", "seeds=1"]
    for task in ("knn", "linear"):
        code, err, out, record = run(capsys, *argv, f"task={task}")
        assert code == 0, err
        section = record["figures"]["label"]
        assert section["baselines"]["PCA of raw input"]["value"] > 0.9 and "r2 on 12 test samples, 1 values" in out
        assert section["baselines"]["mean of training"]["value"] == pytest.approx(0, abs=0.01)
        assert section["r2"]["value"] <= 1
    error = run(capsys, *argv, "task=linear", "metric=rmse")[3]["figures"]["label"]
    assert (
        error["verdict"]["best_baseline"].startswith("PCA of raw input") and error["verdict"]["difference"]["value"] < 0
    )
    assert error["baselines"]["mean of training"]["value"] == pytest.approx(1.875, abs=0.01)


def array_file(path, labels):
    """Pictures whose left, middle and right are bright where the answer to the three questions is yes."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 40), ("test", 24)):
        answers = rng.integers(0, 2, (count, 3))
        pictures = rng.integers(0, 60, (count, 16, 16, 3), dtype=np.uint8)
        pictures[..., :15, :] += (150 * np.repeat(answers, 5, 1)).astype(np.uint8)[:, None, :, None]
        arrays |= {f"{split}_images": pictures, f"{split}_labels": labels(answers)}
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("task", ["knn", "linear"])
@pytest.mark.parametrize(
    ("name", "labels", "metric", "counts"),
    [
        ("answers", lambda answers: answers, "micro_f1", {"answers": 3}),
        ("one_hot", lambda answers: np.eye(8, dtype=int)[answers @ [4, 2, 1]], "accuracy", {"classes": 8}),
        ("values", lambda answers: (answers @ [0.5, 0.25, 0.125])[:, None], "r2", {"values": 1}),
    ],
)
def test_labels_of_array_files(place, capsys, tmp_path, task, name, labels, metric, counts):
    """Raw pixels tell the labels exactly: their components score near 1, and with a verdict beside baselines."""
    root = array_file(tmp_path / f"{name}.npz", labels)
    code, err, _, record = run(capsys, f"run={place / 'run'}", f"task={task}", "seeds=2", f"data.root={root}")
    assert code == 0, err
    section = record["figures"]["label"]
    assert section[metric]["value"] > 0.3 and {key: section[key] for key in counts} == counts
    assert section["baselines"]["PCA of raw input"]["value"] > 0.9
