"""`data=folder` of graphs: one place in a known form, many files of one graph each, and which is which."""

import zipfile

import numpy as np
import pytest
import torch

from core import train
from core.config import compose
from core.config.build import build
from core.data.opening import open_source
from core.data.sources import Item
from core.errors import BadSample, UserError
from modalities.graph.formats import files
from modalities.graph.reader import GraphReader, GraphSource, collection


@pytest.fixture(autouse=True)
def no_cache():
    files.read.cache_clear()


def save_graph(path, value: float, label: int | None = None) -> None:
    """A chain of three nodes whose features are all `value`."""
    path.parent.mkdir(exist_ok=True, parents=True)
    arrays = {"x": np.full((3, 2), value, np.float32), "edge_index": np.array([[0, 1], [1, 2]])}
    np.savez(path, **arrays, **({} if label is None else {"y": np.array([label])}))


@pytest.fixture
def many(tmp_path):
    """Ten files in two folders of classes."""
    for number in range(10):
        save_graph(tmp_path / "many" / "ab"[number % 2] / f"{number}.npz", float(number))
    return tmp_path / "many"


def features(source: GraphSource, split: str) -> list[float]:
    reader = GraphReader()
    return sorted(float(reader.read(item, True).x.mean()) for item in source.items(split))


def test_many_files_hold_one_graph_each(many):
    source = GraphSource(str(many), holdout=0.3)
    train_values, test_values = features(source, "train"), features(source, "test")
    assert sorted(train_values + test_values) == list(range(10)) and test_values
    assert source.classes == {"label": ["a", "b"]} and "does not read" in source.held_out and not source.keep_last
    assert {item.labels["label"] for item in source.items("train")} == {0, 1}


def test_many_files_in_an_archive(many, tmp_path):
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for file in sorted(many.rglob("*.npz")):
            archive.write(file, file.relative_to(many))
    assert features(GraphSource(str(tmp_path / "many.zip"), holdout=0.0), "train") == list(range(10))


def test_one_file_is_one_place(tmp_path):
    save_graph(tmp_path / "one" / "graph.npz", 4.0)
    for root in (tmp_path / "one", tmp_path / "one" / "graph.npz"):
        source = GraphSource(str(root))
        assert features(source, "train") == features(source, "test") == [4.0] and source.keep_last
    assert not GraphSource(str(root), keep_last=False).keep_last


def test_the_modality_opens_a_folder(many, tmp_path):
    save_graph(tmp_path / "one.npz", 1.0)
    for root in (many, tmp_path / "one.npz"):
        overrides = ["modality=graph", "data=folder", f"data.root={root}", "data.source.split_seed=3"]
        reader, source = open_source(compose(overrides))
        assert isinstance(source, GraphSource) and isinstance(reader, GraphReader) and source.root == str(root)
    images = compose(["modality=image", "data=folder", f"data.root={many}"])
    assert images["data"]["source"]["_target_"] == "core.data.folder.FolderSource"


def test_a_run_on_generated_graphs_can_be_evaluated_on_a_known_form(many):
    """Another data.root is all that it takes, and molecules keep the bonds of their self-loops."""
    config = compose(["experiment=graphmae_zinc", f"data.root={many}"])
    assert build(config["modality"]["reader"]).loop == (4, 0)
    assert config["data"]["source"]["_target_"] == "modalities.graph.reader.GraphSource"


def test_one_graph_makes_a_step_of_every_batch_size(tmp_path, monkeypatch):
    """The last, smaller batch counts: without it, an epoch of three graphs in batches of two would leave one out."""
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path / "cache"))
    graph = {"x": torch.rand(4, 3), "edge_index": torch.tensor([[0, 1], [1, 2]])}
    torch.save([graph] * 3, tmp_path / "three.pt")
    settings = [f"data.root={tmp_path / 'three.pt'}", "modality.features=3", "epochs=1", "batch_size=2"]
    small = ["method.encoder.width=16", "engine.workers=0", "precision=fp32", f"run_dir={tmp_path / 'run'}"]
    assert train.main(["modality=graph", "data=folder", *settings, *small]) == 0
    assert '"step": 2' in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("setting", ["directed=true", "inductive=true", "scaling=sum"])
def test_settings_of_one_place_are_refused_for_many_files(many, setting):
    config = compose(["modality=graph", "data=folder", f"data.root={many}", f"data.source.{setting}"])
    with pytest.raises(UserError, match="graphs of one place"):
        open_source(config)[1].items("train")


def test_places_without_graphs_are_refused(tmp_path):
    for name, message in (("nowhere", "does not exist"), (".", "It is empty.*Planetoid")):
        with pytest.raises(UserError, match=message):
            GraphSource(str(tmp_path / name)).items("train")


def test_a_damaged_zip_is_named(tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"the archive .*bad\.zip cannot be read"):
        GraphSource(str(tmp_path / "bad.zip")).items("train")


def test_a_file_of_several_graphs_among_others_is_several_samples(many):
    graph = {"x": torch.full((3, 2), 20.0), "edge_index": torch.zeros(2, 0, dtype=torch.long)}
    torch.save([graph, graph | {"x": graph["x"] + 1}], many / "a" / "pair.pt")
    source = GraphSource(str(many), holdout=0.0)
    assert features(source, "train") == [*range(10), 20, 21]
    keys = [item.key for item in source.items("train") if "pair" in item.key]
    assert keys == ["a/pair.pt#000000", "a/pair.pt#000001"]
    with pytest.raises(BadSample, match="holds 2 graphs"):  # an item without a number
        GraphReader().read(Item("pair.pt", str(many / "a" / "pair.pt")), True)


def test_published_figures_need_one_place(many):
    with pytest.raises(UserError, match=r"data=folder data\.root="):
        collection(GraphReader(), GraphSource(str(many)))


def test_the_name_of_before_leads_to_the_new_one():
    with pytest.raises(UserError, match=r"data=graph: there is no such data\. It is data=folder"):
        compose(["modality=graph", "data=graph", "data.root=x"])


def write_edges(folder, text: str) -> str:
    folder.mkdir()
    (folder / "edges.csv").write_text(text)
    return str(folder)


def test_the_account_of_one_graph(tmp_path):
    account = GraphSource(write_edges(tmp_path / "g", "ann,bea\nbea,ann\nann,bea\nbea,bea\n")).account()
    assert account.samples == {"train": 1, "test": 1} and "the held-out graph is the training graph" in account.split_by
    assert account.tables == {"node ids": ["ann", "bea"]} and not account.labels
    assert {fault.reason: fault.count for fault in account.passed_over} == {
        "an edge that is listed again": 1, "an edge from a node to itself, which every node has": 1
    }  # fmt: skip
    assert any("numbered" in note for note in account.notes) and any("degrees" in note for note in account.notes)


def test_the_account_of_many_graphs(tmp_path):
    graph = {"x": torch.rand(4, 3), "edge_index": torch.tensor([[0, 1], [1, 2]]), "y": torch.tensor([1])}
    torch.save([graph] * 10, tmp_path / "ten.pt")
    root = str(tmp_path / "ten.pt")
    account = GraphSource(root).account()
    assert (
        account.samples == {"train": 10, "test": 10} and "held-out graphs are the training graphs" in account.split_by
    )
    assert account.labels == {"label": "`y` of the file"} and account.classes == {"label": ["0", "1"]}
    account = GraphSource(root, holdout=0.2).account()
    assert account.samples == {"train": 8, "test": 2} and "every 5th graph is held out" in account.split_by


def test_the_account_of_labelled_nodes(tmp_path):
    graph = {"x": torch.rand(3, 2), "edge_index": torch.tensor([[0], [1]]), "train_mask": torch.tensor([1, 0, 0])}
    torch.save(graph | {"y": torch.tensor([0.5, 0.1, 2.0])}, tmp_path / "real.pt")
    account = GraphSource(str(tmp_path / "real.pt")).account()
    assert account.labels == {"node": "`y` of the file: real numbers"} and "train_mask" in account.split_by


@pytest.mark.parametrize(
    ("count", "nodes", "settings"),
    [
        (1, 5, {"modality.features": 3, "optim.lr": 1e-3, "batch_size": 1, "steps": 1000}),
        (3, 5, {"modality.features": 3, "optim.lr": 1e-3, "batch_size": 1}),
        (40, 5, {"modality.features": 3, "optim.lr": 1e-3, "batch_size": 8}),
        (300, 5, {"modality.features": 3, "optim.lr": 1e-3}),  # 64, as everywhere
        (16, 60_000, {"modality.features": 3, "optim.lr": 1e-3, "batch_size": 1}),
    ],
)
def test_settings_follow_from_the_data(tmp_path, count, nodes, settings):
    graph = {"x": torch.ones(nodes, 3), "edge_index": torch.tensor([[0], [1]])}
    torch.save([graph] * count, tmp_path / "graphs.pt")
    source = GraphSource(str(tmp_path / "graphs.pt"))
    assert {setting.key: setting.value for setting in source.defaults()} == settings


def test_settings_of_many_files(many):
    source = GraphSource(str(many))
    settings = {setting.key: setting.value for setting in source.defaults()}
    assert settings["modality.features"] == 2 and settings["batch_size"] == 2


def test_a_place_trains_without_a_setting(tmp_path, monkeypatch, capsys):
    """No features, no batch, no name of a form: one list of friends."""
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path / "cache"))
    root = write_edges(tmp_path / "g", "ann,bea\nbea,cid\ncid,dan\n")
    small = ["method.encoder.width=16", "engine.workers=0", "precision=fp32", "steps=2", f"run_dir={tmp_path / 'run'}"]
    assert train.main(["modality=graph", "data=folder", f"data.root={root}", *small]) == 0
    out = capsys.readouterr().out
    assert "chosen: batch_size=1, as there is one graph" in out and "chosen: modality.features=2" in out
    assert "steps=1000" not in out  # steps were given
