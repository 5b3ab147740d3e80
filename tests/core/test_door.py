"""The Python door: `from core import train, evaluate, load_encoder, Run`."""

import pytest
import torch

import core
from core.errors import UserError

SMALL = [
    "size.dim=24", "size.depth=1", "size.heads=2", "engine.workers=0", "precision=fp32",
    "data.source.train=16", "data.source.test=8", "batch_size=4", "method.readouts.main.decoder.trunk.depth=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LACUNA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield core.train("modality=image", *SMALL, steps=2, run_dir=str(tmp_path_factory.mktemp("run") / "a"))


def test_train_returns_the_run(run):
    assert isinstance(run, core.Run) and run.is_finished
    assert run.metrics["step"] == [1, 2] and all(loss > 0 for loss in run.metrics["loss"])
    assert run.config["method"]["name"] == "mae" and "mae" in run._repr_html_()


def test_a_run_gives_its_encoder_and_its_method(run):
    features = run.encoder()(torch.rand(2, 3, 64, 64))
    assert features.pooled.shape == (2, 24)
    saved, trained = run.encoder().encoder.state_dict(), run.method().encoder.state_dict()
    assert all(torch.equal(saved[name], trained[name]) for name in saved)


def test_evaluate_takes_a_run_and_gives_fields(run):
    result = core.evaluate(run, task="knn", seeds=1)
    assert result.task == "knn" and result.accuracy == result.value == result.interval.value
    assert set(result.baselines) >= {"random init", "PCA of raw input"}
    assert list((run.path / "evaluation").glob("knn*.json")) and "accuracy" in result._repr_html_()


def test_the_door_stays_open_when_commands_are_imported():
    """`core.train` is a module too: importing it must not hide the function."""
    import core.evaluate
    import core.train

    assert callable(core.train) and callable(core.evaluate)


def test_mistakes_are_errors_not_exits(tmp_path):
    with pytest.raises(UserError, match="modality=imag"):
        core.train("modality=imag", run_dir=str(tmp_path))
    with pytest.raises(UserError, match="no setting seed_"):
        core.evaluate(tmp_path, task="knn", seed_=1)


def test_the_package_by_its_own_name():
    import lacuna

    assert lacuna.__all__ == core.__all__
    assert all(getattr(lacuna, name) is getattr(core, name) for name in core.__all__)
    with pytest.raises(AttributeError, match="no attribute 'load_decoder'"):
        lacuna.load_decoder  # noqa: B018


def test_a_dry_run_is_for_the_command(tmp_path):
    with pytest.raises(UserError, match="dry_run=true is for the command"):
        core.train("modality=image", dry_run=True, run_dir=str(tmp_path / "a"))
