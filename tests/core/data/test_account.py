import json
from dataclasses import asdict

import numpy as np
import pytest

from core.data.account import Account, Leftovers


def test_lines():
    leftovers = Leftovers()
    for name in ("a.avif", "b.avif", "c.tga"):
        leftovers.add("no file of this modality", name[1:], name)
    account = Account(
        samples={"train": 8, "test": 2},
        split_by="names of folders: train, test",
        labels={"label": "names of folders"},
        classes={"label": list("abcdefg")},
        passed_over=leftovers.groups(),
        notes=["the biggest array is read"],
    )
    assert account.lines() == [
        "8 train, 2 test; split by names of folders: train, test",
        "label 'label': 7 classes (a, b, c, d, e, and 2 more) from names of folders",
        "passed over: 2 .avif, 1 .tga, no file of this modality, such as a.avif",
        "note: the biggest array is read",
    ]
    assert json.loads(json.dumps(asdict(account)))["passed_over"][0] == {
        "reason": "no file of this modality",
        "kind": ".avif",
        "count": 2,
        "examples": ["a.avif", "b.avif"],
    }


@pytest.mark.parametrize(
    ("files", "samples", "rest"),
    [
        (["a/1.num", "a/2.num", "b/3.num", "b/4.jpg", "notes.md"], 3, 2),
        (["a/1.num", ".hidden.num", ".git/x", "b/2.num", "LICENSE"], 2, 3),
        (["1.num", "2.num", "l.csv", "3.txt"], 2, 2),
    ],
)
def test_an_account_adds_up(write, source, files, samples, rest):
    account = source(write(files)).account()
    assert sum(account.samples.values()) == samples
    assert sum(group.count for group in account.passed_over) == rest
    for group in account.passed_over:
        assert len(group.examples) == min(group.count, 3)


def test_the_origin_of_labels(write, source, tmp_path):
    assert source(write(["x/a/1.num", "x/b/2.num"]) / "x").account().labels == {"label": "names of folders"}
    np.savez(tmp_path / "m.npz", x=np.ones((3, 2)), y=[0, 1, 1])
    assert source(tmp_path / "m.npz").account().labels == {"label": "'y' in m.npz"}
    write({"l.csv": "path,class\nx/a/1.num,u\nx/b/2.num,v\n"})
    assert source(tmp_path / "l.csv").account().labels == {"label": "column 'class' of l.csv"}


@pytest.mark.parametrize(
    ("files", "rule"),
    [
        (["train/1.num", "test/2.num"], "names of folders, archives or lists: train, test"),
        (
            ["train/1.num", "val/2.num"],
            "names of folders, archives or lists: train, val; validation stands in for test",
        ),
        (["train_1.num", "test_1.num"], "names of files"),
        (["1.num", "2.num"], "a fraction of the samples, data.holdout=0.1"),
        (
            ["valid/1.num", "invalid/2.num"],
            "a fraction of the samples, data.holdout=0.1 (without a pair such as train and test, valid marks no split)",
        ),
    ],
)
def test_the_rule_of_the_split(write, source, files, rule):
    assert source(write(files)).account().split_by == rule
