"""The command: what it makes, what it refuses, and how it stops."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from safetensors.torch import load_file

from core import load_encoder, training
from core.config import compose
from core.runs import open_config
from core.train import main
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[3]
TINY = [
    "modality=image", "modality.size=[32,32]", "data.source.size=32", "data.source.train=32", "data.source.test=8",
    "size.dim=32", "size.depth=1", "size.heads=2", "batch_size=8", "steps=6", "precision=fp32", "engine.workers=0",
]  # fmt: skip


@pytest.fixture(autouse=True)
def world(tmp_path_factory, monkeypatch):
    """The generated world in a folder of the tests; reconstruction is measured elsewhere."""
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(training.reconstruction, "evaluate_run", lambda run_dir, method, config: {"figures": {}})


def train(run_dir, *more) -> int:
    return main([*TINY, f"run_dir={run_dir}", *more])


def weights(run_dir, step=6):
    return load_file(run_dir / "checkpoints" / f"step_{step:08d}" / "model.safetensors")


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def test_a_run_leaves_what_others_need(tmp_path, capsys):
    assert train(tmp_path) == 0
    out = capsys.readouterr().out
    for words in ("method  mae", "32 training samples, held out: 8", "6 (1.5 epochs)", "core.evaluate run="):
        assert words in out
    assert "${" not in (tmp_path / "config.yaml").read_text()
    assert OmegaConf.load(tmp_path / "config.yaml").size.dim == 32
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 6
    assert load_encoder(tmp_path).embed_dim == 32


def test_a_finished_run_says_so(tmp_path, capsys):
    assert train(tmp_path) == 0
    capsys.readouterr()
    assert train(tmp_path) == 0
    assert "holds a finished run of 6 steps" in capsys.readouterr().out


def test_another_architecture_is_refused(tmp_path, capsys):
    assert train(tmp_path, "steps=1") == 0
    assert train(tmp_path, "steps=1", "size.dim=64") == 2
    message = capsys.readouterr().err
    assert "size.dim: 32 -> 64" in message and "another run_dir=" in message and "Traceback" not in message


def test_workers_change_no_result(tmp_path):
    assert train(tmp_path / "a") == 0
    assert train(tmp_path / "b", "engine.workers=2", "engine.log_every=1", "engine.checkpoint_every=2") == 0
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_a_run_that_lost_its_end_finishes_it(tmp_path, monkeypatch):
    def die(*args):
        raise RuntimeError("killed while exporting")

    with monkeypatch.context() as patch:
        patch.setattr(training, "export_encoder", die)
        with pytest.raises(RuntimeError):
            train(tmp_path)
    assert not (tmp_path / "encoder").exists()
    assert train(tmp_path) == 0
    assert (tmp_path / "encoder/config.json").exists()


@pytest.mark.parametrize(
    "more, words",
    [
        (["batch_size=33"], ["batch_size=33", "32 training samples"]),
        (["optim.accumulate=3"], ["batch_size=8", "optim.accumulate=3"]),
        (["run_dir=/dev/null/run"], ["/dev/null/run", "run_dir="]),
        (["steps=null", "epochs=null"], ["steps=", "epochs="]),
        (["init.from=/nowhere"], ["init.from=/nowhere", "core.convert"]),
        (["optim.betas=[1]"], ["optim.betas"]),
        (["batch_sise=8"], ["batch_size"]),
        # Parts of another kind, and none
        (["method._target_=core.maskers.RandomMasker"], ["method=<RandomMasker>", "MaskedAutoencoder"]),
        (["method._partial_=true"], ["method=<partial>", "MaskedAutoencoder"]),
        (["optim._target_=core.settings.Engine"], ["optim=<Engine>", "a Recipe"]),
        (["optim._partial_=true"], ["optim=<partial>", "a Recipe"]),
        (["engine._target_=core.settings.Plan"], ["engine=<Plan>", "an Engine"]),
        (["modality.reader=null"], ["modality.reader=null", "_target_"]),
        (["modality.reader=foo"], ["modality.reader=foo", "a Reader"]),
        (["modality.reader._target_=core.data.folder.FolderSource"], ["modality.reader=<FolderSource>", "a Reader"]),
        (["data.source._target_=torch.nn.Linear"], ["data.source=<Linear>", "a Source"]),
        (["data.source._partial_=true"], ["data.source=<partial>", "a Source"]),
        (["published=foo"], ["published=foo", "a Published"]),
        (["published={_target_: core.settings.Engine}"], ["published=<Engine>", "a Published"]),
        # Values out of range
        (["method.masker.ratio=0"], ["method.masker", "nothing to predict"]),
        (["method.masker.ratio=0.999"], ["method.masker", "nothing to see"]),
        (["size.depth=-1"], ["depth=-1", "size.depth"]),
        (["size.heads=0"], ["heads=0", "size.heads"]),
        (["size.heads=-2"], ["heads=-2", "size.heads"]),
        (["size.heads=3"], ["dim=32", "heads=3", "size.heads"]),
        (["size.dim=0"], ["dim=0", "size.dim"]),
        (["modality.side=0"], ["modality.patch=[0, 0]", "modality.side"]),
        (["modality.patch=[8,-8]"], ["modality.patch=[8, -8]"]),
        (["modality.channels=4"], ["modality.channels=4", "data=world", "data=folder data.root="]),
        # Choices
        (["data=folder", "data.root=null"], ["data.root must be given"]),
        (["data=graph_sampled", "data.root=x"], ["data=graph_sampled", "modality=graph", "data=folder|world"]),
        (["experiment=mae"], ["experiment=mae", "There is method=mae."]),
        (["size=mae"], ["size=mae", "There is method=mae."]),
        (["config="], ["config= needs a file", "config.yaml"]),
    ],
)
def test_wrong_input_is_one_message(tmp_path, capsys, more, words):
    assert train(tmp_path, *more) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("making ", "made "))]
    assert lines[0].startswith("error: ") and all(word in "\n".join(lines) for word in words)


def test_a_method_whose_settings_do_not_fit_names_an_experiment(tmp_path, capsys):
    assert main(["modality=graph", "method=graphmae_chem", f"run_dir={tmp_path}/a"]) == 2
    message = capsys.readouterr().err
    assert "features=2" in message and "experiment=graphmae_zinc" in message


def test_null_at_the_root_is_no_setting_at_all(tmp_path):
    assert train(tmp_path, "init=null", "steps=1") == 0
    assert OmegaConf.load(tmp_path / "config.yaml").init is None
    assert open_config(tmp_path)["init"] is None


@pytest.mark.parametrize(
    "settings, size, patch",
    [
        (["modality=image", "modality.size=96"], [96, 96], [8, 8]),
        (["modality=image", "modality.size=96", "modality.patch=12"], [96, 96], [12, 12]),
        (["modality=image", "data=folder", "data.root=x", "modality.size=96"], [96, 96], [16, 16]),
        (["modality=video", "modality.size=48"], [8, 48, 48], [2, 8, 8]),
        (
            ["modality=video", "data=folder", "data.root=x", "modality.size=96", "modality.patch=8"],
            [16, 96, 96],
            [2, 8, 8],
        ),
        (["modality=video", "modality.size=[4,32,48]"], [4, 32, 48], [2, 8, 8]),
    ],
)
def test_one_number_is_the_size_of_the_spatial_axes(settings, size, patch):
    tokenizer = compose(settings)["method"]["tokenizer"]
    assert (tokenizer["size"], tokenizer["patch"]) == (size, patch)


@pytest.mark.parametrize("start", ["", "checkpoints/step_00000006", "encoder"])
def test_a_run_starts_from_another(tmp_path, start):
    assert train(tmp_path / "a") == 0
    assert train(tmp_path / "b", f"init.from={tmp_path / 'a' / start}", "steps=1", "optim.lr=0.0") == 0
    before, after = weights(tmp_path / "a"), weights(tmp_path / "b", 1)
    kept = {name for name in after if name.startswith("encoder.")} if start == "encoder" else set(after)
    assert all(before[name].equal(after[name]) for name in kept)


def test_help_lists_what_there_is(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for words in ("modality=", "mae", "nano", "world", "run_dir=", "resume"):
        assert words in out


def test_ctrl_c_ends_the_command_in_good_order(tmp_path):
    """With workers, which a terminal's Ctrl-C reaches as well: the signal goes to the whole process group."""
    run_dir = tmp_path / "cut"
    long = ["steps=100000", "engine.workers=1", "engine.checkpoint_every=null", "engine.log_every=1"]
    command = [sys.executable, "-m", "core.train", *TINY, *long, f"run_dir={run_dir}"]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    child = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes)
    metrics = run_dir / "metrics.jsonl"
    until(lambda: metrics.exists() and metrics.read_text().count("\n") > 3, child)
    os.killpg(child.pid, signal.SIGINT)
    _, message = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "The last step is saved" in message and "steps=100000" in message and "Traceback" not in message
    (saved,) = (run_dir / "checkpoints").iterdir()
    assert int(saved.name.removeprefix("step_")) == metrics.read_text().count('"kind": "train"')
