"""The `lacuna` command: dispatch, exit codes, help, and which `core` it finds."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from core import cli
from core.errors import UserError
from tests.waiting import SECONDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def train(monkeypatch):
    """A stand-in for core.train, which records what it is called with; what it returns or raises can be set."""
    module = types.ModuleType("core.train", "Trains.")
    module.called, module.outcome = [], None

    def main(argv):
        module.called.append(argv)
        if isinstance(module.outcome, Exception):
            raise module.outcome
        return module.outcome

    module.main = main
    monkeypatch.setitem(sys.modules, "core.train", module)
    return module


@pytest.mark.parametrize(("outcome", "code"), [(None, 0), (0, 0), (3, 3)])
def test_hands_over(train, outcome, code):
    train.outcome = outcome
    assert cli.main(["train", "modality=video", "steps=1"]) == code
    assert train.called == [["modality=video", "steps=1"]]


def test_user_error_is_one_message_and_exit_code_2(train, capsys):
    train.outcome = UserError("steps=x: expected a number.")
    assert cli.main(["train", "steps=x"]) == 2
    assert capsys.readouterr() == ("", "error: steps=x: expected a number.\n")


def test_other_errors_are_ours(train):
    train.outcome = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        cli.main(["train"])


def test_unknown_command(capsys):
    assert cli.main(["trian"]) == 2
    assert "Did you mean train" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_overview_lists_commands_and_choices(argv, capsys):
    assert cli.main(argv) == 0
    told = capsys.readouterr().out
    assert all(f"\n  {command} " in told for command in cli.COMMANDS)
    assert all(f"\n{group}=\n" in told for group in ("modality", "method", "size", "data", "optim", "engine"))
    assert all(len(line) <= 120 for line in told.splitlines())


def script(folder: Path) -> Path:
    """A console script as pip writes it."""
    folder.mkdir()
    (folder / "lacuna").write_text("import sys\nfrom core.cli import main\nsys.exit(main())\n")
    return folder / "lacuna"


def test_finds_the_installed_core_in_any_folder(tmp_path):
    (tmp_path / "core").mkdir()
    for name in ("__init__", "cli", "errors"):
        (tmp_path / "core" / f"{name}.py").write_text("raise SystemExit('the wrong core')\n")
    (tmp_path / "configs").mkdir()
    run = [sys.executable, str(script(tmp_path / "bin"))]
    # PYTHONPATH stands for site-packages here: it, too, comes after the script's own folder.
    where = {
        "cwd": tmp_path,
        "env": {"PYTHONPATH": str(ROOT)},
        "capture_output": True,
        "text": True,
        "timeout": SECONDS,
    }
    done = subprocess.run([*run, "--help"], **where)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([*run, "trian"], **where)
    assert done.returncode == 2
    assert "Did you mean train" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_is_quick():
    code = "import sys, core.cli; core.cli.overview(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=SECONDS).returncode == 0


def test_every_command_has_one_frame(capsys):
    def fail(argv):
        raise UserError(f"{argv[0]} is wrong.")

    assert cli.command(["a=1", "--help"], lambda: "how to", fail) == 0
    assert capsys.readouterr() == ("how to\n", "")
    assert cli.command(["a=1"], lambda: "how to", fail) == 2
    assert capsys.readouterr() == ("", "error: a=1 is wrong.\n")
    assert cli.command(["a=1"], lambda: "how to", print) == 0
    assert capsys.readouterr().out == "['a=1']\n"


@pytest.mark.parametrize("argv", [["lacuna", "--help"], ["core.train", "--help"], ["core.explain", "optim"]])
def test_a_reader_that_leaves_ends_it_quietly(argv):
    """As in `lacuna --help | head -1`, whose pipe is closed before anything is written."""
    code = f"import sys, runpy; sys.argv = {argv!r}; "
    code += (
        "from core.cli import main; sys.exit(main())"
        if argv[0] == "lacuna"
        else (f"runpy.run_module({argv[0]!r}, run_name='__main__')")
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, timeout=SECONDS
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_mistakes_in_names_are_reported_before_torch_is_loaded():
    code = (
        "import sys; from core.train import main; "
        "codes = [main([word]) for word in ('modality=imgae', 'size=hug', 'stepz', 'experiment=mae', 'config=')]; "
        "sys.exit(codes != [2] * 5 or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=SECONDS).returncode == 0
