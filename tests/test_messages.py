"""Settings that messages name exist: every `group.key` in the text of an error is a key of some composed config."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.catalogue import fits
from core.config import compose
from core.config.files import choices
from core.errors import UserError
from core.saved import complete
from core.settings import ROOT, Start
from core.trees import paths

ROOT_FOLDER = Path(__file__).resolve().parents[1]
GROUP = "data|modality|method|optim|engine|size|init"
KEY = re.compile(rf"(?<![\w./<{{-])((?:{GROUP})(?:\.[a-z_]\w*)+)(?![\w/(])")
ERRORS = {"UserError", "IncompatibleError", "BadSample", "Diverged", "Mismatch"}
STARTS = {"data.changed"}  # of one start, see core.settings.Start


@pytest.fixture(scope="module")
def schema() -> set[str]:
    """Every key of the complete configs of all modalities, methods and data that go together."""
    keys = {*ROOT, *STARTS}
    for modality in choices("modality"):
        for data in choices("data"):
            for method in choices("method"):
                words = [f"modality={modality}", f"data={data}", f"method={method}"]
                if fits(modality, method) and fits(modality, data, group="data"):
                    keys |= set(keys_of(words))
    for optim in choices("optim"):
        keys |= set(keys_of([f"optim={optim}"]))
    return keys


def keys_of(words: list[str]) -> Iterator[str]:
    try:
        config = compose(words)
    except UserError:
        try:
            config = compose([*words, "data.root=x"])
        except UserError:
            return
    complete(config)
    for path, _ in paths(config):
        yield path


def messages() -> Iterator[tuple[str, str]]:
    """Place and text of every error that is raised; what is filled in stands as `{}`."""
    for package in ("core", "modalities"):
        for file in sorted((ROOT_FOLDER / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                name = getattr(getattr(node, "func", None), "id", "")
                if isinstance(node, ast.Call) and name in ERRORS and node.args:
                    yield f"{file.relative_to(ROOT_FOLDER)}:{node.lineno}", text_of(node.args[0])


def text_of(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(value) for value in node.values)
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    return "{}"


def test_keys_in_messages_exist(schema):
    wrong = []
    for place, text in messages():
        for key in KEY.findall(text):
            if key not in schema:
                wrong.append(f"{place}: {key}")
    assert not wrong, "\n".join(wrong)


def test_the_measure_sees_keys_and_leaves_files_alone():
    text = "set data.holdout above 0, or optim.lr=1; see core/data.py, a-modality.md, data.to_list(), data.root."
    assert KEY.findall(text) == ["data.holdout", "optim.lr", "data.root"]
    assert len(list(messages())) > 100


def test_settings_of_a_start_exist():
    assert Start.of(["data.changed=accept"])[0].accepts_data
