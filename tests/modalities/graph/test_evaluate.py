"""`core.evaluate` on graphs as a user meets it: labels of nodes and of graphs, and what the papers' protocols give."""

import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from sklearn.linear_model import LogisticRegression

from core import evaluate, load_encoder, train
from core.config import compose
from core.config.build import build
from core.config.files import choices
from core.errors import UserError
from core.evaluation.published import Published, spread
from core.evaluation.verdicts import SUPERVISED
from modalities.graph.evaluation import PooledVectors, features, node_accuracy
from modalities.graph.formats.files import read
from modalities.graph.graphs import Graphs, induced_subgraph, join
from modalities.graph.reader import GraphReader, GraphSource
from modalities.graph.sampling import write
from modalities.graph.transfer import FineTuning
from tests.modalities.graph.chains import molecule

TINY = [
    "modality=graph",
    "data=folder",
    "method.encoder.width=16",
    "engine.workers=0",
    "precision=fp32",
    "batch_size=1",
]
PROBE = "published={_target_: modalities.graph.evaluation.NodeProbe, lr: 0.05, weight_decay: 0.0, epochs: 40}"
VECTORS = "published={_target_: modalities.graph.evaluation.PooledVectors, pool: sum}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One graph whose nodes have classes and a split, many graphs with a class each; a short run on either."""
    folder, rng = tmp_path_factory.mktemp("graphs"), np.random.default_rng(0)
    y = np.arange(120) % 3
    edges = np.concatenate([rng.choice(np.flatnonzero(y == c), (2, 80)) for c in range(3)], 1)
    flag = {name: (np.arange(120) // 3) % 4 == i for i, name in enumerate(("train", "val", "test"))}
    x = np.eye(3)[y] + rng.normal(0, 0.7, (120, 3))
    masks = {f"{name}_mask": each for name, each in flag.items()}
    np.savez(folder / "nodes.npz", x=x.astype(np.float32), edge_index=edges, y=y, **masks)
    graphs = []
    for i in range(40):
        x = torch.from_numpy(rng.normal(1.5 * (i % 2), 1, (5 + i % 3, 3))).float()
        graphs.append({"x": x, "edge_index": torch.tensor([[0, 1], [1, 2]]), "y": torch.tensor([i % 2])})
    torch.save(graphs, folder / "many.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LACUNA_CACHE", str(folder / "cache"))
        for name, root, way in (("nodes", "nodes.npz", PROBE), ("many", "many.pt", VECTORS)):
            wanted = [f"data.root={folder / root}", "modality.features=3", "steps=2", f"run_dir={folder / name}", way]
            assert train.main([*TINY, *wanted]) == 0
        yield folder


def run(capsys, *argv):
    """Exit code, what went to stderr and stdout, and the JSON of the last line."""
    capsys.readouterr()
    code = evaluate.main([*argv, "--json"])
    out, err = capsys.readouterr()
    return code, err, out, json.loads(out.splitlines()[-1]) if code == 0 else None


@pytest.mark.parametrize("task", ["knn", "linear", "svm"])
def test_nodes_are_told_apart_on_the_split_that_came_with_them(place, capsys, task):
    code, err, out, record = run(capsys, f"run={place / 'nodes'}", f"task={task}", "seeds=2")
    assert code == 0, err
    section = record["figures"]["token"]
    assert record["counts"] == {"train": 30, "test": 30, "skipped": 0} and section["tested"] == 30
    assert record["protocol"]["split"] == "as given" and "token: accuracy on 30 test samples, 3 classes" in out
    assert section["accuracy"]["value"] > 0.5 > section["baselines"]["majority class"]["value"]
    assert {"random init", "PCA of raw input"} <= section["baselines"].keys()


def test_an_encoder_is_fine_tuned_on_nodes(place, capsys):
    """Beside training from scratch, which a probe can have beside it too; nothing is learned from test nodes."""
    argv = [f"run={place / 'nodes'}", "seeds=1", "epochs=150"]
    code, err, _, record = run(capsys, *argv, "task=finetune")
    assert code == 0, err
    section = record["figures"]["token"]
    assert section["tested"] == 30 and section["accuracy"]["value"] > 0.85
    assert section["baselines"].keys() == {"majority class", "random init", SUPERVISED}
    assert "150 epochs of 1" in record["protocol"][SUPERVISED]  # one graph
    code, err, _, probed = run(capsys, *argv, "task=linear", "supervised=true")
    assert code == 0, err
    assert probed["figures"]["token"]["baselines"][SUPERVISED] == section["baselines"][SUPERVISED]


def test_the_raw_baseline_of_nodes_are_their_features(place, capsys):
    """Three columns: their components say what they say, up to a rotation, which regression does not mind."""
    record = run(capsys, f"run={place / 'nodes'}", "task=linear", "seeds=1")[3]
    data = read(str(place / "nodes.npz"))
    x, y = data.graphs[0].x.numpy(), data.nodes.numpy()
    fit, test = data.splits["train"].numpy(), data.splits["test"].numpy()
    expected = LogisticRegression(C=10).fit(x[fit], y[fit]).score(x[test], y[test])
    assert record["figures"]["token"]["baselines"]["PCA of raw input"]["value"] == pytest.approx(expected, abs=0.07)


def test_graphs_without_a_split_are_tested_in_folds(place, capsys):
    code, err, out, record = run(capsys, f"run={place / 'many'}", "task=linear", "seeds=2", "folds=4")
    assert code == 0, err
    assert record["figures"]["label"]["tested"] == 40 and record["counts"]["train"] == 40
    assert "split: 4 folds over all 40 labelled samples, by class; the data mark none to test" in out
    assert "has read 40 of them" in out


def test_support_vectors_are_those_of_the_papers(place, capsys):
    """task=svm is task=published for graphs, with baselines and intervals: the same folds get the same right."""
    asked = run(capsys, f"run={place / 'many'}", "task=svm", "pool=sum", "seeds=1")[3]
    code, err, out, record = run(capsys, f"run={place / 'many'}", "task=published")
    assert code == 0, err
    assert asked["figures"]["label"]["accuracy"]["value"] == pytest.approx(record["figures"]["final"]["mean"])
    assert len(record["each"][0]["folds"]) == 10 and "final, random init" in out


def test_published_figures_of_several_runs(place, capsys):
    given = f"run=[{place / 'nodes'},{place / 'nodes'}]"
    code, err, out, record = run(capsys, given, "task=published")
    assert code == 0, err
    (file,) = (place / "nodes" / "evaluation").glob("published-2runs-*.json")
    saved = json.loads(file.read_text())
    assert record == saved and len(record["each"]) == 2 and record["each"][0] == record["each"][1]
    final = record["figures"]["final"]
    assert final == {"mean": record["each"][0]["final"], "deviation": 0.0, "half_interval": 0.0}
    assert final["mean"] > 0.5 and len(record["each, random init"]) == 2 and "final" in record["random init"]
    assert "mean of 2 run(s)" in out and f"final {100 * final['mean']:.2f} ± 0.00" in " ".join(out.split())


def test_settings_of_a_protocol_can_be_changed(place, capsys):
    record = run(capsys, f"run={place / 'nodes'}", "task=published", "published.epochs=1")[3]
    assert record["protocol"]["epochs"] == 1
    _, err, _, _ = run(capsys, f"run={place / 'nodes'}", "task=published", "published.epoch=1")
    assert "epoch" in err and "epochs" in err


@pytest.mark.parametrize(
    ("name", "argv", "said"),
    [
        ("nodes", ["task=knn", "train=5"], "train=5 counts samples"),
        ("many", ["task=linear", "folds=30"], "the largest class has 20"),
        ("nodes", ["task=published", "compare_to=x"], "takes no compare_to="),
        ("nodes", ["task=published", "published=null"], "does not say how a paper measured it"),
        ("many", ["task=published", PROBE], "one graph with a class per node"),
        ("nodes", ["task=published", VECTORS], "a class per graph"),
        ("many", ["task=published", "data=world"], "data=folder data.root="),
    ],
)
def test_what_does_not_fit_is_refused(place, capsys, name, argv, said):
    code, err, _, _ = run(capsys, f"run={place / name}", *argv)
    assert code == 2 and said in err, err


def test_a_run_says_what_comes_next(place, capsys):
    capsys.readouterr()
    wanted = [f"data.root={place / 'nodes.npz'}", "modality.features=3", "steps=2", f"run_dir={place / 'nodes'}"]
    assert train.main([*TINY, *wanted]) == 0  # without the protocol: it changes nothing of a run
    assert "task=knn" in capsys.readouterr().out
    assert train.main([*TINY, *wanted, PROBE]) == 0
    assert "task=published" in capsys.readouterr().out


def test_molecules_are_fine_tuned_by_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path / "cache"))
    rng, dicts = np.random.default_rng(0), []
    for i in range(120):
        one = molecule([7 if i % 2 else 5, *rng.choice([5, 6], 4).tolist()])
        kept = one.edge_index[0] != one.edge_index[1]
        answers = {"y": torch.tensor([[1.0 if i % 2 else -1.0]]), "scaffold": str(i // 2)}
        dicts.append({"x": one.x, "edge_index": one.edge_index[:, kept], "edge_attr": one.edge_attr[kept], **answers})
    torch.save(dicts, tmp_path / "molecules.pt")
    data = [f"data.root={tmp_path / 'molecules.pt'}", "batch_size=20", "steps=2", "engine.workers=0"]
    assert train.main(["experiment=graphmae_zinc", *data, "method.encoder.width=16", f"run_dir={tmp_path / 'r'}"]) == 0
    settings = [f"published.{text}" for text in ("epochs=12", "batch_size=8", "lr=5e-3", "drop=0.1")]
    code, err, _, record = run(capsys, f"run={tmp_path / 'r'}", "task=published", *settings)
    assert code == 0, err
    assert record["figures"]["final"]["mean"] > 0.9


def test_several_labels_a_node_have_baselines_intervals_and_a_verdict(tmp_path, capsys, monkeypatch):
    """Two labels which two features tell, and one that nothing tells; whole graphs are split, as in PPI."""
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path / "cache"))
    rng, graphs = np.random.default_rng(0), []
    for i in range(10):
        y = (rng.random((30, 3)) < 0.4).astype("f4")
        x = np.concatenate([y[:, :2] + rng.normal(0, 0.2, (30, 2)), rng.normal(0, 1, (30, 1))], 1)
        part = "train" if i < 6 else "val" if i < 7 else "test"
        flags = {f"{name}_mask": torch.full((30,), name == part) for name in ("train", "val", "test")}
        edges = torch.zeros(2, 0, dtype=torch.long)
        graphs.append({"x": torch.from_numpy(x).float(), "edge_index": edges, "y": torch.from_numpy(y), **flags})
    torch.save(graphs, tmp_path / "ppi.pt")
    given = [f"data.root={tmp_path / 'ppi.pt'}", "modality.features=3", "steps=2", f"run_dir={tmp_path / 'run'}", PROBE]
    assert train.main([*TINY, *given]) == 0
    argv = [f"run={tmp_path / 'run'}", "seeds=1", "epochs=5"]
    for task in ("knn", "linear", "finetune"):
        code, err, out, record = run(capsys, *argv, f"task={task}")
        assert code == 0, err
        section = record["figures"]["token"]
        assert record["counts"] == {"train": 180, "test": 90, "skipped": 0}
        assert section["metric"] == "micro_f1" and section["answers"] == 3 and section["verdict"]["result"]
        assert {"share of yes in training", "random init"} < section["baselines"].keys()
        assert "token: micro_f1 on 90 test samples, 3 answers" in out
        if task != "finetune":
            raw = section["baselines"]["PCA of raw input"]
            assert raw["value"] > 0.7 > section["baselines"]["share of yes in training"]["value"] == 0
            assert raw["low"] < raw["value"] < raw["high"]
    told = run(capsys, *argv, "task=linear", "metric=roc_auc")[3]["figures"]["token"]
    assert told["baselines"]["PCA of raw input"]["value"] == pytest.approx(2.5 / 3, abs=0.08)  # 1, 1 and a coin
    assert told["baselines"]["share of yes in training"]["value"] == 0.5


def test_molecules_have_baselines_intervals_and_a_verdict(tmp_path, capsys, monkeypatch):
    """Folds and intervals are of whole scaffolds; the second question is rarely answered."""
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path / "cache"))
    rng, dicts = np.random.default_rng(0), []
    for i in range(60):
        one = molecule([7 if i % 2 else 5, *rng.choice([5, 6], 4).tolist()])
        kept = one.edge_index[0] != one.edge_index[1]
        answers = [1.0 if i % 2 else -1.0, float(rng.choice([-1, 0, 0, 1]))]
        parts = {"x": one.x, "edge_index": one.edge_index[:, kept], "edge_attr": one.edge_attr[kept]}
        dicts.append({**parts, "y": torch.tensor([answers]), "scaffold": str(i // 3)})
    torch.save(dicts, tmp_path / "molecules.pt")
    data = ["data=folder", f"data.root={tmp_path / 'molecules.pt'}", "batch_size=20", "steps=2", "engine.workers=0"]
    assert train.main(["experiment=graphmae_zinc", *data, "method.encoder.width=16", f"run_dir={tmp_path / 'r'}"]) == 0
    argv = [f"run={tmp_path / 'r'}", "metric=roc_auc", "seeds=1"]
    code, err, _, record = run(capsys, *argv, "task=linear")
    assert code == 0, err
    section = record["figures"]["label"]
    assert record["protocol"]["split"].startswith("5 folds of whole groups (20 groups)") and section["tested"] == 60
    assert 0.5 < section["roc_auc"]["low"] < section["roc_auc"]["high"]
    assert section["baselines"]["share of yes in training"]["value"] == 0.5
    assert section["baselines"].keys() == {"share of yes in training", "random init", "random init, whitened"}
    tuned = run(capsys, *argv, "task=finetune", "epochs=1", "folds=2")[3]
    assert 0 < tuned["figures"]["label"]["roc_auc"]["value"] <= 1


EXPERIMENTS = [name for name in choices("experiment") if name.startswith("graphmae")]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_say_how_they_are_measured(name):
    """Those on graphs that are sampled from disk come without labels."""
    config = compose([f"experiment={name}", "data.root=none"])
    if config["data"]["name"] == "graph_sampled":
        assert config["published"] is None
        return
    way = build(config["published"], kind=Published)
    assert isinstance(way, PooledVectors) == (config["method"]["name"] == "graphmae_gin")
    assert isinstance(way, FineTuning) == (name == "graphmae_zinc")


def test_inductive_data_keep_nodes_from_training(place, capsys):
    """Training sees 30 nodes and their links; testing the whole graph, whose training nodes are not asked again."""
    wanted = [f"data.root={place / 'nodes.npz'}", "modality.features=3", "steps=2", f"run_dir={place / 'inductive'}"]
    assert train.main([*TINY, *wanted, PROBE, "data.source.inductive=true"]) == 0
    source, reader = GraphSource(str(place / "nodes.npz"), inductive=True), GraphReader()
    (seen,), (whole,) = source.items("train"), source.items("test")
    data = read(str(place / "nodes.npz"))
    kept = data.splits["train"]
    assert torch.equal(reader.read(seen, True).x, data.graphs[0].x[kept]) and len(reader.read(whole, False).x) == 120
    code, err, _, record = run(capsys, f"run={place / 'inductive'}", "task=linear", "seeds=1")
    assert code == 0, err
    assert record["counts"] == {"train": 30, "test": 30, "skipped": 0} and record["figures"]["token"]["tested"] == 30
    figures = run(capsys, f"run={place / 'inductive'}", "task=published")[3]["each"][0]
    encoder = load_encoder(place / "inductive")
    assert figures == node_accuracy(encoder, data, lr=0.05, weight_decay=0.0, epochs=40, inductive=True)
    code, err, _, _ = run(capsys, f"run={place / 'inductive'}", "task=knn", f"data.root={place / 'many.pt'}")
    assert code == 2 and "holds 40 with no splits" in err


def test_the_graph_between_some_nodes():
    """As if it had been made of them alone."""
    drawn = torch.Generator().manual_seed(0)
    x, edges = torch.rand(9, 3, generator=drawn), torch.randint(9, (2, 30), generator=drawn)
    attr, kept = torch.rand(30, 2, generator=drawn), torch.tensor([1, 0, 1, 1, 0, 1, 0, 1, 1]).bool()
    inside = kept[edges].all(0)
    number = torch.cumsum(kept, 0) - 1
    alone = Graphs.of(x[kept], number[edges[:, inside]], edge_attr=attr[inside])
    found = induced_subgraph(Graphs.of(x, edges, edge_attr=attr), kept)
    assert torch.equal(found.x, alone.x) and torch.equal(found.edge_index, alone.edge_index)
    assert torch.equal(found.edge_attr, alone.edge_attr) and found.counts == (6,)


def test_roots_of_a_sampled_graph_are_asked_about(tmp_path, capsys, monkeypatch):
    """Two rings of nodes with unlike features; one node's class is not known."""
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path / "cache"))
    y, rng = np.arange(60) % 2, np.random.default_rng(0)
    ring = np.stack([np.arange(60), (np.arange(60) + 2) % 60])
    write(
        tmp_path / "big", np.concatenate([ring, ring[::-1]], 1), (y[:, None] + rng.normal(0, 0.3, (60, 3))).astype("f4")
    )
    wanted = [
        "data=graph_sampled",
        f"data.root={tmp_path / 'big'}",
        "modality.features=3",
        f"run_dir={tmp_path / 'run'}",
    ]
    assert train.main([*TINY, *wanted, "steps=2", "batch_size=4"]) == 0
    asked = [f"run={tmp_path / 'run'}", "task=linear", "pool=first", "seeds=1", "data.source.labelled=true"]
    assert "lacks labels.npy, train.npy, test.npy" in run(capsys, *asked)[1]
    for name, array in (
        ("labels", np.where(np.arange(60) == 59, -1, y)),
        ("train", np.arange(30)),
        ("test", np.arange(30, 60)),
    ):
        np.save(tmp_path / "big" / f"{name}.npy", array)
    code, err, _, record = run(capsys, *asked)
    assert code == 0, err
    section = record["figures"]["label"]
    assert section["tested"] == 29 and section["accuracy"]["value"] > 0.9 and section["classes"] == 2
    assert "no labels" in run(capsys, *asked[:-1])[1]


def test_a_run_that_leaves_no_room_for_skill_ends_well(tmp_path, capsys, monkeypatch):
    """All nodes are alike, so that their neighbours' mean is right; a latent collapses to rounding noise."""
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path / "cache"))
    x, edges = np.ones((30, 3), "f4"), np.stack([np.arange(30), (np.arange(30) + 1) % 30])
    np.savez(tmp_path / "alike.npz", x=x, edge_index=edges)
    data = [f"data.root={tmp_path / 'alike.npz'}", "modality.features=3", "steps=2", f"run_dir={tmp_path / 'run'}"]
    assert train.main([*TINY, *data, "method=graphmae2", "method.encoder.heads=2"]) == 0
    assert (tmp_path / "run" / "finished.json").exists()
    said = capsys.readouterr().out
    assert "a trivial answer has no error: no room: features/main/0" in said


def test_features_of_graphs_do_not_depend_on_their_batch(place):
    data, encoder = read(str(place / "many.pt")), load_encoder(place / "many")
    for graph, found in zip(data.graphs, features(encoder, data.graphs), strict=True):
        torch.testing.assert_close(encoder(graph).tokens[0], found)


def test_raw_content_of_graphs_and_nodes():
    x = torch.arange(12.0).view(4, 3)
    both = join([Graphs.of(x[:1], torch.zeros(2, 0).long()), Graphs.of(x[1:], torch.zeros(2, 0).long())])
    assert torch.equal(GraphReader().raw_features(both, by_token=True), x)
    assert torch.equal(GraphReader().raw_features(both, by_token=False), torch.stack([x[0], x[1:].mean(0)]))
    assert GraphReader().raw_features(molecule([5, 6]), by_token=False) is None


def test_spread_of_figures():
    assert spread([0.5]) == {"mean": 0.5, "deviation": 0.0, "half_interval": None}
    found = spread([1.0, 3.0])
    assert (found["mean"], found["deviation"]) == (2.0, 1.0)
    assert found["half_interval"] == pytest.approx(12.706 * 2**0.5 / 2**0.5, abs=1e-3)


def test_a_config_of_a_run_keeps_its_protocol(place):
    saved = OmegaConf.to_container(OmegaConf.load(place / "nodes" / "config.yaml"))
    assert saved["published"]["_target_"].endswith("NodeProbe")


@pytest.mark.parametrize(
    ("mean", "verdict"), [(50.0, "within the published figure"), (130.0, "worse than the published figure")]
)
def test_a_published_figure_stands_beside_ours(place, capsys, mean, verdict):
    """Two runs that are alike have an interval of no width; 130 % is beyond any accuracy."""
    reported = f"{{mean: {mean}, deviation: 0.5, seeds: 7, metric: accuracy, source: A. Paper (2020)}}"
    given = [f"run=[{place / 'nodes'},{place / 'nodes'}]", f"published.reported={reported}"]
    code, err, out, record = run(capsys, *given, "task=published")
    assert code == 0, err
    text = " ".join(out.split())
    assert f"published: {mean:g} ± 0.5 % accuracy over 7 seeds. Source: A. Paper (2020)" in text
    assert "A linear probe of frozen node features" in text
    assert f"\n{verdict}: " in out and record["protocol"]["reported"]["seeds"] == 7


def test_one_training_cannot_be_told_from_a_published_figure(place, capsys):
    _, _, out, _ = run(capsys, f"run={place / 'nodes'}", "task=published", "published.reported={mean: 50.0}")
    assert "\nnot resolvable: one training has no interval" in out


def test_experiments_hold_their_published_figures():
    """Every figure of a file's first line is in its config, for code to read."""
    for name in choices("experiment"):
        config = compose([f"experiment={name}", "data.root=none"])
        if config["published"] is None or name in ("graphmae_zinc", "graphmae_photo", "graphmae_computers"):
            continue
        first = choices("experiment")[name].read_text().partition("\n")[0]
        reported = config["published"]["reported"]
        mean, _, deviation = first.partition(": ")[2].partition(" ± ")
        assert reported["mean"] == float(mean) and reported["deviation"] == float(deviation.split()[0]), name
        assert isinstance(build(dict(config["published"])), Published)


@pytest.mark.parametrize(
    ("experiment", "place_of_data"), [("graphmae_cora", "planetoid"), ("mae_base_imagenet", "image-net.org")]
)
def test_without_data_an_experiment_says_where_they_are(experiment, place_of_data):
    with pytest.raises(UserError, match=rf"data.root=<value>. The data of experiment={experiment} .*{place_of_data}"):
        compose([f"experiment={experiment}"])
