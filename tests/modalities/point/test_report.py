"""A point run's report: figures that turn of held-out clouds, in the page of the run itself."""

import json
import re

import pytest

from core.report import main, scenes
from core.train import main as train

SMALL = [
    "modality=point", "modality.points=128", "modality.groups=[16]", "modality.members=[8]", "data.source.train=16",
    "data.source.test=4", "size.dim=24", "size.depth=1", "size.heads=2", "batch_size=4", "steps=2",
    "precision=fp32", "engine.workers=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LACUNA_CACHE", str(tmp_path_factory.mktemp("cache")))
        assert train([*SMALL, f"run_dir={folder}"]) == 0
        yield folder


def test_the_page_of_a_run_has_figures_of_its_held_out_clouds(run):
    pytest.importorskip("plotly")
    assert main([f"run={run}"]) == 0
    html = (run / "report.html").read_text(encoding="utf-8")
    assert html.count("data-figure=") == 4 * 4 and html.count("<script>") == 1
    code = html.partition("<script>")[2].partition("</script>")[0]
    assert scenes.allowance(code) in html.partition("<body>")[0]

    alts = re.findall(r'<img [^>]*alt="(\w[\w ]*) of test/\d{6}"', html)
    assert set(alts) == {"mask", "input", "visible groups", "nearest visible group", "reconstruction"}
    assert html.count("<image ") == 4, "every sample shows on hovering over its features"
    assert "Pictures are missing" not in html


def test_skill_at_unseen_points_and_its_ceiling_are_measured(run):
    record = json.loads((run / "evaluation" / "reconstruction.json").read_text())
    regions = record["figures"]["points"]
    assert regions.keys() == {"total", "unseen"}
    assert 0 < regions["unseen"]["tokens"] <= regions["total"]["tokens"]
    for figures in regions.values():
        assert figures["skill"]["value"] < figures["ceiling"]["value"] < 1
    assert record["protocol"]["ceiling"].startswith("other points of the same surfaces")


def test_colours_by_distance_are_a_setting_of_the_report(run):
    assert main([f"run={run}", "modality.pictures.colour=distance"]) == 0
    html = (run / "report.html").read_text(encoding="utf-8")
    assert len(re.findall(r"reconstruction: [\d.e-]+ from the truth</span>", html)) >= 4
    assert "red from" in html


def test_a_colour_that_is_none_is_refused(run, capsys):
    assert main([f"run={run}", "modality.pictures.colour=depth"]) == 2
    assert "modality.pictures.colour" in capsys.readouterr().err
