import errno
import multiprocessing

import pytest
from omegaconf import OmegaConf

from core import files
from core.engine import run_dir
from core.errors import UserError
from tests.waiting import ended

CONFIG = {
    "size": {"name": "nano", "dim": 128},
    "engine": {"workers": 2},
    "run_dir": "a",
    "betas": [0.9, 0.95],
    "steps": None,
}


def start(path, config, step=True):
    """A start as `core.training.run` makes it: the config is checked, then saved with the first step."""
    run_dir.check_config(path, config)
    run_dir.save_config(path, config)
    if step:
        (path / "checkpoints" / "step_00000001").mkdir(parents=True, exist_ok=True)


def test_config_is_saved_and_accepted_again(tmp_path):
    start(tmp_path, CONFIG)
    start(tmp_path, CONFIG)
    assert OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml")) == CONFIG


def test_engine_may_change(tmp_path):
    start(tmp_path, CONFIG)
    start(tmp_path, {**CONFIG, "engine": {"workers": 0, "keep": 3}, "run_dir": "elsewhere/a"})
    assert OmegaConf.load(tmp_path / "config.yaml").engine.keep == 3


def test_differing_keys_are_named(tmp_path):
    start(tmp_path, CONFIG)
    other = {**CONFIG, "size": {"name": "tiny", "dim": 192}, "betas": [0.9, 0.999], "seed": 1}
    with pytest.raises(UserError) as caught:
        start(tmp_path, other)
    message = str(caught.value)
    for line in ("size.name: nano -> tiny", "size.dim: 128 -> 192", "betas.1: 0.95 -> 0.999", "seed: (none) -> 1"):
        assert line in message
    assert "betas.0" not in message and "another run_dir=" in message
    assert OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml")) == CONFIG


@pytest.mark.parametrize("mark", ["checkpoints/step_00000001", "checkpoints/damaged_step_00000001", "finished.json"])
def test_a_directory_without_a_step_is_taken_over(tmp_path, mark):
    other = {**CONFIG, "seed": 1}
    start(tmp_path, CONFIG, step=False)
    (tmp_path / "precision.json").write_text("{}")
    start(tmp_path, other, step=False)
    assert OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml")) == other
    assert not (tmp_path / "precision.json").exists()
    (tmp_path / mark).mkdir(parents=True)
    with pytest.raises(UserError, match="another config"):
        start(tmp_path, CONFIG)


def test_a_start_without_a_step_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), run_dir.lock_run_dir(tmp_path / "a" / "b"):
        raise ZeroDivisionError
    assert list((tmp_path / "a").iterdir()) == []
    with run_dir.lock_run_dir(tmp_path / "b"):
        (tmp_path / "b" / "config.yaml").write_text("")
    assert (tmp_path / "b" / "config.yaml").exists()


def test_defaults_that_an_older_config_does_not_hold_are_no_difference(tmp_path):
    """They were in force, written or not; another value than the default is another config."""
    reader = {"_target_": "core.maskers.RandomMasker", "ratio": 0.5}
    start(tmp_path, {**CONFIG, "masker": reader})
    start(tmp_path, {**CONFIG, "masker": {**reader, "rounding": "down"}})
    with pytest.raises(UserError, match=r"masker\.rounding: down -> nearest"):
        start(tmp_path, {**CONFIG, "masker": {**reader, "rounding": "nearest"}})


def test_a_file_in_the_way_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"Cannot write .*file/run.*run_dir="),
        run_dir.lock_run_dir(tmp_path / "file" / "run"),
    ):
        pass


def test_unwritable_directory(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match="Permission denied"), run_dir.lock_run_dir(tmp_path):
        pass


def claim_elsewhere(path, answer):
    try:
        with run_dir.lock_run_dir(path):
            answer.put("claimed")
    except UserError as error:
        answer.put(str(error))


def test_two_processes_cannot_share_a_run(tmp_path):
    context = multiprocessing.get_context("forkserver")
    answer = context.SimpleQueue()
    with run_dir.lock_run_dir(tmp_path):
        child = context.Process(target=claim_elsewhere, args=(tmp_path, answer))
        child.start()
        assert ended(child) == [0]
        assert "Another process" in answer.get()
    with run_dir.lock_run_dir(tmp_path):
        pass


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    files.write_json(tmp_path / "note.json", {"a": 1})

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="free some space"):
        files.write_json(tmp_path / "note.json", {"a": 2})
    assert files.read_json(tmp_path / "note.json") == {"a": 1}
