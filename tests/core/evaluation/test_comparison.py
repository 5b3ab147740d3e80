"""A table of runs: rows by settings, intervals over seeds by their formula, records read and missing ones measured."""

import csv
import io
import json
import shlex
import shutil

import pytest
from omegaconf import OmegaConf

import core
from core import compare, evaluate
from core.errors import UserError
from core.evaluation.comparison import Estimate, Group, compare_recorded, compare_runs, means, row_names
from core.evaluation.record import save
from core.runs import expand_runs

T2 = 4.302653  # 97.5 % of Student's t with two degrees of freedom, from a table
T1 = 12.706205  # with one


def record_of(value: float, path, words=("seeds=1",), **changes) -> dict:
    """A record of task=knn with this accuracy."""
    figure = {"value": value, "low": value - 0.1, "high": value + 0.1}
    section = {
        "accuracy": figure,
        "metric": "accuracy",
        "baselines": {"random init": figure},
        "verdict": {"result": "?", "best_baseline": "random init", "differences": {"random init": figure}},
    }
    section["verdict"]["difference"] = figure
    head = {"task": "knn", "run": str(path), "data": "folder", "figures": {"label": section}, "data_hash": "a"}
    return head | {
        "command": shlex.join(["python", "-m", "core.evaluate", f"run={path}", "task=knn", *words]),
        **changes,
    }


@pytest.fixture
def make_run(photo_run, tmp_path):
    """Makes a copy of a run with other settings, and a record of its accuracy."""

    def make(name, value=None, record=None, **settings):
        folder = shutil.copytree(photo_run / "run", tmp_path / name)
        config = OmegaConf.load(folder / "config.yaml")
        for key, setting in settings.items():
            OmegaConf.update(config, key.replace("__", "."), setting, merge=False)
        OmegaConf.save(config, folder / "config.yaml")
        if value is not None:
            save(folder, record_of(value, folder, **(record or {})))
        return folder

    return make


@pytest.fixture
def six(make_run, tmp_path):
    """Three seeds of two ratios, in folders as `seeds=3` makes them."""
    for seed, value in enumerate([0.5, 0.6, 0.7]):
        make_run(f"mae/seed{seed}", value, seed=seed)
    for seed, value in enumerate([0.62, 0.68, 0.80]):
        make_run(f"half/seed{seed}", value, seed=seed, method__masker__ratio=0.5)
    return [tmp_path / "mae", tmp_path / "half"]


def test_rows_have_means_intervals_and_paired_differences(six):
    table = core.compare(six, "knn", seeds=1)
    first, second = table.rows
    assert [dict(row.settings) for row in table.rows] == [{"masker.ratio": "0.75"}, {"masker.ratio": "0.5"}]
    assert list(first.values.items()) == [(0, 0.5), (1, 0.6), (2, 0.7)] and first.difference is None

    assert first.estimate.mean == pytest.approx(0.6)
    assert first.estimate.half == pytest.approx(T2 * 0.1 / 3**0.5, rel=1e-5)
    # Differences 0.12, 0.08, 0.10: their deviation is 0.02.
    assert second.pairs == 3 and second.difference.mean == pytest.approx(0.1)
    assert second.difference.half == pytest.approx(T2 * 0.02 / 3**0.5, rel=1e-5)


def test_of_one_value_there_is_no_interval():
    assert Estimate.of([0.5]) == Estimate(0.5, None)
    assert Estimate.of([0.5, 0.7]).half == pytest.approx(T1 * 0.1, rel=1e-5)


def test_only_seeds_of_both_rows_are_paired(six, make_run):
    shutil.rmtree(six[1] / "seed1")
    make_run("half/seed7", 0.9, seed=7, method__masker__ratio=0.5)
    table = compare_runs(six, "knn", seeds=1)
    row = table.rows[1]
    assert list(row.values) == [0, 2, 7] and row.pairs == 2 and row.difference.mean == pytest.approx(0.11)
    assert any("count in the mean and not in the difference" in note for note in table.notes)


def test_rows_are_named_by_few_settings(make_run):
    runs = [
        make_run("a", 0.5),
        make_run("b", 0.5, size__name="tiny", size__dim=192, optim__lr=1.0),
        make_run("c", 0.5, size__name="tiny", size__dim=192, method__name="simmim"),
    ]
    table = compare_runs(runs, "knn", seeds=1)
    assert [list(row.settings.values()) for row in table.rows] == [["mae", "nano"], ["mae", "tiny"], ["simmim", "tiny"]]
    assert list(table.rows[0].settings) == ["method", "size"]
    assert any("optim.lr" in note and "size.dim" not in note for note in table.notes)
    assert any("no interval over seeds" in note for note in table.notes)


def test_order_and_engine_make_no_row(make_run):
    runs = [make_run("a", 0.5, seed=1), make_run("b", 0.7, seed=0, engine__log_every=7)]
    (row,) = compare_runs(runs, "knn", seeds=1).rows
    assert list(row.values) == [0, 1] and row.settings == {"method": "mae"}


def test_formats(six, tmp_path, capsys):
    argv = [f"runs=[{six[0]},{six[1]}]", "task=knn", "seeds=1"]
    assert compare.main(argv) == 0
    markdown = capsys.readouterr().out
    assert "| masker.ratio | n | accuracy, mean ± 95 % | difference to the first row |" in markdown
    assert "| 0.75 | 3 | 0.600 ± 0.248 | - |" in markdown and "| 0.5 | 3 | 0.700 ± 0.228 | +0.100 ± 0.050 |" in markdown
    assert f"for run in {six[1] / 'seed0'} " in markdown and 'run="$run" task=knn seeds=1; done' in markdown

    assert compare.main([*argv, f"out={tmp_path / 'new' / 't.tex'}"]) == 0
    latex = (tmp_path / "new" / "t.tex").read_text()
    assert r"0.5 & 3 & 0.700 $\pm$ 0.228 & +0.100 $\pm$ 0.050 \\" in latex and r"mean $\pm$ 95 \%" in latex
    assert "\\begin{tabular}{lrrr}" in latex and "% for run in" in latex

    capsys.readouterr()
    assert compare.main([*argv, "format=csv"]) == 0
    first, second = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (first["masker.ratio"], first["n"], first["seeds"], first["values"]) == ("0.75", "3", "0 1 2", "0.5 0.6 0.7")
    assert first["difference"] == "" and float(second["difference_half_interval"]) == pytest.approx(0.0497, abs=1e-4)

    page = compare_runs(six, "knn", seeds=1)._repr_html_()
    assert page.count("<tr>") == 3 and "+0.100 ± 0.050" in page


@pytest.mark.parametrize(
    "record",
    [
        {"words": ("seeds=1", "shots=2")},
        {"words": ("seeds=1", "data.root=other")},
        {"run": ["a", "b"]},
        {"task": "linear"},
    ],
    ids=str,
)
def test_other_records_are_not_taken(six, monkeypatch, record):
    """The run without the right record is evaluated, no other."""
    path, calls = six[0] / "seed1", []
    changes = {"words": record.pop("words", ("seeds=1",)), **record}
    shutil.rmtree(path / "evaluation")
    save(path, record_of(0.1, path, **changes))

    def measure(run, task, *overrides, **settings):
        calls.append((run, task, overrides, settings))
        return core.evaluation.Result.of_record(record_of(0.6, run))

    monkeypatch.setattr("core.evaluation.comparison.run_task", measure)
    assert compare_runs(six, "knn", seeds=1).rows[0].values[1] == 0.6
    assert calls == [(path, "knn", (), {"seeds": 1})]


def test_records_of_changed_data_are_measured_again(six, monkeypatch):
    shutil.rmtree(six[0] / "seed1" / "evaluation")

    def measure(run, task, *overrides, **settings):
        return core.evaluation.Result.of_record(record_of(0.3, run, data_hash="b"))

    monkeypatch.setattr("core.evaluation.comparison.run_task", measure)
    table = compare_runs(six, "knn", seeds=1)
    assert {value for row in table.rows for value in row.values.values()} == {0.3}


def test_records_of_data_with_other_names_are_refused_at_once(six, make_run, monkeypatch):
    other = make_run("other", 0.5, record={"data_hash": "b"}, seed=9, data__root="elsewhere")
    monkeypatch.setattr("core.evaluation.comparison.run_task", lambda *_, **__: pytest.fail("measured again"))
    with pytest.raises(UserError, match="different data"):
        compare_runs([six[0], other], "knn", seeds=1)


def test_missing_evaluations_are_carried_out_once(photo_run, make_run):
    runs = [make_run("a", seed=0), make_run("b", seed=1)]
    table = compare_runs(runs, "knn", seeds=1)
    value = evaluate(runs[0], "knn", seeds=1).accuracy
    assert table.rows[0].values[0] == value

    stamps = {path: path.stat().st_mtime_ns for run in runs for path in (run / "evaluation").iterdir()}
    assert compare_runs(runs, "knn", seeds=1) == table
    assert stamps == {path: path.stat().st_mtime_ns for run in runs for path in (run / "evaluation").iterdir()}

    skills = compare_runs(runs, "reconstruction")  # measured at the end of training
    record = json.loads((runs[0] / "evaluation" / "reconstruction.json").read_text())
    assert skills.rows[0].values[0] == record["figures"]["pixels"]["total"]["skill"]["value"]
    assert (skills.metric, skills.label) == ("skill", "pixels")


@pytest.mark.parametrize(
    ("key", "value", "differs"),
    [
        ("method__masker__ratio", 0.5, True),
        ("method__readouts__main__objectives__pixels__target__per", "none", True),
        ("optim__base_lr", 0.5, False),
        ("method__encoder__masking", "replace", False),
    ],
)
def test_reconstructions_under_other_masks_or_targets_are_noted(make_run, key, value, differs):
    """Skills are of one problem only where masks, targets and losses are."""
    runs = [make_run("a", seed=0), make_run("b", seed=0, **{key: value})]
    notes = " ".join(compare_runs(runs, "reconstruction").notes)
    assert ("Rows differ in masks, targets or losses" in notes) == differs


@pytest.mark.parametrize("target", ["core.maskers.BlockMasker", "rings.maskers.RingMasker"])
def test_rows_that_differ_in_a_class_are_named_by_it(target):
    """Also by the class of a plug-in."""
    groups = []
    for masker in ("core.maskers.RandomMasker", target):
        groups.append(Group(settings={"method.masker._target_": masker}, runs={}))
    names, _ = row_names(groups)
    assert names == [{"masker": "RandomMasker"}, {"masker": target.rpartition(".")[2]}]


def test_what_is_measured_is_told_beside_the_table(six, monkeypatch, capsys):
    for name in ("seed0", "seed2"):
        shutil.rmtree(six[1] / name / "evaluation")

    def measure(run, task, *overrides, **settings):
        return core.evaluation.Result.of_record(record_of(0.6, run))

    monkeypatch.setattr("core.evaluation.comparison.run_task", measure)
    compare_runs(six, "knn", seeds=1)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"evaluating {six[1] / 'seed0'}, 1 of 2", f"evaluating {six[1] / 'seed2'}, 2 of 2"]


def test_recorded_evaluations_of_all_runs_make_tables(six, make_run):
    runs = [core.open_run(path) for path in expand_runs(six)]
    by_task = {table.task: table for table in compare_recorded(runs)}
    assert by_task["knn"].rows == compare_runs(six, "knn", seeds=1).rows

    lacking = core.open_run(make_run("other", 0.5, record={"words": ("seeds=1", "shots=2")}, seed=8))
    assert "knn" not in {table.task for table in compare_recorded([*runs, lacking])}


def test_means_over_runs(six):
    """0.5, 0.6, 0.7: the mean is 0.6, the deviation 0.1."""
    results = []
    for path in expand_runs(six[:1]):
        results.append(core.evaluation.Result.of_record(core.open_run(path).evaluations["knn"]))
    (line,) = means(results)
    assert line.startswith(f"mean of 3 runs: label, accuracy 0.600 ± {T2 * 0.1 / 3**0.5:.3f}")


def test_mistakes_are_one_message(six, make_run, tmp_path, capsys):
    twin = make_run("twin", 0.5, seed=1)
    other = make_run("other", 0.5, record={"data_hash": "b"}, seed=9)
    nothing = make_run("nothing", record=None, seed=11)
    save(nothing, {"task": "reconstruction", "run": str(nothing), "figures": {}, "reason": "no test samples"})
    cases = [
        ([], "Give runs="),
        ([f"runs={six[0]}"], "Give task="),
        ([f"runs=[{six[0]},{twin}]", "task=knn", "seeds=1"], "the same seed"),
        ([f"runs={tmp_path / 'no'}", "task=knn"], "is no folder of a run"),
        ([f"runs={six[0]},{six[1]}", "task=knn"], "written in brackets"),
        ([f"runs={six[0]}", "task=kn"], "kn"),
        ([f"runs={six[0]}", "task=knn", "format=pdf"], "format"),
    ]
    for argv, message in cases:
        assert compare.main(argv) == 2
        assert message in capsys.readouterr().err

    with pytest.raises(UserError, match="different data"):
        monkey = pytest.MonkeyPatch()
        with monkey.context() as patch:
            patch.setattr("core.evaluation.comparison.recorded", lambda run, *_: _stored(run))
            patch.setattr("core.evaluation.comparison.run_task", lambda path, *_, **__: _stored(core.open_run(path)))
            compare_runs([six[0], other], "knn", seeds=1)


def _stored(run):
    return core.evaluation.Result.of_record(run.evaluations["knn"])
