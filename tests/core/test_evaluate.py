"""The command as a user meets it, on a run of two steps with pictures of two classes."""

import csv
import json
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from core import evaluate, load_classifier, train
from core.errors import UserError
from core.evaluation import run_task
from core.evaluation.settings import EvaluationSettings
from core.evaluation.verdicts import SUPERVISED
from core.export import load_encoder
from core.report.page import evaluations
from core.runs import open_config, open_method, open_run
from tests.core.small_runs import TINY, draw


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


def saved(run, command):
    """The only record of a run that a command has left, and its file's name without suffix."""
    records = {file.stem: json.loads(file.read_text()) for file in (run / "evaluation").glob("*.json")}
    ((name, record),) = [(name, record) for name, record in records.items() if record["command"] == command]
    return record, name


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
    assert (section.pop("classifier", "1") == alone.pop("classifier", "2")) is False  # each record has its own
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
    assert record == saved(place / "run", record["command"])[0]
    section = record["figures"]["label"]
    assert section["baselines"].keys() == {"majority class", "random init", SUPERVISED}
    assert sum(each["times"] for each in section["trained"]["chosen"]["settings"]) == 2
    assert record["counts"] == {"train": 24, "test": 12, "skipped": 0}
    assert "2 epochs of 22" in record["protocol"][SUPERVISED] and SUPERVISED in out  # 2 of 24 are for validation

    # Progress, epoch by epoch.
    assert re.search(r"label, trained, seed 1 of 2, rate 0.002: epoch 1 of 2, loss \d", err)
    assert re.search(r"label, trained, seed 2 of 2, rate \S+: epoch 2 of 2, loss .*, validation accuracy", err)

    # The last line above the JSON names the folder of the classifier, which answers as it was tested.
    folder = place / "run" / section["classifier"]
    last = out.splitlines()[-2]
    assert last == f"{folder}: the classifier of label (load_classifier), predictions.csv, confusion.csv"
    assert (folder / "predictions.csv").exists() and (folder / "confusion.csv").exists()
    rows = list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))
    classifier = load_classifier(folder)
    assert classifier.classes == ["class0", "class1"] and len(rows) == 12
    for row in rows:
        answer = classifier(place / "pictures" / row["key"])
        assert answer.labels == [row["prediction"]] and row["truth"] in row["key"]
        assert float(answer.probabilities.max()) == pytest.approx(float(row["probability"]), abs=1e-3)
    text = evaluations(open_run(place / "run"))
    assert "Confusion matrix of label" in text and "class0 predicted as class0" in text


def test_fine_tuning_in_folds_predicts_every_sample_once(place, unmarked, capsys):
    argv = [f"run={place / 'run'}", "task=finetune", "epochs=1", "seeds=1", "batch_size=8", f"data.root={unmarked}"]
    code, err, _, record = run(capsys, *argv, "folds=2")
    assert code == 0, err
    folder = place / "run" / record["figures"]["label"]["classifier"]
    rows = list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))
    assert len({row["key"] for row in rows}) == len(rows) == 30
    right = sum(row["truth"] == row["prediction"] for row in rows)
    assert right / 30 == pytest.approx(record["figures"]["label"]["accuracy"]["value"], abs=1e-5)
    assert "fold 1 of 2" in load_classifier(folder).config["trained_on"] and "fold 2 of 2" in err


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
    assert record == saved(place / "run", record["command"])[0]
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
    gap, word = section["verdict"]["difference"], section["verdict"]["result"]  # the best baseline is perfect
    assert word.startswith("worse than PCA of raw input" if gap["high"] < 0 else "not resolvable at this size")
    assert record["counts"] == {"train": 24, "test": 12, "skipped": 0}
    for key in ("command", "seed", "commit", "torch", "hardware", "data_hash", "seconds"):
        assert key in record
    assert "PCA of raw input, whitened" in out
    assert f"\n{word}: label, accuracy " in out


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
        (["run={run}", "task=knn", "seeds=0"], "seeds=0"),
        (["run={run}", "task=knn", "seed=-1"], "seed=-1"),
        (["run=[]", "task=knn"], "run=[] names no run"),
        (["run={run}", "task=finetune", "epochs=.inf"], "epochs=inf"),
        (["run={run}", "task=knn", "train=0"], "train=0"),
        (["run={run}", "task=finetune", "epochs=0"], "epochs=0"),
        (["run={run}", "task=knn", "shots=few"], "shots=few"),
        (["run={run}", "task=knn", "pool=cls", "data.root={run}/none"], "none"),
        (["run={run}", "task=knn", "pool=axis9"], "axis0"),
        (["run={run}", "task=reconstruction", "samples=0"], "samples=0"),
        (["run={run}", "task=knn", "device=toaster"], "device=toaster"),
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
    record, name = saved(place / "run", f"python -m core.evaluate run={place / 'run'} task=knn seeds=1")
    assert re.fullmatch("knn-seeds=1-[0-9a-f]{6}", name) and record["settings"] == {"seeds": 1}


def test_python_gives_what_the_command_gives(place, capsys):
    record = run(capsys, f"run={place / 'run'}", "task=knn", "seeds=2", f"data.root={place / 'pictures'}")[3]
    result = run_task(place / "run", "knn", f"data.root={place / 'pictures'}", seeds=2)
    assert result.record["figures"] == record["figures"] and capsys.readouterr().out == ""
    assert result.accuracy == result.value == record["figures"]["label"]["accuracy"]["value"]
    assert (result.task, result.metric) == ("knn", "accuracy")
    assert result.verdict == result.record["figures"]["label"]["verdict"]["result"]
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

    names = [file.name for file in (place / "run" / "evaluation").iterdir()]
    assert any(name.startswith("reconstruction-samples=8-batch_size=4") for name in names)
    assert all(
        name.startswith(("reconstruction", "knn", "linear", "svm", "retrieval", "fewshot", "finetune"))
        for name in names
    )


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"task": "kn"}, "task=kn: expected one of knn"),
        ({"metrik": "map"}, "no setting metrik"),
        ({"metric": "ap"}, "metric=ap: expected one of accuracy"),
        ({"shots": "x"}, "shots=x: expected"),
        ({"seeds": 0}, "seeds=0 must be at least 1"),
        ({"seeds": "three"}, "seeds=three: expected a whole number"),
        ({"epochs": float("nan")}, "epochs=nan"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"run": []}, "run=[] names no run"),
        ({"run": ()}, "run=[] names no run"),
        ({"compare_to": []}, "compare_to=[] names no run"),
        ({"run": 3}, "run=3: expected"),
        ({"data.root": "photos"}, 'texts: evaluate(run, "knn", "data.root=photos")'),
        ({"compare_to": object()}, "compare_to=<object>: expected"),
        ({"supervised": "yes"}, "supervised=yes"),
        ({"metric": "retrieval_map"}, "go together"),
        ({"task": "retrieval", "metric": "accuracy"}, "go together"),
        ({"task": "svm", "metric": "map"}, "task=svm takes classes"),
        ({"metric": "r2"}, "names are no numbers"),
        ({"task": "reconstruction", "metric": "map"}, "takes no metric="),
        ({"metric": "roc_auc", "shots": 3}, "shots= counts samples of a class"),
        ({"way": 3}, "way= belongs to task=fewshot"),
        ({"probe": "knn"}, "probe= belongs to task=fewshot"),
        ({"task": "fewshot", "way": 1}, "way=1 must be at least 2"),
        ({"task": "fewshot", "way": 3, "shots": 2}, "way=3 shots=2: 2 classes have 2 training samples"),
        ({"task": "fewshot", "probe": "tree"}, "probe=tree: expected one of knn"),
        ({"task": "fewshot", "way": 2, "shots": 2, "metric": "map"}, "by class"),
        ({"task": "svm", "kernel": "poly"}, "kernel=poly: expected one of rbf"),
        ({"task": "finetune", "head": "deep"}, "head=deep: this run's encoder can have linear, mlp."),
        ({"task": "finetune", "smoothing": 1.0}, "smoothing=1 must be from 0 to below 1"),
        ({"task": "finetune", "clip": 0.0}, "clip=0 must be a number above 0"),
        ({"pool": "mean,min"}, "pool=mean,min: expected one of mean"),
    ],
)
def test_mistakes_in_python_are_users_errors(place, settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        run_task(**{"run": place / "run", "task": "knn", "seeds": 1, **settings})


def test_runs_are_given_as_objects_paths_lists_and_tuples(place):
    one = open_run(place / "run")
    copy = shutil.copytree(place / "run", place / "twin")
    alone = evaluate(place / "run", task="knn", seeds=2)
    for runs, rivals in ((one, open_run(copy)), (str(one.path), copy), ([one], (copy,)), ((one.path,), [str(copy)])):
        result = evaluate(runs, task="knn", seeds=2, compare_to=rivals)
        assert result.value == alone.value and result.record["run"] == str(one.path)
        assert result.record["figures"]["label"]["beside"]["difference"]["value"] == 0
    assert evaluate((one, copy), task="knn", seeds=2).record["run"] == [str(one.path), str(copy)]


def test_reconstruction_in_python_takes_one_run(place):
    with pytest.raises(UserError, match="takes one run at a time"):
        evaluate((place / "run", place / "run"), task="reconstruction")


@pytest.mark.parametrize("device", ["meta", "xpu:7", "cuda:99" if torch.cuda.is_available() else "cuda"])
def test_a_device_that_is_not_here_is_one_message(place, capsys, device):
    code, err, _, _ = run(capsys, f"run={place / 'run'}", "task=knn", f"device={device}")
    assert code == 2 and f"device={device} cannot be used here" in err and "Traceback" not in err


@pytest.mark.parametrize("metric", ["retrieval_map", "retrieval_top1", "retrieval_top5"])
def test_samples_of_a_class_are_retrieved(place, capsys, metric):
    code, err, out, record = run(capsys, f"run={place / 'run'}", "task=retrieval", "seeds=2", f"metric={metric}")
    assert code == 0, err
    section = record["figures"]["label"]
    assert section["baselines"].keys() == {"random order", "random init", "PCA of raw input"}
    assert section["baselines"]["PCA of raw input"]["value"] > 0.99 > section["baselines"]["random order"]["value"]
    assert section["metric"] == metric
    assert f"{metric} on 12 test samples" in out
    for name, figures in section["metrics"].items():
        assert name in out and figures["baselines"].keys() == section["baselines"].keys()
    assert section["metrics"][metric]["ours"] == section[metric]


def test_without_a_split_each_picture_is_retrieved_among_all_others(place, capsys):
    """Pictures of one flat folder; the list gives their classes and no split."""
    table, lines = place / "unsplit" / "labels.csv", []
    table.parent.mkdir()
    for number, file in enumerate(sorted((place / "pictures").rglob("*.png"))):
        shutil.copy(file, table.parent / f"{number}.png")
        lines.append(f"{number}.png,{file.parent.name}")
    table.write_text("\n".join(["path,label", *lines]) + "\n")
    argv = [f"run={place / 'run'}", "task=retrieval", "seeds=1", f"data.root={table}"]
    code, err, _, record = run(capsys, *argv)
    assert code == 0, err
    section = record["figures"]["label"]
    assert section["tested"] == len(lines) == 36 and "by all others" in record["protocol"]["split"]
    chance = section["metrics"]["retrieval_top1"]["baselines"]["random order"]["value"]
    assert chance == pytest.approx(17 / 35)


def test_linear_support_vectors_name_the_c_that_they_take(place, capsys):
    argv = [f"run={place / 'run'}", "task=svm", "kernel=linear", "pool=mean+max", "seeds=1"]
    code, err, out, record = run(capsys, *argv)
    assert code == 0, err
    (choice, *_) = record["figures"]["label"]["trained"]["chosen"]["settings"]
    assert record["protocol"]["setting"] == "C" and record["protocol"]["pool"] == "mean+max"
    assert f"C = {choice['setting']:g} on {choice['form']} features, in 1 of 1 fits" in out
    assert record["figures"]["label"]["baselines"]["PCA of raw input"]["value"] == 1
    assert set(record["figures"]["label"]["trained"]) == {"plain", "whitened", "chosen"}


@pytest.mark.parametrize("probe", ["linear", "knn", "finetune"])
def test_episodes_are_drawn_and_named_as_ours(place, capsys, probe):
    argv = [f"run={place / 'run'}", "task=fewshot", "way=2", "shots=3", "folds=3", "seeds=1", f"probe={probe}"]
    code, err, out, record = run(capsys, *argv, "epochs=1", "batch_size=4")
    assert code == 0, err
    section, split = record["figures"]["label"], record["protocol"]["split"]
    assert "3 episodes of 2 classes, 3 training and 20 test samples (or all) of each; drawn here" in split
    assert section["tested"] == 3 * 12, "six test pictures of each class in every episode"
    episodes = section["episodes"]
    assert len(episodes["each"]) == 3 and "mean and deviation over 3 episodes, which are drawn here" in out
    assert episodes["mean"] == pytest.approx(section["accuracy"]["value"])
    assert episodes["deviation"] == pytest.approx(np.std(episodes["each"]))
    assert section["baselines"]["majority class"]["value"] == 0.5


def test_a_head_of_two_hidden_layers_on_two_poolings_is_fine_tuned(place, capsys):
    argv = [f"run={place / 'run'}", "task=finetune", "head=mlp", "pool=cls,max", "smoothing=0.2", "clip=10"]
    code, err, _, record = run(capsys, *argv, "epochs=1", "seeds=1", "batch_size=8")
    assert code == 0, err
    recipe = record["protocol"]["recipe"]
    assert (recipe["head"], recipe["smoothing"], recipe["clip"]) == ("mlp", 0.2, 10.0)
    opened = load_classifier(place / "run" / record["figures"]["label"]["classifier"])
    assert opened.network.head[0].in_features == 2 * opened.encoder.embed_dim
    assert opened(sorted((place / "pictures").rglob("*.png"))[:3]).probabilities.shape == (3, 2)


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


@pytest.fixture(scope="module")
def unmarked(place):
    """30 pictures in class folders without any split."""
    folder = place / "unmarked"
    for label in (0, 1):
        draw(folder, ".", label, 15)
    return folder


def test_without_a_marked_split_all_samples_are_tested_in_folds(place, unmarked, capsys):
    argv = [f"run={place / 'run'}", "task=knn", "seeds=1", f"data.root={unmarked}"]
    code, err, out, record = run(capsys, *argv)
    assert code == 0, err
    assert record["figures"]["label"]["tested"] == 30 and record["counts"] == {"train": 30, "test": 0, "skipped": 0}
    split = record["protocol"]["split"]
    assert split.startswith("5 folds over all 30 labelled samples, by class; the data mark none to test")
    assert f"split: {split}" in " ".join(out.split())
    assert split.endswith("(files that were also trained on were read then, without labels)"), "they are other data"


def test_samples_of_the_runs_own_data_that_training_has_read_are_counted(place, unmarked, capsys):
    argv = ["modality=image", "data=folder", f"data.root={unmarked}", f"run_dir={place / 'own'}"]
    train.main([*argv, *TINY])
    split = run(capsys, f"run={place / 'own'}", "task=knn", "seeds=1")[3]["protocol"]["split"]
    assert re.search(r"the run has read (2\d|30) of them in training, without labels", split)


@pytest.mark.parametrize(("folds", "tested"), [("folds=3", 30), ("folds=0", None)])
def test_given_folds_are_obeyed_without_a_marked_split(place, unmarked, capsys, folds, tested):
    record = run(capsys, f"run={place / 'run'}", "task=knn", "seeds=1", f"data.root={unmarked}", folds)[3]
    count = record["figures"]["label"]["tested"]
    if tested is None:
        assert 0 < count < 10 and record["protocol"]["split"].startswith("drawn at random, for the data mark none")
    else:
        assert count == tested and record["protocol"]["split"].startswith("3 folds over all 30")


def test_given_folds_are_obeyed_beside_a_marked_split(place, capsys):
    record = run(capsys, f"run={place / 'run'}", "task=knn", "seeds=1", "folds=4")[3]
    assert record["figures"]["label"]["tested"] == 36
    assert record["protocol"]["split"].startswith(
        "4 folds over all 36 labelled samples, by class, as folds=4 asks, beside the split of the data ("
    )
    code, err, _, _ = run(capsys, f"run={place / 'run'}", "task=knn", "seeds=1", "folds=19")
    assert code == 2 and "folds=19 does not fit: the largest class has 18" in err


def test_training_samples_are_counted_on_the_drawn_split(place, unmarked, capsys):
    record = run(capsys, f"run={place / 'run'}", "task=knn", "seeds=1", f"data.root={unmarked}", "train=10")[3]
    assert record["counts"]["train"] == 10 and record["protocol"]["split"].startswith("drawn at random")


def test_an_unreadable_test_split_is_not_replaced_by_folds(place, capsys):
    other = shutil.copytree(place / "pictures", place / "torn")
    for file in (other / "test").rglob("*.png"):
        file.write_bytes(b"no picture")
    argv = [f"run={place / 'run'}", "task=knn", "seeds=1", f"data.root={other}"]
    code, err, _, _ = run(capsys, *argv)
    assert code == 2 and "None of the 12 test samples can be read" in err
    code, err, _, record = run(capsys, *argv, "folds=3")
    assert code == 0 and record["figures"]["label"]["tested"] == 24


def test_records_stand_side_by_side(place, unmarked, capsys):
    other = shutil.copytree(place / "run", place / "shelf")
    shutil.rmtree(other / "evaluation")
    shutil.copytree(other, place / "shelf2")
    for extra in ([], [f"data.root={unmarked}"], ["shots=3"], [f"compare_to={place / 'shelf2'}"]):
        assert run(capsys, f"run={other}", "task=knn", *extra)[0] == 0
    assert run(capsys, f"run=[{other},{place / 'shelf2'}]", "task=knn")[0] == 0

    records = open_run(other).evaluations
    assert len(records) == 5 and records["knn"]["settings"] == {} and {r["task"] for r in records.values()} == {"knn"}
    (several,) = [record for record in records.values() if isinstance(record["run"], list)]
    text = evaluations(open_run(other))
    assert f"mean of 2 runs ({other}, {place / 'shelf2'})" in text and "compared with" in text
    assert str(unmarked) in text and "mean of 2 runs</strong>" in text and several["figures"]
