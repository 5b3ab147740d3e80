"""Lists as people have them: which files they name, with which labels, splits and parts, and what is passed over."""

import json

import pytest

from core.data.folder import FolderSource
from core.data.sources import Part
from core.errors import UserError

EXTENSIONS = (".num", ".film")


@pytest.fixture
def read(write):
    """Opens a root of these files: a source, its class names by key, and the account."""

    def read(files, root="", **settings):
        folder = write(files)
        source = FolderSource(str(folder / root), EXTENSIONS, **settings)
        account = source.account()
        items = {}
        for split in account.samples:
            items |= {item.key: item for item in source._contents.items[split]}
        names = {}
        classes = source.classes.get("label", [])
        for key, item in items.items():
            names[key] = classes[item.labels["label"]] if classes and item.labels else None
        return source, names, account

    return read


def numbers(*names):
    return dict.fromkeys(names, "1")


def passed_over(account) -> dict[tuple[str, str], int]:
    return {(group.reason, group.kind): group.count for group in account.passed_over}


SIX = [f"v/{i}.num" for i in range(6)]
CLASSES = dict(zip(SIX, "ababab", strict=True))


def table(header, row, ending="\n"):
    lines = [header] if header else []
    for number, name in enumerate(SIX):
        lines.append(row.format(name=name, stem=name[2:-4], number=number, label=CLASSES[name]))
    return ending.join(lines) + ending


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", table("image_path,split,label", "{name},train,{label}")),
        ("l.csv", table("id,video_path,label", "{number},{name},{label}")),
        ("l.csv", table("idx,frames,clipName,Class_Name", "{number},16,{name},{label}")),
        ("l.tsv", table("Label\timagePath", "{label}\t{name}")),
        ("l.csv", table("Bild;Art", "{name};{label}")),  # no name that is known
        ("l.csv", table("study,image_id,diagnosis", "s{number},{stem},{label}")),  # without extension
        ("l.csv", table(None, "{name},{label}")),
        ("l.csv", table(None, "{number},{name},{label}")),  # numbered lines
        ("l.txt", table("path label", "{name} {label}")),
        ("l.txt", table(None, "{label} {name}").replace("a ", "7 ").replace("b ", "8 ")),  # the label first
        ("l.csv", table("path,label", "v\\{stem}.num,{label}", "\r\n")),
        ("l.csv", table("path,label", "D:\\data\\set\\v\\{stem}.num,{label}")),
        ("l.csv", table(None, "/home/someone/set/{name} {label}")),
        ("l.jsonl", table(None, '{{"file_name": "{name}", "label": "{label}"}}')),
    ],
)
def test_columns_by_content(read, name, text):
    _, labels, account = read({**numbers(*SIX), name: text}, name)
    expected = {"7": "a", "8": "b"}
    assert {key: expected.get(label, label) for key, label in labels.items()} == CLASSES
    assert not account.passed_over


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("a.film 0 -1\nb.film 0 -1\n", [None, None]),  # VideoMAE V2, pre-training
        ("a.film 16 3\nb.film 20 1\n", ["3", "1"]),  # frames, label
        ("a.film 0 300 3\nb.film 40 250 1\n", ["3", "1"]),  # start, frames, label
        ("a.film -1\nb.film -1\n", [None, None]),
        ("a.film 0 -1 3\nb.film 0 -1 1\n", ["3", "1"]),  # VideoMAE V2: start, end, label
        ("a.film,0,-1,1\nb.film,0,-1,0\n", ["1", "0"]),
        ("a.film 0 -1 playing chess\nb.film 0 -1 abseiling\n", ["playing chess", "abseiling"]),
        ("a.film,0,-1,playing chess\nb.film,0,-1,abseiling\n", ["playing chess", "abseiling"]),
        ("a.film\t0\t-1\t7\nb.film\t0\t-1\t7\n", ["7", "7"]),
        ("a.film playing chess\nb.film abseiling\n", ["playing chess", "abseiling"]),
        ("a.film,3\nb.film,1\n", ["3", "1"]),
        ("a.film\t3\nb.film\t1\n", ["3", "1"]),
        ("a.film\nb.film\n", [None, None]),
    ],
)
@pytest.mark.parametrize("name", ["l.txt", "l.csv"])
def test_kinetics_forms(read, name, text, labels):
    _, names, _ = read({**numbers("a.film", "b.film"), name: text}, name)
    assert names == dict(zip(("a.film", "b.film"), labels, strict=True))


def test_paths_with_commas_and_spaces(read):
    files = numbers("c,d.film", "e f.film", "g, h 2.film")
    _, names, _ = read({**files, "l.csv": "c,d.film 0\ne f.film 1\ng, h 2.film 2\n"}, "l.csv")
    assert names == {"c,d.film": "0", "e f.film": "1", "g, h 2.film": "2"}

    _, names, _ = read({**files, "m.csv": "path,label\nc,d.film,0\ne f.film,1\n"}, "m.csv")
    assert names == {"c,d.film": "0", "e f.film": "1"}


@pytest.mark.parametrize(
    ("text", "questions", "answers"),
    [
        ("a.film 1 0 1\nb.film 0 1 1\n", ["0", "1", "2"], [(1, 0, 1), (0, 1, 1)]),
        ("a.film 0 2\nb.film 1\nc.film 2 1 0\n", ["0", "1", "2"], [(1, 0, 1), (0, 1, 0)]),
        ("file,dog,cat,hat\na.film,1,0,1\nb.film,0,1,1\n", ["dog", "cat", "hat"], [(1, 0, 1), (0, 1, 1)]),
    ],
)
def test_several_labels(read, text, questions, answers):
    source, _, _ = read({**numbers("a.film", "b.film", "c.film"), "l.txt": text}, "l.txt", holdout=0)
    assert source.questions == {"label": questions}
    assert [item.labels["label"] for item in source.items("train")][:2] == answers


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("a.film,cat,1\nb.film,dog\nc.film,dog,3,4\n", "2 in line 2, 4 in line 3"),
        ("a.film a\nb.film\nc.film 1 2\n", "1 in line 2, 3 in line 3"),
        ("a.film,0,-1,3\nb.film,3\nc.film,0,-1,3\n", "2 in line 2, 4 in line 3"),
        ("a.film,cat\n\nb.film,dog,cat\nc.film,dog\n", "2 in line 4, 3 in line 3"),
    ],
)
def test_ragged_lines_without_a_header(read, text, counts):
    _, names, account = read({**numbers("a.film", "b.film", "c.film"), "l.csv": text}, "l.csv")
    assert names == dict.fromkeys(("a.film", "b.film", "c.film")) and not account.classes
    (note,) = account.notes
    assert f"unlike numbers of values ({counts}), so that no label is read" in note and "a header" in note


@pytest.mark.parametrize(
    "text",
    ["a.film,x\nb.film\nc.film,y\n", "a.film,x,\nb.film,,\nc.film,y\n", "a.film,x,0.5\nb.film\nc.film,y\n"],
)
def test_lines_without_a_label_are_unlabelled_samples(read, text):
    _, names, account = read({**numbers("a.film", "b.film", "c.film"), "l.csv": text}, "l.csv")
    assert names == {"a.film": "x", "b.film": None, "c.film": "y"} and not account.notes


def test_a_list_without_paths(read):
    text = "label,youtube_id,time_start,time_end,split\nabseiling,abc,0,10,train\n"
    with pytest.raises(
        UserError, match=r"k\.csv has no column.*none called path, file.*its columns are label, youtube_id"
    ):
        read({"k.csv": text}, "k.csv")


@pytest.mark.parametrize(
    ("name", "text"),
    [("l.csv", "path,label\n"), ("l.tsv", "image\tlabel\n"), ("l.csv", "file\n\n\n"), ("l.txt", "path\n")],
)
def test_a_header_alone(read, name, text):
    with pytest.raises(UserError, match="lists no file"):
        read({name: text}, name)


# Parts of files


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("path,start,end,label\na.film,0,0.8,run\na.film,0.8,1.6,jump\n", [(0, 0.8, "seconds"), (0.8, 1.6, "seconds")]),
        ("a.film 0 0.8 1\na.film 0.8 1.6 0\n", [(0, 0.8, "seconds"), (0.8, 1.6, "seconds")]),
        ("video,begin,duration\na.film,00:00:01,2\na.film,00:01:00,2\n", [(1, 3, "seconds"), (60, 62, "seconds")]),
        ("clip,start_frame,end_frame\na.film,0,10\na.film,10,25\n", [(0, 10, "frames"), (10, 25, "frames")]),
        ("a.film 16 -1 3\na.film 0 32 1\n", [(0, 32, "frames"), (16, None, "frames")]),
        ("a.film,2.5,-1,run\na.film,0.0,2.5,sit\n", [(0, 2.5, "seconds"), (2.5, None, "seconds")]),
        ("file,start_ms,end_ms\na.film,0,500\na.film,500,2500\n", [(0, 0.5, "seconds"), (0.5, 2.5, "seconds")]),
    ],
)
def test_parts_of_files(read, text, parts):
    source, _, account = read({**numbers("a.film"), "l.csv": text}, "l.csv", reads_parts=True, holdout=0)
    items = source.items("train")
    assert [item.part for item in items] == [Part(*part) for part in parts]
    assert len({item.key for item in items}) == 2 and all("start" in note for note in account.notes[:1])

    with pytest.raises(UserError, match=r"a\.film stands in 2 rows"):
        read({"l.csv": text}, "l.csv")


def test_parts_of_one_film_are_on_one_side_of_the_split(read):
    rows = [f"{name}.film,{start},{start + 5}" for name in "abcdefgh" for start in (0, 5, 10)]
    files = numbers(*(f"{name}.film" for name in "abcdefgh"))
    text = "\n".join(["path,start,end", *rows])
    source, _, _ = read({**files, "l.csv": text}, "l.csv", reads_parts=True, holdout=0.4)
    train, test = ({item.path for item in source.items(split)} for split in ("train", "test"))
    assert all(item.group == item.key.partition("@")[0] for item in source.items("train"))  # in folds, too
    assert train and test and not train & test and len(source.items("train")) == 3 * len(train)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "filename,width,class,xmin\na.num,24,cat,1\na.num,24,dog,9\nb.num,24,dog,2\n",
            r"lines 2 and 3\) with labels cat, dog",
        ),
        ("filename,class,xmin\na.num,cat,1\na.num,cat,9\nb.num,dog,2\n", "which differ in xmin"),
        ("a.num,902,0.1,0.2,12\na.num,902,0.1,0.2,80\nb.num,903,0.1,0.2,12\n", "a.num stands in 2 rows"),  # AVA
        ("a.num 0.0 6.9##a person sits.\na.num 5.0 9.9##a person runs.\n", "a.num stands in 2 rows"),  # Charades-STA
        ("image,caption\na.num,a dog runs\na.num,a brown dog\nb.num,a cat\n", "a.num stands in 2 rows"),
    ],
)
def test_rows_of_one_file_that_differ_are_refused(read, text, message):
    with pytest.raises(UserError, match=message):
        read({**numbers("a.num", "b.num"), "boxes.csv": text}, "boxes.csv")

    # Beside pictures, whose list it is not, it is passed over with the reason.
    _, names, account = read({})
    assert set(names) == {"a.num", "b.num"} and passed_over(account) == {("no list of samples", ".csv"): 1}
    assert "a.num stands in 2 rows" in account.notes[0]


def test_rows_alike_in_everything_count_once(read):
    _, names, account = read({**numbers("a.num", "b.num"), "l.csv": "path,label\na.num,x\nb.num,y\na.num,x\n"}, "l.csv")
    assert names == {"a.num": "x", "b.num": "y"}
    assert passed_over(account) == {("listed twice, alike in everything", "rows"): 1}


def test_lists_that_complete_each_other(read):
    files = numbers("a.num", "b.num")
    source, names, _ = read(
        {**files, "classes.csv": "path,label\na.num,x\nb.num,y\n", "who.csv": "path,group\na.num,g\n"}
    )
    assert names == {"a.num": "x", "b.num": "y"}
    groups = {item.key: item.group for split in ("train", "test") for item in source.items(split)}
    assert groups == {"a.num": "g", "b.num": None}


# Lists in a folder


@pytest.mark.parametrize(
    ("train", "test", "form"),
    [
        ("train.csv", "val.csv", "{} {}"),
        ("train.txt", "test.txt", "{} {}"),
        ("train.tsv", "validation.tsv", "{}\t{}"),
        ("trainlist01.txt", "testlist01.txt", "{} {}"),
        ("lists/train.csv", "lists/test.csv", "{},{}"),
        ("my-train.csv", "my-val.csv", "file,label\n{},{}"),
    ],
)
def test_lists_by_split(read, train, test, form):
    header, _, row = form.rpartition("\n")
    lists = {}
    for name, rows in ((train, SIX[:4]), (test, SIX[4:])):
        lines = [row.format(path, CLASSES[path]) for path in rows]
        lists[name] = "\n".join(([header] if header else []) + lines)

    source, names, account = read({**numbers(*SIX, "v/more.num"), **lists, "README.md": "x", "all.csv": "\n".join(SIX)})
    assert names == CLASSES and account.samples == {"train": 4, "test": 2}
    assert [item.key for item in source.items("test")] == SIX[4:]
    counts = passed_over(account)
    assert counts.pop(("in no list", ".num")) == 1 and counts.pop(("no file of this modality", ".md")) == 1
    assert sum(counts.values()) == 1  # all.csv


@pytest.mark.parametrize("train", ["", "\n", "path,label\n", "path,label\ngone/x.num,a\ngone/y.num,b\n"])
@pytest.mark.parametrize(
    "names", [("train.csv", "val.csv"), ("set_train.csv", "set_test.csv"), ("l/train.csv", "l/val.csv")]
)
def test_a_list_for_training_that_names_no_sample(read, train, names):
    listed = "path,label\nv/0.num,a\nv/1.num,b\n"
    with pytest.raises(UserError, match=rf"{names[0]} names no sample that exists"):
        read({**numbers(*SIX), names[0]: train, names[1]: listed})


def test_a_text_named_by_a_split_beside_lists_of_it(read):
    lists = {"train.csv": "v/0.num\nv/1.num\n", "val.csv": "v/2.num\n", "training.csv": "about it\n"}
    assert read({**numbers(*SIX), **lists})[2].samples == {"train": 2, "test": 1}


def test_a_glob_of_lists(read):
    lists = {"train.csv": "v/0.num a\nv/1.num b\n", "val.csv": "v/2.num a\n"}
    _, names, account = read({**numbers(*SIX), **lists}, "*.csv")
    assert names == {"v/0.num": "a", "v/1.num": "b", "v/2.num": "a"} and account.samples == {"train": 2, "test": 1}


@pytest.mark.parametrize("form", ["[{a}, {b}]", "{a},{b}", "['{a}','{b}']", "{a} {b}", "({a}, {b}, {folder}/v)"])
def test_several_roots_are_refused_with_the_right_spelling(write, form):
    folder = write({**numbers(*SIX), "a.csv": "v/0.num\n", "b.csv": "v/1.num\n"})
    root = form.format(a=folder / "a.csv", b=folder / "b.csv", folder=folder)
    with pytest.raises(UserError, match=rf"names [23]: .*data\.root={folder}\).*data\.root='{folder}/\*\.csv'"):
        FolderSource(root, EXTENSIONS).items("train")


@pytest.mark.parametrize(
    ("root", "other", "hints"),
    [
        ("train.csv", "val.csv", True),
        ("my_train.csv", "my_test.csv", True),
        ("train.csv", "testing.csv", True),
        ("train.csv", "val.txt", False),
        ("train.csv", "more.csv", False),
        ("val.csv", "train.csv", False),
    ],
)
def test_a_list_beside_a_given_one_is_hinted_at(read, root, other, hints):
    _, names, account = read({**numbers(*SIX), root: "v/0.num a\nv/1.num b\n", other: "v/2.num a\n"}, root)
    assert set(names) == {"v/0.num", "v/1.num"}
    assert [note for note in account.notes if other in note and "takes both" in note] == account.notes[: int(hints)]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_metadata_in_each_split_folder(read, ending):
    files = {}
    for split in ("train", "test"):
        files |= numbers(f"{split}/0.num", f"{split}/1.num")
        rows = [("0.num", "x"), ("1.num", "y")]
        if ending == "csv":
            text = "file_name,label\n" + "\n".join(map(",".join, rows))
        else:
            text = "\n".join(json.dumps({"file_name": name, "label": label}) for name, label in rows)
        files[f"{split}/metadata.{ending}"] = text

    _, names, account = read(files)
    assert names == {"train/0.num": "x", "train/1.num": "y", "test/0.num": "x", "test/1.num": "y"}
    assert account.samples == {"train": 2, "test": 2} and "metadata" in account.labels["label"]


def test_class_folders_beside_a_list_of_numbered_lines(read):
    files = numbers("images/A/0.num", "images/A/1.num", "images/B/2.num")
    text = "1 images/A/0.num\n2 images/A/1.num\n3 images/B/2.num\n"
    _, names, _ = read({**files, "images.txt": text, "classes.txt": "1 A\n2 B\n"})
    assert names == {"images/A/0.num": "A", "images/A/1.num": "A", "images/B/2.num": "B"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("notes.csv", "name,score\nfoo,1\nbar,2\n"),
        ("scores.csv", "image,score\na/0.num,3\n"),  # one of many
        ("gone.csv", "path,label\nold/0.num,x\nold/1.num,y\n"),
        ("classes.txt", "a\nb\n"),
        ("README.txt", "Six numbers.\nSee a/0.num\n"),
        ("broken.csv", "path,label\na/0.num\n"),
    ],
)
def test_a_table_that_is_no_list_of_the_samples(read, name, text):
    files = [f"{label}/{i}.num" for label in "ab" for i in range(3)]
    _, names, account = read({**numbers(*files), name: text})
    assert names == {file: file[0] for file in files}
    assert sum(passed_over(account).values()) == 1 and account.passed_over[0].examples == [name]


@pytest.mark.parametrize("missing", [1, 150, 600])
def test_missing_entries_are_counted(read, missing):
    rows = [f"gone{i}.num,x" for i in range(missing)] + [f"{name},{label}" for name, label in CLASSES.items()]
    for root in ("", "l.csv"):
        _, names, account = read({**numbers(*SIX), "l.csv": "\n".join(["path,label", *rows])}, root)
        assert names == CLASSES and passed_over(account) == {("listed, but missing", ".num"): missing}


def test_integer_labels_stay_as_written(read):
    source, names, _ = read(
        {**numbers("a.num", "b.num", "c.num"), "l.csv": "path,label\na.num,1999\nb.num,2005\nc.num,007\n"}, "l.csv"
    )
    assert names == {"a.num": "1999", "b.num": "2005", "c.num": "007"} and len(source.classes["label"]) == 3


def test_lists_for_both_splits_with_one_file(read):
    with pytest.raises(UserError, match=r"lists a\.num twice, for different splits"):
        read({**numbers("a.num", "b.num"), "train.csv": "a.num 0\nb.num 1\n", "test.csv": "a.num 0\n"})


def test_a_column_of_splits_by_its_content(read):
    text = "path,set,label\na.num,train,x\nb.num,test,y\n"
    _, _, account = read({**numbers("a.num", "b.num"), "l.csv": text}, "l.csv")
    assert account.samples == {"train": 1, "test": 1} and account.split_by == "the split column"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_encodings_of_lists(read, encoding, tmp_path):
    (tmp_path / "l.csv").write_bytes("path,label\né/0.num,é\nb/1.num,b\n".encode(encoding))
    _, names, _ = read(numbers("é/0.num", "b/1.num"), "l.csv")
    assert names == {"é/0.num": "é", "b/1.num": "b"}


@pytest.fixture
def texts(write):
    """The samples of a folder where samples may be text themselves: rows of numbers."""

    def keys(files, root="", **settings):
        folder = write(files)
        source = FolderSource(str(folder / root), (".txt", ".csv", ".num"), holdout=0, **settings)
        return [item.key for item in source.items("train")], source

    return keys


@pytest.mark.parametrize("rows", ["1 2 3\n4 5 6\n", "x,y,z\n1,2,3\n", "# of 2\n\n1;2;3;\n", "1e-3\t-2.5\tnan\n"])
def test_texts_of_numbers_are_samples(texts, rows):
    keys, _ = texts({"a.txt": rows, "b/c.csv": rows, "d.num": "1"})
    assert keys == ["a.txt", "b/c.csv", "d.num"]
    assert texts({"a.txt": rows}, "a.txt")[0] == ["a.txt"]


@pytest.mark.parametrize("words", ["cat\ndog\n", "b.txt 3\n", "1\n2\n", "10 20\n30 40\n", "", "read 1 2 3\n"])
def test_other_texts_are_none(texts, words):
    keys, source = texts({"a.txt": "1 2 3\n4 5 6\n", "words.txt": words})
    assert keys == ["a.txt"]
    (group,) = source.account().passed_over
    assert group.examples == ["words.txt"]


def test_lists_of_texts(texts):
    """A list beside texts of its own kind, by folder and by its own path."""
    files = {"a.txt": "1 2 3\n", "b.txt": "4 5 6\n", "c.txt": "7 8 9\n", "index.txt": "a.txt cat\nb.txt dog\n"}
    for root in ("", "index.txt"):
        keys, source = texts(files, root)
        assert keys == ["a.txt", "b.txt"] and source.classes == {"label": ["cat", "dog"]}
