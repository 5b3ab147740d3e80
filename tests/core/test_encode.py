"""Features of a user's own samples: in memory and in files, whole after a kill, none left out in silence."""

import csv
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from core import encode, open_run
from core.data.sources import Item, Source
from core.encoding import Encoding, write_encoded
from core.errors import UserError
from tests.core.small_runs import draw

WIDTH = 24  # of the encoder
CLASSES = ("class0", "class1")


@pytest.fixture(scope="module")
def expected(photo_run):
    """Features by key, each picture through the encoder by itself."""
    encoder, features = open_run(photo_run / "run").encoder(), {}
    for file in sorted((photo_run / "photos").rglob("*.png")):
        if file.name == "bad.png":
            continue
        pixels = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1)
        with torch.no_grad():
            features[file.relative_to(photo_run / "photos").as_posix()] = encoder(pixels[None]).pooled[0].numpy()
    assert len(features) == 16
    return features


def rows_of(table) -> dict[str, np.ndarray]:
    features = np.stack([np.asarray(table[f"f{number}"], dtype=np.float32) for number in range(WIDTH)], 1)
    return dict(zip(map(str, table["key"]), features, strict=True))


def read_csv(path) -> dict[str, list[str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def check_rows(rows, expected) -> None:
    assert rows.keys() == expected.keys()
    for key, features in expected.items():
        np.testing.assert_allclose(rows[key], features, atol=1e-5)


def test_a_run_encodes_a_folder_in_python(photo_run, expected):
    encoded = open_run(photo_run / "run").encode(photo_run / "photos", batch_size=5)
    assert encoded.features.shape == (16, WIDTH) and encoded.tokens is None
    check_rows(dict(zip(encoded.keys.tolist(), encoded.features, strict=True)), expected)
    for key, split, label in zip(encoded.keys, encoded.splits, encoded.labels["label"], strict=True):
        assert key.startswith(f"{split}/{label}/")
    assert [key for key, _ in encoded.skipped] == ["train/class1/bad.png"]

    table = encoded.table()
    assert list(table)[:4] == ["key", "split", "label", "f0"] and {len(column) for column in table.values()} == {16}
    check_rows(rows_of(table), expected)


@pytest.mark.parametrize("ending", ["npz", "csv", "parquet"])
def test_files_hold_the_same_rows(photo_run, expected, tmp_path, capsys, ending):
    out = tmp_path / "new" / f"features.{ending}"
    assert (
        encode.main([f"run={photo_run / 'run'}", f"data.root={photo_run / 'photos'}", f"out={out}", "batch_size=5"])
        == 0
    )

    if ending == "npz":
        arrays = dict(np.load(out, allow_pickle=False))
        table = {**arrays, **{f"f{number}": column for number, column in enumerate(arrays["features"].T)}}
    elif ending == "csv":
        table = read_csv(out)
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(out).to_pydict()

    check_rows(rows_of(table), expected)
    for key, split, label in zip(table["key"], table["split"], table["label"], strict=True):
        assert key.startswith(f"{split}/{label}/")

    lines = capsys.readouterr().out
    assert f"{out}: 16 samples (12 train, 4 test), {WIDTH} features each; labels: label." in lines
    assert "Skipped 1 samples" in lines and "train/class1/bad.png: " in lines
    assert read_csv(out.with_suffix(".skipped.csv"))["key"] == ["train/class1/bad.png"]
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name, "features.skipped.csv"] or ending == "csv"


def test_csv_gives_every_float_back(photo_run, tmp_path):
    run, out = open_run(photo_run / "run"), tmp_path / "f.csv"
    write_encoded(out, run.encoding(), lambda done: None)
    encoded, rows = run.encode(), rows_of(read_csv(out))
    assert all((rows[key] == features).all() for key, features in zip(encoded.keys, encoded.features, strict=True))


def test_one_split_and_the_runs_own_data(photo_run, tmp_path):
    encoded = open_run(photo_run / "run").encode(split="test")
    assert set(encoded.splits) == {"test"} and len(encoded.keys) == 4 and not encoded.skipped
    with pytest.raises(UserError, match="no sample for 'tests'"):
        open_run(photo_run / "run").encode(split="tests")


def test_tokens_are_rows_with_their_numbers(photo_run):
    run = open_run(photo_run / "run")
    encoded = run.encode(split="test", tokens=True, batch_size=3)
    pixels = np.asarray(Image.open(photo_run / "photos" / encoded.keys[0])).copy()
    with torch.no_grad():
        tokens = run.encoder()(torch.from_numpy(pixels).permute(2, 0, 1)[None]).tokens[0].numpy()

    count = len(tokens)
    assert encoded.features.shape == (4 * count, WIDTH)
    assert encoded.tokens.tolist() == 4 * list(range(count)) and len(set(encoded.keys[:count])) == 1
    np.testing.assert_allclose(encoded.features[:count], tokens, atol=1e-5)
    assert list(encoded.table())[:4] == ["key", "split", "token", "label"]


class Killed(BaseException):
    pass


def killed_at(most: int):
    """Progress that ends the process once `most` samples are done."""

    def progress(done: int) -> None:
        if done >= most:
            raise Killed

    return progress


def counted(encoding: Encoding) -> list[str]:
    """The keys of samples that the encoding's reader reads from now on."""
    keys, read = [], encoding.reader.read_views

    def read_views(item, is_train):
        keys.append(item.key)
        return read(item, is_train)

    encoding.reader.read_views = read_views
    return keys


@pytest.mark.parametrize("damage", ["none", "torn line", "features ahead", "features lost"])
def test_a_killed_call_is_continued(photo_run, tmp_path, damage):
    run, out = open_run(photo_run / "run"), tmp_path / "f.npz"
    write_encoded(tmp_path / "whole.npz", run.encoding(batch_size=3), lambda done: None)
    with pytest.raises(Killed):
        write_encoded(out, run.encoding(batch_size=3), killed_at(9))
    assert not out.exists()

    part = tmp_path / ".f.npz.part"
    if damage == "torn line":
        with open(part / "rows.jsonl", "a") as stream:
            stream.write('{"rows": 3, "wid')
    elif damage == "features ahead":
        with open(part / "features.f32", "ab") as stream:
            stream.write(b"\0" * 100)
    elif damage == "features lost":
        content = (part / "features.f32").read_bytes()
        (part / "features.f32").write_bytes(content[:-10])

    encoding, steps = run.encoding(batch_size=3), []
    keys = counted(encoding)
    summary = write_encoded(out, encoding, steps.append)
    assert steps[0] == (3 if damage == "features lost" else 6) and steps[-1] == 17
    assert len(keys) == 17 - steps[0] and summary.rows == 16 and len(summary.skipped) == 1

    whole, resumed = np.load(tmp_path / "whole.npz"), np.load(out)
    assert whole.files == resumed.files
    assert all((whole[name] == resumed[name]).all() for name in whole.files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npz", "whole.npz"]


def test_the_rest_may_be_bad(photo_run, tmp_path):
    """After the kill only samples that cannot be read are left."""
    for number in range(4):
        shutil.copy(photo_run / "photos" / "test" / "class0" / "00.png", tmp_path / f"{number}.png")
    for number in range(4, 8):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    run, out = open_run(photo_run / "run"), tmp_path / "f.npz"
    data = [f"data.root={tmp_path}", "data.source.holdout=0"]
    with pytest.raises(Killed):
        write_encoded(out, run.encoding(*data, batch_size=2), killed_at(4))
    summary = write_encoded(out, run.encoding(*data, batch_size=2), lambda done: None)
    assert summary.rows == 4 and [key for key, _ in summary.skipped] == ["4.png", "5.png", "6.png", "7.png"]


@pytest.mark.parametrize("change", ["file", "weights", "tokens"])
def test_other_samples_or_weights_start_anew(photo_run, tmp_path, change):
    photos, run = shutil.copytree(photo_run / "photos", tmp_path / "photos"), open_run(photo_run / "run")
    with pytest.raises(Killed):
        write_encoded(tmp_path / "f.npz", run.encoding(f"data.root={photos}", batch_size=3), killed_at(9))

    if change == "file":
        draw(photos, "test", 1, 3)
    encoding = run.encoding(f"data.root={photos}", batch_size=3, tokens=change == "tokens")
    if change == "weights":
        with torch.no_grad():
            next(encoding.encoder.parameters()).add_(1)
    steps = []
    write_encoded(tmp_path / "f.npz", encoding, steps.append)
    assert steps[0] == 0


def test_two_processes_do_not_write_one_file(photo_run, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError

    monkeypatch.setattr("fcntl.lockf", refuse)  # a process may lock its own file again
    with pytest.raises(UserError, match="Another process writes"):
        write_encoded(tmp_path / "f.npz", open_run(photo_run / "run").encoding(), lambda done: None)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["out=f.txt"], "choose .npz, .csv or .parquet"),
        (["out=f.parquet"], "pip install 'lacuna-ssl[parquet]'"),
        ([], "Give out="),
        (["out=f.npz", "split=train", "data.root=nowhere"], "nowhere does not exist"),
        (["out=f.npz", "batch_size=0"], "batch_size=0"),
        (["out=f.npz", "method.masker.ratio=0.5"], "it may set data"),
        (["out=f.npz", "device=gpu"], "device=gpu"),
    ],
)
def test_mistakes_are_one_message(photo_run, tmp_path, capsys, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # not installed
    assert encode.main([f"run={photo_run / 'run'}", *argv]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.glob("f.*"))


def test_of_one_graph_rows_are_nodes(graph_run, tmp_path, capsys):
    encoded = open_run(graph_run / "run").encode()
    assert encoded.tokens.tolist() == list(range(8)) and len(encoded.features) == 8
    assert encoded.labels["label"].tolist() == ["a", "b", "a", "b", "a", "b", "", ""]
    assert encoded.splits.tolist() == 4 * ["train"] + 2 * ["test"] + 2 * [""]

    assert encode.main([f"run={graph_run / 'run'}", f"out={tmp_path / 'f.csv'}"]) == 0
    lines = capsys.readouterr().out
    assert "8 tokens (4 train, 2 test, 2 in no split)" in lines and "one sample" in lines and "tokens=false" in lines


def test_of_one_graph_a_row_when_typed(graph_run):
    encoded, nodes = open_run(graph_run / "run").encode(tokens=False), open_run(graph_run / "run").encode()
    assert encoded.splits.tolist() == ["train and test"] and encoded.tokens is None
    np.testing.assert_allclose(encoded.features[0], nodes.features.mean(0), atol=1e-5)


def test_of_many_graphs_rows_are_graphs(graph_run, tmp_path):
    rng = np.random.default_rng(1)
    for number in range(3):
        edges = np.array([[0, 1, 2, 3], [1, 2, 3, 0]])
        np.savez(tmp_path / f"{number}.npz", x=rng.normal(size=(4 + number, 3)).astype(np.float32), edge_index=edges)
    run = open_run(graph_run / "run")
    encoded = run.encode(tmp_path)
    assert sorted(encoded.keys) == ["0.npz", "1.npz", "2.npz"] and encoded.tokens is None

    nodes = run.encode(tmp_path, tokens=True)
    for number, key in enumerate(encoded.keys):
        assert nodes.tokens[nodes.keys == key].tolist() == list(range(4 + int(key[0])))
        mean = nodes.features[nodes.keys == key].mean(0)
        np.testing.assert_allclose(encoded.features[number], mean, atol=1e-5)


class Labelled(Source):
    """Pictures with labels of every kind."""

    classes = {"key": ["cat", "dog"], "f0": ["x", "y"]}  # noqa: RUF012
    questions = {"signs": ["fracture", "mass"]}  # noqa: RUF012

    def __init__(self, files):
        self.files = files

    def items(self, split):
        labels = [
            {"key": 1, "f0": 0, "signs": (1, -1), "age": (31.5,), "photo_run": (0.5, 2.0)},
            {"key": -1, "f0": 1, "signs": (0, 1)},
        ]
        files = [] if split == "test" else zip(self.files, labels, strict=True)
        return [Item(file.name, str(file), labels=label) for file, label in files]


def test_labels_of_every_kind_have_columns(photo_run):
    run, files = open_run(photo_run / "run"), sorted((photo_run / "photos").rglob("0[01].png"))[:2]
    encoding = run.encoding()
    encoded = Encoding(encoding.encoder, encoding.reader, Labelled(files), reader_node={}).collect()
    assert encoded.splits.tolist() == ["train", "train"]
    labels = {name: values.tolist() for name, values in encoded.labels.items()}
    nan = pytest.approx(float("nan"), nan_ok=True)
    assert labels == {
        "label.key": ["dog", ""],
        "label.f0": ["x", "y"],
        "signs.fracture": [1.0, 0.0],
        "signs.mass": [nan, 1.0],
        "age": [31.5, nan],
        "photo_run.0": [0.5, nan],
        "photo_run.1": [2.0, nan],
    }
