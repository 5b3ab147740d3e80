import pytest

from core.data import tables
from core.data.tables import Row
from core.errors import UserError


def rows(tmp_path, name, text, **columns):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return tables.read(path, **columns).rows


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "a 1.jpg 3\nb.jpg 4\n"),
        ("a.txt", "a 1.jpg,3\n\nb.jpg,4"),
        ("a.txt", "a 1.jpg\t3\r\nb.jpg\t4\r\n"),
        ("a.csv", "a 1.jpg,3\nb.jpg,4\n"),
        ("a.csv", "a 1.jpg 3\nb.jpg 4\n"),
        ("a.tsv", "a 1.jpg\t3\nb.jpg\t4\n"),
        ("a.csv", '\ufefffile,label\n"a 1.jpg",3\nb.jpg,4\n'),
        ("a.csv", "Label;Path\n3;a 1.jpg\n4;b.jpg\n"),
    ],
)
def test_forms_of_lists(tmp_path, name, text):
    assert rows(tmp_path, name, text) == [Row("a 1.jpg", {"label": "3"}), Row("b.jpg", {"label": "4"})]


def test_paths_alone(tmp_path):
    assert rows(tmp_path, "a.txt", "my cat 3.jpg\nb.jpg\n") == [Row("my cat 3.jpg"), Row("b.jpg")]
    assert rows(tmp_path, "a.csv", "path\nb.jpg\n") == [Row("b.jpg")]


def test_columns(tmp_path):
    text = "file,class,split,scene,shape,motion\na.jpg,cat,train,s1,box,spin\nb.jpg,,test,,cone,\n"
    assert rows(tmp_path, "a.csv", text) == [
        Row("a.jpg", {"label": "cat"}, split="train", group="s1"),
        Row("b.jpg", split="test"),
    ]
    assert rows(tmp_path, "a.csv", text, labels=["shape", "motion"], group="class") == [
        Row("a.jpg", {"shape": "box", "motion": "spin"}, split="train", group="cat"),
        Row("b.jpg", {"shape": "cone"}, split="test"),
    ]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("file,label\na.jpg\n", {}, "line 2: 1 cells under a header of 2"),
        ("file,label\na.jpg,1\n", {"labels": ["shape"]}, "data.source.labels: .* no column 'shape'; it has file,"),
        ("file,label\na.jpg,1\n", {"group": "scene"}, "data.source.group: .* no column 'scene'"),
        ("\n", {}, "is empty"),
    ],
)
def test_what_is_wrong(tmp_path, text, columns, message):
    with pytest.raises(UserError, match=message):
        rows(tmp_path, "a.csv", text, **columns)


def test_binary_file(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as UTF-8 text"):
        tables.read(tmp_path / "a.csv")
