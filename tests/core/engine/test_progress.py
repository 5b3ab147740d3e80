import io
import json

from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.engine.metrics import Metrics, truncate_log
from core.engine.progress import NoDisplay, PlainDisplay, TerminalDisplay, open_display, spell

LINE = {
    "kind": "train", "step": 20, "epoch": 1.5, "loss": 0.25, "pixels": 0.25, "lr": 1.5e-4, "grad_norm": 1.0,
    "samples_per_s": 812.4, "data_wait": 0.031, "mfu": 0.412, "memory_mb": 512.3, "skipped": 2, "time": 1.0,
}  # fmt: skip
FIGURES = {"loss": 0.25, "samples_per_s": 1.0, "data_wait": 0.0, "mfu": 0.1, "memory_mb": 1.0, "lr": 1.0}


def test_a_line_holds_what_matters():
    assert spell(LINE) == "epoch 1.50  loss 0.2500  lr 1.50e-04  812.4 samples/s  wait 3%  mfu 41.2%  512 MB  skipped 2"


def test_several_terms_are_spelled_out():
    assert "pixels 0.25  features 0.5" in spell({**LINE, "features": 0.5})


def test_plain_lines_where_there_is_no_terminal(capsys):
    display = open_display(0, 100, main=True)
    assert isinstance(display, PlainDisplay)
    display.note("hello")
    display.step(20)
    display.metrics(LINE)
    out = capsys.readouterr().out
    assert out.startswith("hello\nstep 20/100  epoch 1.50") and "eta ..." in out
    assert "\x1b" not in out and "\r" not in out


def test_time_to_the_end_by_recent_steps(capsys, monkeypatch):
    """The first step, which prepares kernels and workers, and steps long past have no part in it."""
    clock = iter([100.0, 102.0] + [1000.0 + 3 * i for i in range(60)])
    monkeypatch.setattr("core.engine.progress.time.monotonic", lambda: next(clock))
    display = PlainDisplay(10, 110)
    display.step(11)
    assert display.remaining() == "..."
    display.step(12)
    assert capsys.readouterr().out == "step 12/110  eta 0:03:16\n"  # 98 steps of 2 s
    for step in range(13, 73):
        display.step(step)
    assert display.remaining() == "0:01:54"  # 38 steps of 3 s


def test_other_ranks_are_silent(capsys):
    display = open_display(0, 100, main=False)
    assert isinstance(display, NoDisplay)
    display.note("hello")
    display.metrics(LINE)
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_bar_with_all_figures():
    screen = io.StringIO()
    display = TerminalDisplay(0, 100, Console(file=screen, force_terminal=True, width=140))
    display.step(20)
    display.metrics(LINE)
    display.note("[saved]")
    display.close()
    shown = screen.getvalue()
    for words in ("20/100", "loss 0.2500", "lr 1.50e-04", "812.4 samples/s", "wait 3%", "mfu 41.2%", "512 MB", "eta"):
        assert words in shown
    assert "[saved]" in shown


def test_a_resumed_run_forgets_what_it_takes_again(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"kind": "train", "step": 5}\n{"kind": "skip", "step": 6}\n{"kind": "train", "st')
    truncate_log(file, 5)
    assert file.read_text() == '{"kind": "train", "step": 5}\n'


def test_many_skipped_samples_are_summed_up(tmp_path, capsys):
    metrics = Metrics(tmp_path, 0, PlainDisplay(0, 100), main=True)
    metrics.skips([(0, f"{i}.jpg", "empty") for i in range(9)])
    out = capsys.readouterr().out
    assert "skipped 2.jpg: empty" in out and "3.jpg" not in out and "skipped 6 more" in out
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 9


def test_a_bad_sample_is_named_and_counted_once_also_after_resuming(tmp_path, capsys):
    for start in (0, 10):
        metrics = Metrics(tmp_path, start, PlainDisplay(start, 100), main=True)
        for epoch in range(3):
            metrics.skips([(start + epoch, "bad.jpg", "empty")])
        metrics.train(start + 5, 1.5, FIGURES, skipped=3)
    out = capsys.readouterr().out
    assert out.count("skipped bad.jpg: empty") == 1 and out.count("skipped 1 ") == 2
    lines = list(map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()))
    assert sum(line["kind"] == "skip" for line in lines) == 6 and lines[-1]["skipped"] == 3, "the file has each time"


def test_metrics_file_and_tensorboard(tmp_path):
    metrics = Metrics(tmp_path, 0, PlainDisplay(0, 100), main=True)
    metrics.train(20, 1.5, FIGURES, skipped=2)
    metrics.skips([(3, "a.jpg", "the file is empty")])
    train, skip = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert train["step"] == 20 and train["skipped"] == 2 and train["time"] > 0
    assert skip == {"kind": "skip", "step": 4, "key": "a.jpg", "reason": "the file is empty"}
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert events.stat().st_size > 100


def test_tensorboard_reads_what_was_written(tmp_path):
    for start in (0, 20):  # started, and resumed after step 20
        metrics = Metrics(tmp_path, start, PlainDisplay(start, 100), main=True)
        for step in (start + 20, start + 40):
            metrics.train(step, 1.0, {**FIGURES, "loss": 1.0 / step}, skipped=0)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = {event.step: round(1 / event.value) for event in board.Scalars("train/loss")}
    assert points == {20: 20, 40: 40, 60: 60}
