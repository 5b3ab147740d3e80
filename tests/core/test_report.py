"""The report: one page that needs nothing else, of whatever a run has left so far."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from core.config import compose
from core.config.build import build
from core.reconstruction.pictures import Gallery, Panel, Pictures, Raster
from core.report import curves, embeddings, main, neighbours, several, tables, token_pca
from core.report.features import Encoded, Points, TokenGrids
from core.report.page import page, write_report
from core.report.samples import Samples
from core.runs import open_run, read_lines
from core.train import main as train
from tests.core.small_runs import WORLD


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of six steps."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LACUNA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        assert train([*WORLD, f"run_dir={folder / 'run'}"]) == 0
        yield folder / "run"


def test_a_misspelt_view_is_refused_before_training(tmp_path, capsys):
    assert train([*WORLD, "method.readouts.main.view=imag", f"run_dir={tmp_path / 'run'}"]) == 2
    assert "method.readouts.main.view=imag: there is no such view. Did you mean image?" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it to be changed."""
    return shutil.copytree(trained, tmp_path / "run")


class Page(HTMLParser):
    """Tags with their attributes, and text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.text, self.html = [], "", html
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(run) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def change(run, **values) -> None:
    config = OmegaConf.load(run / "config.yaml")
    for key, value in values.items():
        OmegaConf.update(config, key.replace("__", "."), value, merge=False)
    OmegaConf.save(config, run / "config.yaml")


def test_a_page_needs_nothing_from_anywhere(trained):
    shown = page_of(trained)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in shown.tags}
    for _, attributes in shown.tags:
        for name in ("src", "srcset", "href", "data", "action", "poster"):
            assert re.match(r"data:image/|#", attributes.get(name, "#")), attributes[name][:80]
    assert not re.search(r"url\(|@import|https?://", shown.html)
    assert len(shown.html) < 6e6
    images = shown.all("img")
    assert len(images) == 4 + 8 * 4 + 6 * 6 + 8 * 2
    assert all(image["alt"] and image["src"].startswith("data:image/webp;base64,") for image in images)


def test_a_page_says_what_was_run_and_how_it_went(trained):
    shown = page_of(trained)
    for words in (
        "Finished",
        "image · mae · nano",
        "6 of 6, 8 samples each",
        "M of them in the encoder",
        "config.yaml",
    ):
        assert words in shown.text
    assert f"python -m core.train config={trained}/config.yaml run_dir=" in shown.text
    assert [svg["aria-label"].partition(":")[0] for svg in shown.all("svg")][:2] == ["Loss", "Learning rate"]
    losses = [line["loss"] for line in read_lines(trained / "metrics.jsonl")]
    assert f"step 1: loss {curves.show(losses[0])}" in shown.text


def test_pictures_are_of_held_out_samples_and_say_how_they_were_made(trained):
    shown = page_of(trained)
    assert "8 of 12 test samples, drawn by a fixed seed; new to the method are samples that" in shown.text
    alts = [image["alt"] for image in shown.all("img")]
    assert all(re.search(r" of test/\d{6}$", alt) for alt in alts)
    assert {alt.partition(" of ")[0] for alt in alts[4:]} == {
        "input", "masked", "interpolation", "reconstruction", "token components",
    }  # fmt: skip
    assert "By the weights of step 6" in shown.text


def test_features_of_test_samples_lie_on_a_plane(trained):
    part = page_of(trained).html.partition('<section id="embeddings">')[2].partition("</section>")[0]
    assert "Pooled features of 12 test samples, coloured by shape" in part and "octahedron" in part
    assert part.count('r="3.2"') == 2 * 12 and "PCA (" in part and "t-SNE" in part

    # Every point shows its sample on hovering; pictures are in the page once.
    assert part.count('class="target"') == part.count("<use ") == 2 * 12 and part.count("<image ") == 12
    assert set(re.findall(r'href="#(sample\d+)"', part)) == set(re.findall(r'id="(sample\d+)"', part))
    assert re.search(r"<title>test/\d{6}, \w+</title>", part)


def test_points_keep_their_distances_and_colours():
    points = Points(np.zeros((3, 4)), np.array([0, 1, -1]), names=["<a>", "b"], note="")
    html = embeddings.scatter("x", np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), points)
    at = np.array(re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', html), dtype=float)
    assert at[1, 0] - at[0, 0] == 2 * (at[0, 1] - at[2, 1]) > 0  # pixels count downwards
    assert len(set(re.findall(r'fill="([^"]+)"', html))) == 3
    assert "&lt;a&gt;" in embeddings.legend(points)


def test_the_same_run_gives_the_same_page(trained):
    assert page_of(trained).html == page_of(trained).html


def test_skill_is_shown_with_its_interval(trained):
    shown = page_of(trained)
    figure = json.loads((trained / "evaluation" / "reconstruction.json").read_text())["figures"]["pixels"]["object"]
    assert tables.interval(figure["skill"]) in shown.text
    assert {"total", "object", "background"} <= {text.strip() for text in re.findall(r">([^<>]+)</td>", shown.html)}


def test_an_unfinished_run_says_so(run):
    (run / "finished.json").unlink()
    change(run, steps=50)
    shown = page_of(run)
    assert "Unfinished: step 6 of 50; the pictures are by its newest checkpoint, of step 6" in shown.text
    assert len(shown.all("img")) == 36 + 36 + 16


def test_a_run_that_gives_epochs_knows_its_steps(run):
    change(run, steps=None, epochs=10)
    assert open_run(run).steps == 40
    assert (open_run(run).progress.epoch, open_run(run).progress.epochs) == (1.5, 10)


def test_a_run_that_just_began_has_a_page_without_pictures(run):
    for name in ("checkpoints", "evaluation"):
        shutil.rmtree(run / name)
    for name in ("metrics.jsonl", "finished.json"):
        (run / name).unlink()
    shown = page_of(run)
    for words in ("Unfinished: step 0 of 6", "Nothing is logged yet", "no checkpoint yet", "None yet"):
        assert words in shown.text
    assert shown.all("img") == []


def test_what_a_run_stopped_of_is_shown(run):
    (run / "finished.json").unlink()
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"kind": "stop", "step": 7, "reason": "loss not finite", "keys": []}) + "\n")
    assert "Stopped in step 7: loss not finite" in page_of(run).text


def test_missing_data_cost_the_pictures_alone(run):
    change(run, data={"name": "folder", "root": "/nowhere", "cache_mb": 0})
    change(run, data__source={"_target_": "core.data.folder.FolderSource", "root": "/nowhere"})
    shown = page_of(run)
    assert "Pictures are missing:" in shown.text and "/nowhere" in shown.text
    assert shown.all("svg") and not shown.all("img")


def test_names_from_files_cannot_change_the_page(run):
    attack = '<script>alert(1)</script><img src="https://example.org/x.png">'
    with open(run / "metrics.jsonl", "a") as file:
        for step in (2, 3):
            file.write(json.dumps({"kind": "skip", "step": step, "key": attack, "reason": "empty & <b>bad</b>"}) + "\n")
        file.write('{"kind": "train", "step"')  # a line that is being written
    shown = page_of(run)
    assert attack in shown.text and "empty & <b>bad</b>" in shown.text
    assert "script" not in {tag for tag, _ in shown.tags} and len(shown.all("img")) == 36 + 36 + 16
    assert "A sample was skipped, 2 times in all." in shown.text


def test_names_of_samples_cannot_change_the_page(trained):
    attack = '"><script>alert(1)</script>'
    raster = Raster(attack, attack, b"", (8, 8))
    panels = [Panel(attack, [raster]), Panel(attack, [raster], "rows")]
    gallery = Gallery(panels, panels, [attack])
    samples = Samples(gallery=gallery, notes=[attack], skipped=[(attack, attack)])
    shown = Page(page(open_run(trained), samples, Encoded(reason=attack)))
    assert "script" not in {tag for tag, _ in shown.tags}
    assert [image["alt"] for image in shown.all("img")] == 4 * [attack]


def test_no_run_is_the_users_error(tmp_path, capsys):
    assert main([f"run={tmp_path / 'nothing'}"]) == 2
    assert str(tmp_path / "nothing") in capsys.readouterr().err
    assert main(["rnu=x"]) == 2
    assert "run" in capsys.readouterr().err
    assert main([]) == 2
    assert "run=" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_the_users_error(run, capsys):
    (run / "checkpoints" / "step_00000006" / "model.safetensors").write_bytes(b"cut")
    assert main([f"run={run}"]) == 2
    assert "step_00000006, is damaged" in capsys.readouterr().err


def test_the_command_says_what_it_wrote(run, capsys):
    assert main([f"run={run}"]) == 0
    assert f"Wrote {run / 'report.html'}" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "run=<run>" in capsys.readouterr().out


@pytest.mark.parametrize("modality", ["image", "video"])
def test_modalities_name_their_pictures(modality):
    assert isinstance(build(compose([f"modality={modality}"])["modality"]["pictures"]), Pictures)


def test_a_report_may_draw_its_pictures_otherwise(run):
    """Of three channels one: pictures are grey; the run's own config stays, and stands in the page."""
    assert main([f"run={run}", "modality.pictures.shown=[0]"]) == 0
    html = (run / "report.html").read_text(encoding="utf-8")
    data = re.search(r'alt="input of [^"]*" src="data:image/webp;base64,([^"]*)"', html).group(1)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    assert (picture[..., 0] == picture[..., 2]).all() and picture.std() > 0
    for config in ((run / "config.yaml").read_text(), html.partition('id="config"')[2]):
        assert "shown: null" in config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=3", "may set modality.pictures.<setting> only"),
        ("modality.size=[8,8]", "takes its run as it is"),
        ("modality.pictures.shonw=[0]", "shown"),
    ],
)
def test_a_report_takes_its_run_as_it_is(trained, capsys, override, message):
    assert main([f"run={trained}", override]) == 2
    assert message in capsys.readouterr().err


def test_long_lines_keep_their_spikes():
    x = list(range(1, 5001))
    y = [1.0] * 5000
    y[2500] = 90.0
    points = curves.thin(x, y)
    assert len(points) <= curves.BINS
    assert max(p.high for p in points) == 90.0 and points[-1].x == 5000
    assert "polygon" in curves.chart("Loss", x, {"loss": y})


def test_lines_leave_out_what_is_no_number():
    points = curves.thin([1, 2, 3, 4], [1.0, None, float("nan"), 2.0])
    assert [(p.x, p.mean) for p in points] == [(1, 1.0), (4, 2.0)]
    assert curves.chart("Loss", [1, 2], {"loss": [None, float("inf")]}) == ""


def test_one_point_is_drawn():
    assert "circle" in curves.chart("Loss", [1], {"loss": [0.5]})


@pytest.mark.parametrize(("values", "ticks"), [([0.0, 100.0], [0, 50, 100]), ([1e-3, 1.0], [0.001, 0.01, 0.1, 1])])
def test_axes_have_round_ticks(values, ticks):
    shown = curves.chart("Loss", [1, 2], {"loss": values}, logs=True)
    assert {curves.show(tick) for tick in ticks} <= set(re.findall(r">([^<>]+)</text>", shown))


def test_higher_is_drawn_higher():
    shown = curves.chart("Loss", [1, 2, 3], {"loss": [3.0, 1.0, 2.0]})
    points = re.search(r'<polyline[^>]* points="([^"]+)"', shown).group(1).split()
    (x1, y1), (x2, y2), (x3, y3) = (map(float, point.split(",")) for point in points)
    assert x1 < x2 < x3 and y1 < y3 < y2  # pixels count downwards


def test_probes_stand_beside_their_baselines():
    figure = {"value": 0.5, "low": 0.4, "high": 0.6}
    better = {"value": 0.7, "low": 0.6, "high": 0.8}
    gap = {"value": -0.2, "low": -0.3, "high": -0.1}
    judged = {
        "result": "not resolvable at this size",
        "best_baseline": "raw & white",
        "differences": {"raw & white": gap},
        "check": True,
        "trainings": 1,
    }
    shape = {"accuracy": figure, "baselines": {"raw & white": better}, "verdict": judged, "classes": 8, "tested": 12}
    html = tables.evaluation("knn", {"task": "knn", "figures": {"shape": shape}, "protocol": {"split": "as given"}})
    assert html.index("raw &amp; white") < html.index("this run</strong>"), "the best comes first"
    for words in ("0.500 [0.400, 0.600]", "-0.200 [-0.300, -0.100]", "A first look", "split: as given"):
        assert words in html
    assert "worse than raw &amp; white" in html and "verdict bad" in html
    assert "verdict good" not in html


def test_published_figures_stand_beside_those_of_the_network_untrained():
    several = {"mean": 0.84, "deviation": 0.005, "half_interval": 0.01}
    one = {"mean": 0.7, "deviation": 0.0, "half_interval": None}
    found = {"figures": {"final": several, "chosen": one}, "random init": {"final": one}, "protocol": {"epochs": 300}}
    html = tables.evaluation("published", found)
    cells = [re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<td.*?</td>", html)]
    assert cells == ["final", "84.00 ± 0.50", "70.00", "chosen", "70.00", "-"] and "epochs: 300" in html


def test_an_evaluation_that_could_not_be_made_says_why():
    assert "no filler &lt;fits&gt;" in tables.evaluation(
        "reconstruction", {"figures": {}, "reason": "no filler <fits>"}
    )


def test_several_runs_are_one_page(trained, run, capsys):
    change(run, optim__lr=0.123)
    assert main([f"run=[{trained},{run}]"]) == 0
    path = trained / "report_2_runs.html"
    assert f"Wrote {path}" in capsys.readouterr().out
    shown = Page(path.read_text(encoding="utf-8"))
    assert "2 runs" in shown.text and "optim.lr" in shown.text and "0.123" in shown.text
    assert "{'lr'" not in shown.text, "settings that differ are leaves, no whole parts"
    assert shown.text.count("held-out skill") >= 2, "the verdicts of both stand at the top"
    assert next(svg["aria-label"].partition(":")[0] for svg in shown.all("svg")) == "Loss"
    assert len([image for image in shown.all("img") if image["alt"].startswith("reconstruction of ")]) == 8
    assert not {"script", "link", "iframe"} & {tag for tag, _ in shown.tags}
    path.unlink()


def test_more_runs_than_colours_are_dashed(trained, tmp_path, capsys):
    runs = [shutil.copytree(trained, tmp_path / f"copy{number}") for number in range(8)]
    assert main([f"run=[{','.join(map(str, runs))}]"]) == 0
    page = (runs[0] / "report_8_runs.html").read_text(encoding="utf-8")
    looks = re.findall(r'<span class="key (c\d d\d)">copy(\d)</span>', page)[:8]
    assert len({look for look, _ in looks}) == 8 and looks[7] == ("c1 d1", "7")
    assert main([f"run=[{','.join(f'{trained}/{number}' for number in range(25))}]"]) == 2
    assert "names 25 runs; one page shows up to 24" in capsys.readouterr().err


@pytest.mark.parametrize(("runs", "message"), [("[{run},{run}]", "a run twice"), ("[{run},{run}/no]", "no folder")])
def test_several_runs_that_cannot_be_shown(trained, capsys, runs, message):
    assert main([f"run={runs.format(run=trained)}"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([909.8, 910.0, 910.2], ["909.8", "910", "910.2"]),
        ([0.1, 0.2], ["0.1", "0.2"]),
        ([1.23441, 1.23443], ["1.23441", "1.23443"]),
        ([], []),
    ],
)
def test_ticks_have_digits_that_tell_them_apart(ticks, labels):
    assert curves.tick_labels(ticks) == labels


def test_names_tell_runs_apart():
    assert several.short_names(["runs/a", "runs/b"]) == ["a", "b"]
    assert several.short_names(["x/seed0/run", "x/seed1/run"]) == ["seed0/run", "seed1/run"]


def test_verdicts_stand_at_the_top(trained):
    html = write_report(trained).read_text(encoding="utf-8")
    top = html.partition("<section")[0]
    assert re.search(r'<li><span class="verdict \w+">(wins|worse than|not resolvable)[^<]*</span>: pixels', top)


def test_neighbours_are_those_of_the_greatest_cosine():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 5)).astype(np.float32)
    order, cosines = neighbours.nearest(x)
    for row in range(40):
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        others = sorted((n for n in range(40) if n != row), key=lambda n: -float(unit[n] @ unit[row]))
        assert order[row].tolist() == others[:5]
        assert cosines[row][0] == pytest.approx(float(unit[others[0]] @ unit[row]), abs=1e-5)


def test_queries_are_of_many_classes():
    points = Points(np.zeros((9, 2)), np.array([0, 0, 0, 0, 1, 1, 2, -1, -1]), names=["a", "b", "c"], note="")
    assert neighbours.queries(points) == [0, 4, 6, 7, 1, 5]


@pytest.mark.parametrize(("grid", "size"), [((6,), (192, 32)), ((4, 6), (192, 128)), ((3, 4, 4), (294, 96))])
def test_tokens_are_coloured_by_their_places(grid, size):
    """Two kinds of token have two colours, the same in every sample."""
    kinds = np.random.default_rng(0).integers(0, 2, (2, *grid))
    kinds.reshape(-1)[:2] = (0, 1)
    features = np.stack([kinds * 3.0, 1 - kinds, np.zeros_like(kinds)], -1).astype(np.float32)
    grids = TokenGrids(features=features, keys=["a", "b"], pictures=())
    colours, share = token_pca.token_colours(grids)
    assert share == pytest.approx(1, abs=1e-5) and colours.min() >= 0 and colours.max() <= 1
    for kind in (0, 1):
        assert len(np.unique(colours[kinds == kind].round(4), axis=0)) == 1
    assert abs(colours[kinds == 0][0] - colours[kinds == 1][0]).max() == pytest.approx(1)
    raster = token_pca._raster(colours[0], "a")
    assert raster.size == size


def test_plots_end_where_their_points_do():
    points = Points(np.zeros((2, 4)), np.array([0, 1]), names=["a", "b"], note="")
    for far in ([10.0, 1.0], [1.0, 10.0], [5.0, 5.0]):
        html = embeddings.scatter("x", np.array([[0.0, 0.0], far]), points)
        width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', html).groups())
        at = np.array(re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', html), dtype=float)
        gap = abs(at[1] - at[0])
        assert gap[0] / gap[1] == pytest.approx(far[0] / far[1], rel=0.05), "equal units on both axes"
        assert gap[0] > 0.9 * width or gap[1] > 0.9 * height
