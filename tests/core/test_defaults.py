"""Settings chosen from people's own data: what is given wins, and a run keeps its choices."""

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from core import training
from core.config import compose
from core.data.facts import DataFacts
from core.defaults import choose, describe, warn_of_length
from core.train import main

PICTURES = DataFacts(samples=64, channels=3, sizes=[(96, 128)] * 40 + [(300, 200)] * 24)


def choices(*overrides, facts=PICTURES, count=2000) -> dict:
    config = compose([*overrides, "data=folder", "data.root=none"])
    given = {text.partition("=")[0] for text in overrides}
    return {choice.key: choice.value for choice in choose(config, facts, count, given)}


def test_pictures():
    values = choices("modality=image")
    assert values["modality.size"] == [64, 64] and values["modality.side"] == 8
    assert {"batch_size", "optim.lr", "steps"} < values.keys()
    assert "modality.channels" not in values, "three are the modality's own"


@pytest.mark.parametrize(("short", "side"), [(28, 32), (32, 32), (44, 48), (64, 64), (1000, 64), (5, 16)])
def test_small_pictures_have_small_patches(short, side):
    values = choices("modality=image", facts=DataFacts(samples=1, channels=3, sizes=[(short, 2 * short)]))
    assert values["modality.size"] == [side, side] and values["modality.side"] == side // 8


def test_larger_models_see_larger_pictures():
    values = choices("modality=image", "size=base")
    assert values["modality.size"] == [84, 84] and values["modality.side"] == 6  # 96 / 14 is 6.9
    large = DataFacts(samples=1, channels=3, sizes=[(500, 400)])
    assert choices("modality=image", "size=base", facts=large)["modality.size"] == [224, 224]


def test_clips_have_frames_too():
    facts = DataFacts(samples=2, channels=3, sizes=[(50, 128, 170), (40, 128, 228)])
    assert choices("modality=video", facts=facts)["modality.size"] == [8, 64, 64]
    short = DataFacts(samples=1, channels=3, sizes=[(5, 128, 128)])
    assert choices("modality=video", facts=short)["modality.size"] == [4, 64, 64]


def test_grey_pictures_have_one_channel():
    assert choices("modality=image", facts=DataFacts(samples=3, channels=1))["modality.channels"] == 1


@pytest.mark.parametrize("channels", [3, None])
def test_mixed_and_coloured_pictures_keep_three(channels):
    assert "modality.channels" not in choices("modality=image", facts=DataFacts(samples=3, channels=channels))


def test_convolutions_have_a_stride_for_a_patch():
    values = choices("modality=image", "method=spark")
    assert values["method.encoder.stride"] == 8 and "modality.side" not in values


@pytest.mark.parametrize(
    ("given", "absent"),
    [
        ("modality.size=[32,32]", "modality.size"),
        ("modality.patch=[4,4]", "modality.side"),
        ("modality.channels=1", "modality.channels"),
        ("modality.normalise.mean=[0.5]", "modality.channels"),
        ("batch_size=4", "batch_size"),
        ("optim.lr=0.1", "optim.lr"),
        ("optim.base_lr=0.1", "optim.lr"),
        ("optim=lamb", "optim.lr"),
        ("steps=7", "steps"),
        ("epochs=7", "steps"),
    ],
)
def test_what_is_given_wins(given, absent):
    grey = DataFacts(samples=1, channels=1, sizes=[(64, 64)])
    assert absent in choices("modality=image", facts=grey)
    assert absent not in choices("modality=image", given, facts=grey)


def test_a_given_size_is_cut_into_patches_that_divide_it():
    assert choices("modality=image", "modality.size=[48,96]")["modality.side"] == 6
    assert choices("modality=image", "modality.size=[33,66]")["modality.side"] == 3


@pytest.mark.parametrize(
    ("words", "short", "size"),
    [
        (("modality=image", "modality.patch=[14,14]"), 300, [70, 70]),
        (("modality=image", "modality.patch=[4,4]"), 300, [64, 64]),
        (("modality=image", "modality.side=12"), 20, [48, 48]),
        (("modality=image", "modality.patch=[4,6]"), 300, [60, 60]),
        (("modality=video", "modality.patch=[3,7,7]"), 300, [9, 63, 63]),
    ],
)
def test_a_size_is_a_multiple_of_a_given_patch(words, short, size):
    axes = (16, short, short) if words[0] == "modality=video" else (short, short)
    chosen = choices(*words, facts=DataFacts(samples=1, channels=3, sizes=[axes]))
    assert chosen["modality.size"] == size and "modality.side" not in chosen


@pytest.mark.parametrize(
    ("size", "side"), [("[224,224]", 16), ("[96,96]", 12), ("[160,320]", 16), ("[384,384]", 32), ("[64,64]", 8)]
)
def test_a_given_size_gets_a_usual_patch_where_that_takes_few_tokens(size, side):
    """At nano 8 tokens a side are the aim: 14 of 16 pixels, not 8 of 28; but 12 of 32, not 24 of 16."""
    assert choices("modality=image", f"modality.size={size}")["modality.side"] == side
    assert choices("modality=image", "size=base", f"modality.size={size}").get("modality.side", 16) in (4, 6, 10, 16)


@pytest.mark.parametrize("size", ["[37,37]", "[30,37]"])  # patches of 37 or 1 pixels
def test_a_size_without_a_fitting_patch_is_left_to_the_message(size):
    assert "modality.side" not in choices("modality=image", f"modality.size={size}")


@pytest.mark.parametrize(
    ("sizes", "hint"),
    [
        ([(224, 112)] * 3, "50% of each (median): modality.size=[128,64] takes all"),
        ([(100, 300)], "33% of each (median): modality.size=[64,192] takes all"),
        ([(96, 100), (100, 96), (224, 112)], ""),
    ],
)
def test_oblong_pictures_lose_their_ends_in_words(sizes, hint):
    config = compose(["modality=image", "data=folder", "data.root=none"])
    text = describe(choose(config, DataFacts(samples=len(sizes), channels=3, sizes=sizes), 2000, ()))
    assert hint in text and ("middle square" in text) == bool(hint)


def test_oblong_clips_too():
    config = compose(["modality=video", "data=folder", "data.root=none"])
    facts = DataFacts(samples=1, channels=3, sizes=[(16, 64, 128)])
    assert "modality.size=[8,64,128] takes all" in describe(choose(config, facts, 2000, ()))


def test_a_given_batch_sets_rate_and_length():
    values = choices("modality=image", "batch_size=2")
    assert values["optim.lr"] == pytest.approx(choices("modality=image")["optim.lr"] / 2)


@pytest.mark.parametrize("count", [1, 2, 7, 28, 100, 188, 10**7])
def test_a_batch_fits_any_number_of_samples(count):
    values = choices("modality=image", count=count)
    assert 1 <= values["batch_size"] <= max(1, count // 4) and values["steps"] >= 1
    assert values["batch_size"] & (values["batch_size"] - 1) == 0


def test_few_samples_are_seen_so_many_times_at_most():
    values = choices("modality=image", count=8)
    assert values["steps"] * values["batch_size"] == 300 * 8


def test_graphs_have_no_sizes():
    values = choices("modality=graph", facts=DataFacts(samples=0, channels=None))
    assert values.keys() == {"batch_size", "optim.lr", "steps"}


def test_a_reason_stands_beside_every_choice():
    config = compose(["modality=image", "data=folder", "data.root=none"])
    lines = describe(choose(config, PICTURES, 2000, ())).splitlines()
    assert any("modality.size=[64,64]" in line and "short side is 96" in line for line in lines)


def test_short_runs_are_warned_of():
    assert "steps=" in warn_of_length(10, {"steps"})
    assert warn_of_length(10**5, {"steps"}) is None and warn_of_length(10, {"seed"}) is None


# Whole runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def grey(tmp_path, monkeypatch):
    """16 grey pictures of 24 x 24 pixels; reconstruction is measured elsewhere."""
    monkeypatch.setattr(training.reconstruction, "evaluate_run", lambda run_dir, method, config: {"figures": {}})
    rng = np.random.default_rng(0)
    (tmp_path / "grey").mkdir()
    for number in range(16):
        Image.fromarray(rng.integers(0, 255, (24, 24), dtype=np.uint8)).save(tmp_path / "grey" / f"{number}.png")
    return tmp_path / "grey"


TINY = ["modality=image", "data=folder", "size.dim=32", "size.depth=1", "size.heads=2", "precision=fp32", "steps=4"]


def test_choices_stand_in_the_config_and_on_the_screen(grey, tmp_path, capsys):
    assert main([*TINY, f"data.root={grey}", f"run_dir={tmp_path / 'run'}"]) == 0
    out = capsys.readouterr().out
    assert "modality.channels=1" in out and "are grey" in out and "whatever you set" in out

    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    assert config.modality.channels == 1 and config.modality.size == [32, 32] and config.batch_size == 1
    assert config.chosen["modality.channels"].value == 1 and "steps" not in config.chosen


def test_a_run_keeps_its_choices(grey, tmp_path, capsys):
    """More samples would mean a larger batch: the run that goes on keeps the one that it began with."""
    command = [*TINY, f"data.root={grey}", f"run_dir={tmp_path / 'run'}"]
    assert main(command) == 0
    batch = OmegaConf.load(tmp_path / "run" / "config.yaml").batch_size
    for number in range(200):
        (grey / f"more{number}.png").write_bytes((grey / "0.png").read_bytes())
    capsys.readouterr()
    main(command)
    assert f"batch_size={batch} " in capsys.readouterr().out


@pytest.mark.parametrize(("size", "side"), [("20", 2), ("[35,70]", 5)])
def test_any_size_with_a_patch_that_divides_it(grey, tmp_path, size, side):
    """Also sizes that the modality's own patch does not divide."""
    assert main([*TINY, f"modality.size={size}", f"data.root={grey}", f"run_dir={tmp_path / 'run'}"]) == 0
    assert OmegaConf.load(tmp_path / "run" / "config.yaml").modality.side == side


def test_a_size_that_no_patch_divides_is_refused_with_the_next(grey, tmp_path, capsys):
    assert main([*TINY, "modality.size=37", f"data.root={grey}", f"run_dir={tmp_path / 'run'}"]) == 2
    assert "does not divide" in capsys.readouterr().err


def test_an_experiment_is_left_alone(grey, tmp_path, capsys):
    settings = ["experiment=mae_base_imagenet", f"data.root={grey}", "steps=1", "batch_size=1", "optim.accumulate=1"]
    small = ["size.dim=32", "size.depth=1", "size.heads=2", "modality.size=[32,32]"]
    main([*settings, *small, "method.decoder.depth=1", f"run_dir={tmp_path / 'run'}"])
    assert "Chosen from your data" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "modality, size, count, memory",
    [
        ("video", (60, 128, 228), 155, 777),
        ("image", (1000, 1000), 715, 2046),
        ("image", (1000, 1000), 717, None),
        ("image", (32, 32), 50_000, 147),
        ("graph", (), 1000, None),
    ],
)
def test_samples_that_fit_in_memory_are_decoded_once(modality, size, count, memory):
    """Megabytes are count · 3 · the product of the size / 2**20."""
    config = compose([f"modality={modality}", "data=folder", "data.root=none"])
    facts = DataFacts(samples=1, channels=1, sizes=[size] if size else [])
    settings = {setting.key: setting for setting in choose(config, facts, count, ())}
    if memory is None:
        assert "data.cache_mb" not in settings
    else:
        assert settings["data.cache_mb"].value == 2048 and f"about {memory} MB" in settings["data.cache_mb"].reason
    assert "data.cache_mb" not in {setting.key for setting in choose(config, facts, count, ["data.cache_mb"])}
