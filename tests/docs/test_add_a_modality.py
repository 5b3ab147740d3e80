"""docs/add-a-modality.md shows the toy plug-in that the contract tests train."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "tests/contracts/plugin/lacuna_signals"


@pytest.mark.parametrize(("language", "file"), [("python", "reader.py"), ("yaml", "configs/modality/signal.yaml")])
def test_the_page_shows_the_plugin(language, file):
    page = (ROOT / "docs/add-a-modality.md").read_text(encoding="utf-8")
    assert f"```{language}\n{(PLUGIN / file).read_text(encoding='utf-8')}```" in page
