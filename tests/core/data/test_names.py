"""Names of files, folders and classes as other systems leave them: read, one class for every spelling, printable."""

import os
import tarfile
import unicodedata
import zipfile

import pytest

from core.data.places import canonical
from core.evaluation.record import hash_items
from core.files import printable

LATIN = os.fsdecode(b"caf\xe9")  # in Latin-1


def items_of(source):
    items = {}
    for split in source.account().samples:
        items |= {item.key: item for item in source.items(split)}
    return items


def class_names(source):
    return {key: source.classes["label"][item.labels["label"]] for key, item in items_of(source).items()}


def by_class(source):
    """Items with the names of their classes."""
    names = class_names(source)
    return [(item, names[key]) for key, item in items_of(source).items()]


def fill_archive(path, names):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(zipfile.ZipInfo(name), "1")
        return

    (path.parent / "one").write_text("1")
    with tarfile.open(path, "w") as archive:
        for name in names:
            archive.add(path.parent / "one", name)
    (path.parent / "one").unlink()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a b/ü.jpg", "a b/ü.jpg"),
        (LATIN, "caf\\xe9"),
        (os.fsdecode(b"\xff\xfe"), "\\xff\\xfe"),
        ("a\nb", "a\\nb"),
        ("a\x1b[31m", "a\\x1b[31m"),
        ("кот.png", "кот.png"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_printable(name, text):
    assert printable(name) == text and printable(name).encode() and "\n" not in printable(name)


@pytest.mark.parametrize("name", ["é", unicodedata.normalize("NFD", "é"), os.fsdecode(b"\xe9")])
def test_one_spelling_of_a_class(name):
    assert canonical(name) == "é"


@pytest.mark.parametrize("folder", ["{}", "{}/train", "train/{}"])
def test_names_that_are_not_utf8(write, source, folder):
    root = write([f"{folder.format(name)}/{name}{i}.num" for name in (LATIN, "the") for i in range(4)])
    numbers = source(root)
    items = items_of(numbers)
    assert len(items) == 8 and {item.open() for item in items.values()} == {str(i).encode() for i in range(8)}
    assert set(class_names(numbers).values()) == {"café", "the"}
    assert hash_items(items.values()) and all(key.encode() for key in items)
    "\n".join(numbers.account().lines()).encode()


def test_archives_with_names_that_are_not_utf8(tmp_path, source):
    fill_archive(tmp_path / "a.tar", [f"{LATIN}/{LATIN}{i}.num" for i in range(3)] + ["the/1.num"])
    numbers = source(tmp_path / "a.tar")
    assert {item.open() for item in items_of(numbers).values()} == {b"1"}
    assert sorted(class_names(numbers).values()) == ["café"] * 3 + ["the"]


def test_lists_with_names_that_are_not_utf8(write, source, tmp_path):
    write([f"{LATIN}/1.num", "the/2.num"])
    lines = ["path,label", f"{LATIN}/1.num,{LATIN}", "the/2.num,the"]
    for encoding in ("utf-8", "latin-1"):  # one has the file's bytes; the other its letters
        text = "\n".join(lines) if encoding == "utf-8" else "\n".join(lines).replace(LATIN, "café")
        (tmp_path / "l.csv").write_bytes(text.encode(encoding, "surrogateescape"))
        assert set(class_names(source(tmp_path / "l.csv")).values()) == {"café", "the"}


def test_both_spellings_of_accents_are_one_class(write, source):
    spellings = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    numbers = source(write([f"{name}/{i}.num" for i, name in enumerate([*spellings, "the", *spellings])]))
    assert numbers.classes == {"label": ["café", "the"]} and len(items_of(numbers)) == 5


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_lists_find_files_by_either_spelling(write, source, forms):
    listed, stored = (unicodedata.normalize(form, "é/ü.num") for form in forms)
    root = write({stored: "5", "b.num": "6", "l.csv": f"path,label\n{listed},x\nb.num,y\n"})
    assert sorted(class_names(source(root / "l.csv")).values()) == ["x", "y"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_with_windows_separators(tmp_path, source, kind):
    fill_archive(tmp_path / f"a.{kind}", [f"set\\{name}\\{i}.num" for name in ("cat", "dog") for i in range(2)])
    assert sorted(class_names(source(tmp_path / f"a.{kind}")).values()) == ["cat", "cat", "dog", "dog"]


def test_files_with_backslashes_in_their_names(write, source):
    assert source(write(["cat\\0.num", "cat\\1.num", "dog\\2.num"])).classes == {"label": ["cat", "dog"]}


@pytest.mark.parametrize("form", ["{}", "deep/{}", "/elsewhere/deep/{}"])
@pytest.mark.parametrize("header", ["path,label", ""])
def test_lists_of_files_with_backslashes_in_their_names(write, source, form, header):
    names = [f"back\\slash{i}.num" for i in range(3)] + ["plain.num"]
    lines = [f"{form.format(name)},{name[0]}" for name in names]
    root = write({f"deep/{name}": name for name in names} | {"l.csv": "\n".join(filter(None, [header, *lines]))})
    read = {item.open().decode(): class_name for item, class_name in by_class(source(root / "l.csv"))}
    assert read == {name: name[0] for name in names}


def test_a_name_with_a_backslash_goes_before_a_folder(write, source):
    """The list means the file of exactly that name; the other row the file in the folder."""
    root = write({"a\\1.num": "named", "a/1.num": "below", "a/2.num": "two", "l.txt": "a\\1.num 0\na\\2.num 1\n"})
    read = {item.open().decode(): class_name for item, class_name in by_class(source(root / "l.txt"))}
    assert read == {"named": "0", "two": "1"}


def test_a_root_with_windows_separators(write, source):
    root = write(["set/cat/0.num", "set/dog/1.num"])
    assert source(f"{root}/set\\cat").account().samples


@pytest.mark.parametrize("name", ["~old", "~", "~root", "$HOME", "a[1]", "a*b", " lead", "new\nline", "-dash", "naïve"])
def test_strange_names_of_roots(write, source, monkeypatch, name):
    monkeypatch.chdir(write([f"{name}/1.num", f"{name}/2.num"]))
    assert {item.open() for item in items_of(source(name)).values()} == {b"0", b"1"}


def test_files_with_a_new_line_in_their_names(write, source):
    items = items_of(source(write(["a\nb/1.num", "a\nb/2\n.num", "c/3\r.num"])))
    assert set(items) == {"a\\nb/1.num", "a\\nb/2\\n.num", "c/3\\r.num"}
    assert {item.open() for item in items.values()} == {b"0", b"1", b"2"}


@pytest.mark.parametrize("header", ["path,label\n", ""])
@pytest.mark.parametrize("form", ['"a\n{}.num",{}\n', '"b {}\n.num","{}"\n', '"line\nbreak;{}.num",{}\n'])
def test_lists_of_files_with_a_new_line_in_their_names(write, source, header, form):
    lines = [form.format(i, "xy"[i % 2]) for i in range(4)]
    names = [line.split('"')[1] for line in lines]
    root = write({name: str(i) for i, name in enumerate(names)} | {"l.csv": header + "".join(lines)})
    read = {item.open().decode(): class_name for item, class_name in by_class(source(root / "l.csv"))}
    assert read == {"0": "x", "1": "y", "2": "x", "3": "y"}
