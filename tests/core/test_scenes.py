"""Scenes of a report: figures that turn, by one script that the page's policy allows, and stills of the same."""

import base64
import hashlib
import io
import json
import re
import sys
import time
from html import unescape

import numpy as np
import pytest
from PIL import Image

from core.reconstruction.pictures import Gallery, Panel, PointSet, Raster, Scene
from core.reconstruction.splats import directions, still
from core.report import scenes
from core.report.images import panels
from core.report.page import POLICY, document
from core.report.samples import Samples
from tests.browser import Browser, executable

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
HOLD = 'data-figure="'


def points(positions, colour=RED, name="points") -> PointSet:
    positions = np.asarray(positions, dtype=float).reshape(-1, 3)
    return PointSet(name, positions, colours=np.tile(colour, (len(positions), 1)))


def scene(*sets: PointSet, label="cloud", radius=1.0, up=1) -> Scene:
    return Scene(label, f"{label} of a sample", sets=sets, centre=np.zeros(3), radius=radius, up=up)


def decoded(raster: Raster) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(raster.data)))


def page(*galleries: list[Panel]) -> str:
    """A page with a section for each list of panels."""
    samples = [Samples(notes=[], gallery=Gallery([], content, [])) for content in galleries]
    sections = {f"Part {number}": panels(content) for number, content in enumerate(galleries)}
    return document("a page", "", sections, scenes.script(samples))


@pytest.fixture
def content() -> list[Panel]:
    """Three panels of two scenes each."""
    rng = np.random.default_rng(0)
    made = []
    for name in ("first", "second", "third"):
        pair = [scene(points(rng.uniform(-0.5, 0.5, (200, 3)) * (1, 0.2, 0.2)), label=label) for label in ("a", "b")]
        made.append(Panel(name, [still(part, 120) for part in pair], scenes=pair))
    return made


def scripts(html: str) -> list[str]:
    return re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL)


def policy(html: str) -> str:
    return re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html).group(1)


# Stills.


def test_a_point_lies_where_the_camera_sees_it():
    """Up is up in the picture; the vertical axis is the named one; the three directions are a right-handed frame."""
    for up in range(3):
        frame = directions(up)
        assert np.allclose(frame @ frame.T, np.eye(3)) and np.linalg.det(frame) == pytest.approx(1)
        assert frame[0, up] == 0 and frame[1, up] > 0.9 and frame[2, up] > 0

        above = decoded(still(scene(points(0.8 * np.eye(3)[up]), up=up), 100))[..., 3]
        row, column = np.argwhere(above > 0).mean(0)
        assert row == pytest.approx(49.5 - 46 * 0.8 * frame[1, up], abs=1) and column == pytest.approx(49.5, abs=1)

    right = decoded(still(scene(points(0.8 * directions(1)[0])), 100))[..., 3]
    row, column = np.argwhere(right > 0).mean(0)
    assert row == pytest.approx(49.5, abs=1) and column == pytest.approx(49.5 + 46 * 0.8, abs=1)


@pytest.mark.parametrize("order", [1, -1])
def test_near_points_hide_far_ones(order):
    toward = 0.5 * directions(1)[2]
    sets = [points(toward, BLUE), points(-toward, RED)][::order]
    red, _, blue, opacity = decoded(still(scene(*sets), 440))[220, 220].tolist()
    assert blue > 200 and red < 20 and opacity > 200


def test_far_points_are_paler():
    toward = 0.9 * directions(1)[2]
    near, far = (decoded(still(scene(points(place)), 440))[220, 220, 3] for place in (toward, -toward))
    assert near > 0.9 * 255 and 0.3 * 255 < far < 0.45 * 255


def test_points_out_of_sight_are_left_out_and_nothing_is_drawn_without_points():
    assert decoded(still(scene(points((3.0, 0, 0))), 100)).max() == 0
    assert decoded(still(scene(points((3.0, 0, 0)), radius=4.0), 100)).max() > 0
    raster = still(scene(points(np.zeros((0, 3)))), 64)
    assert decoded(raster).shape == (64, 64, 4) and decoded(raster).max() == 0
    assert raster.mime == "image/png" and raster.alt == "cloud of a sample"


# Figures.


def test_a_figure_is_one_of_plotly_and_holds_the_points():
    graph_objects = pytest.importorskip("plotly.graph_objects")
    positions = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    two = PointSet("two", positions[:2], colours=np.array([RED, BLUE]))
    for up in range(3):
        content = scenes.figure(scene(points(positions, name="one"), two, radius=2.0, up=up))
        graph_objects.Figure(content)  # refuses unknown names and values
        first, second = content["data"]
        assert first["marker"]["color"] == "#ff0000" and second["marker"]["color"] == ["#ff0000", "#0000ff"]

        columns = [np.frombuffer(base64.b64decode(first[axis]["bdata"]), "<f4") for axis in "xyz"]
        assert (columns[2] == positions[:, up]).all(), "plotly's third axis is the vertical one"
        turned = np.stack(columns, 1)
        assert np.linalg.det(turned[:3]) == pytest.approx(np.linalg.det(positions[:3]), rel=1e-4), "not mirrored"
        for name, axis in zip("xyz", columns, strict=True):
            written = "xyz"[[(axis == positions[:, k]).all() for k in range(3)].index(True)]
            assert f"{written} %{{{name}:.3g}}" in first["hovertemplate"]
        assert content["layout"]["scene"]["xaxis"]["range"] == [-2, 2]


def test_a_figure_is_seen_as_its_still():
    """The camera of the figure is that of the picture: from the same side, with the same axis up."""
    eye = scenes.figure(scene(points((0, 0, 0))))["layout"]["scene"]["camera"]["eye"]
    turned = np.array([eye[axis] for axis in "xyz"])
    assert np.allclose(turned / np.linalg.norm(turned), np.roll(directions(1)[2], 1), atol=1e-4)


# The page.


def test_the_script_stands_in_the_page_once_and_its_hash_allows_it(content):
    plotly = pytest.importorskip("plotly.offline").get_plotlyjs()
    html = page(content, content[:1])
    (code,) = scripts(html)
    assert code.startswith(plotly) and html.count(plotly) == 1

    digest = base64.b64encode(hashlib.sha256(code.encode("utf-8")).digest()).decode()
    assert policy(html) == f"{POLICY}; script-src 'sha256-{digest}'"
    assert not re.search(r"unsafe-eval|script-src[^;]*unsafe-inline|script-src[^;]*http", policy(html))
    assert html.count(HOLD) == 8 and html.count('<details class="scenes">') == 4
    assert not re.search(r'(?:src|href)="(?!data:image/|#)', html.replace(code, ""))


def test_a_page_without_scenes_has_no_script(content):
    plain = [Panel(panel.title, panel.rasters) for panel in content]
    html = page(plain)
    assert scripts(html) == [] and policy(html) == POLICY and "plotly" not in html
    assert scenes.script([Samples(notes=["nothing"])]) == ""


def test_without_plotly_stills_stand_alone_and_a_line_says_so(content, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    html = page(content)
    assert scripts(html) == [] and policy(html) == POLICY and HOLD not in html
    assert html.count("data:image/png;base64,") == 6
    assert html.count("need plotly") == 1 and "lacuna-ssl[figures]" in html


def test_a_scenes_text_cannot_change_the_page():
    attack = '"><script>alert(1)</script><img src="https://example.org/x">'
    part = scene(points(np.zeros((2, 3)), name=attack), label=attack)
    html = scenes.scenes([part])
    assert "<script" not in html and "<img" not in html
    (written,) = re.findall(r'data-figure="([^"]*)"', html)
    assert json.loads(unescape(written))["data"][0]["name"] == attack


# In a browser.


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if executable() is None:
        pytest.skip("no Chromium on this machine (chromium, google-chrome)")
    pytest.importorskip("plotly")
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def show(browser: Browser, folder, html: str) -> None:
    """Opens a page's text and waits for the figures of its first panel."""
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    browser.open(path)
    browser.wait_for("document.querySelectorAll('.scene canvas').length > 0")
    browser.wait_for("[...document.querySelectorAll('.scene')].slice(0, 2).every(place => place.layout)")


def cameras(browser: Browser) -> list[dict]:
    """Where the cameras of the first panel's figures stand."""
    places = "[...document.querySelectorAll('.scene')].slice(0, 2)"
    return browser.evaluate(f"{places}.map(place => place.layout.scene.camera.eye)")


def drawn(browser: Browser) -> list[bool]:
    """Of every figure of the page whether it is drawn."""
    return browser.evaluate("[...document.querySelectorAll('.scene')].map(place => !!place.querySelector('canvas'))")


def test_figures_turn_together_without_an_error(content, browser, tmp_path):
    show(browser, tmp_path, page(content))
    before = cameras(browser)
    assert before[0] == before[1]

    browser.drag(".scene", (90, 0))
    deadline = time.monotonic() + 60
    while (after := cameras(browser))[1] == before[1] or after[0] != after[1]:
        assert time.monotonic() < deadline, after
        time.sleep(0.1)
    assert abs(after[0]["x"] - before[0]["x"]) > 0.1 and after[0]["z"] == pytest.approx(before[0]["z"], abs=0.05)
    assert browser.errors == []


def test_a_figure_shows_its_points_and_a_turn_changes_it(content, browser, tmp_path):
    show(browser, tmp_path, page(content))
    red = []
    for _ in range(2):
        browser.drag(".scene", (60, 0))
        browser.move_away()
        picture = np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("RGB")).astype(int)
        red.append((picture[..., 0] > 200) & (picture[..., 1:].max(2) < 60))
    assert min(red[0].sum(), red[1].sum()) > 200 and (red[0] != red[1]).sum() > 200
    assert browser.errors == []


def test_one_panel_is_open_at_a_time(content, browser, tmp_path):
    show(browser, tmp_path, page(content))
    for number in (1, 2, 0):
        browser.evaluate(f"document.querySelectorAll('summary')[{number}].click()")
        browser.wait_for("document.querySelectorAll('details[open]').length === 1")
        deadline = time.monotonic() + 60
        while drawn(browser) != [k // 2 == number for k in range(6)]:
            assert time.monotonic() < deadline, drawn(browser)
            time.sleep(0.1)
    assert browser.errors == []


def test_another_script_is_refused_and_seen(content, browser, tmp_path):
    """The check of the console is able to fail: a script without a hash does not run, and the browser says so."""
    show(browser, tmp_path, page(content).replace("<body>", "<body><script>window.strange = 1</script>"))
    assert browser.evaluate("window.strange === undefined")
    assert any("Content Security Policy" in error for error in browser.errors)
