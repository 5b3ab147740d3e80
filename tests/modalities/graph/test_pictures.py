"""A graph run from its training to its report: skill, drawings, features on a plane."""

import json

import numpy as np
import pytest

from core.report.page import write_report
from core.train import main as train
from modalities.graph.drawing import Sketch, lay_out, neighbourhood, svg


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One graph of two rings of a hundred nodes, a class each, three steps long."""
    root, folder = tmp_path_factory.mktemp("rings"), tmp_path_factory.mktemp("run") / "run"
    ring = [(i + 100 * part, (i + 1) % 100 + 100 * part) for part in range(2) for i in range(100)]
    rng = np.random.default_rng(0)
    np.save(root / "features.npy", rng.random((200, 6)))
    (root / "edges.csv").write_text("".join(f"{a},{b}\n" for a, b in ring))
    (root / "labels.csv").write_text("".join(f"{i},{i // 100}\n" for i in range(200)))
    settings = ["modality=graph", "data=folder", f"data.root={root}", "method.encoder.width=16", "batch_size=1"]
    assert train([*settings, "steps=3", "engine.workers=0", "precision=fp32", f"run_dir={folder}"]) == 0
    return folder


def test_a_run_measures_its_skill(run):
    record = json.loads((run / "evaluation" / "reconstruction.json").read_text())
    assert "reason" not in record and record["figures"]["features"]["total"]["tokens"] > 80
    assert "hidden nodes" in record["protocol"]["held_out"]


def test_a_report_draws_parts_of_the_graph_and_its_features(run):
    html = write_report(run).read_text()
    assert html.count("data:image/svg+xml;base64,") == 4 + 6 * 3
    for words in ("round node", "this method: error", "mean of neighbours: error", "t-SNE", "200 tokens out of 200"):
        assert words in html
    assert html.count('style="background: hsl(') == 2  # one key a class


def test_nodes_lie_as_far_apart_as_along_links():
    chain = np.stack([np.arange(5), np.arange(1, 6)])
    at = lay_out(chain, 6)
    step = np.linalg.norm(np.diff(at, axis=0), axis=1)
    assert np.allclose(step, step[0], rtol=0.02) and np.linalg.norm(at[0] - at[5]) == pytest.approx(
        5 * step[0], rel=0.02
    )
    assert at.min() >= 0 and at.max() <= 1 + 1e-9


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_nodes_and_nodes_without_links_are_drawn(count):
    sketch = Sketch.of(np.zeros((2, 0), np.int64), np.arange(count))
    assert np.isfinite(sketch.positions).all() and len(np.unique(sketch.positions.round(6), axis=0)) == count
    assert svg(sketch, ["#fff"] * count, np.ones(count, bool)).count(b"<circle") == count


def test_what_is_round_a_node_is_whole_steps_or_some_neighbours():
    chain = np.stack([[0, 1, 1, 2, 2, 3, 3, 4], [1, 0, 2, 1, 3, 2, 4, 3]])
    assert sorted(neighbourhood(chain, 2, 4)) == [1, 2, 3] and sorted(neighbourhood(chain, 2, 5)) == [0, 1, 2, 3, 4]
    star = np.stack([np.arange(1, 50), np.zeros(49, np.int64)])
    assert len(neighbourhood(star, 0, 10)) == 10 and neighbourhood(star, 0, 10)[0] == 0
    assert neighbourhood(star, 7, 10).tolist() == [7]
