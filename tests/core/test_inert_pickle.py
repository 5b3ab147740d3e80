"""Nothing that a pickle names is imported or called, whichever instruction asks for it; tensors are read."""

import argparse
import builtins
import collections
import datetime
import enum
import functools
import os
import pathlib
import pickle
import sys

import numpy as np
import pytest
import torch

from core import inert_pickle
from core.inert_pickle import StandIn


class Shade(enum.Enum):
    """Of this module, which a pickle names."""

    DARK = 1


class Options(dict):
    """A dict whose items are attributes, as config libraries have them."""

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        self[name] = value


class Slots:
    __slots__ = ("rate",)


class Bomb:
    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def reduced(path: pathlib.Path, protocol: int) -> bytes:
    bomb = Bomb()
    bomb.path = path
    return pickle.dumps(bomb, protocol)


def attacks(path: pathlib.Path) -> dict[str, bytes]:
    """Pickles that make the folder `path` when Python reads them, by the instruction that does it."""
    text = str(path).encode()
    short = b"\x8c" + bytes([len(text)]) + text
    return {
        "reduce": reduced(path, 2),
        "stack global": reduced(path, 4),
        "inst": b"(S'" + text + b"'\nios\nmkdir\n.",
        "obj": b"(cos\nmkdir\n" + b"S'" + text + b"'\no.",
        "eval": b"\x80\x04c__builtin__\neval\n(\x8c\x40"
        + f"__import__('os').mkdir({str(path)!r})".ljust(64).encode()[:64]
        + b"tR.",
        "attribute of a function": b"\x80\x04\x8c\x0ctorch._utils\x8c\x26_rebuild_tensor_v2.__globals__."
        b"__getitem__\x93\x8c\x02os\x85R" + short + b"\x85b.",
        "partial": b"\x80\x04cfunctools\npartial\n(cos\nmkdir\n" + short + b"tR)R.",
        "state": b"\x80\x04ccollections\nOrderedDict\n)R}\x8c\x0c__setstate__cos\nmkdir\nsb" + short + b"b.",
    }


@pytest.mark.parametrize("name", attacks(pathlib.Path("x")))
def test_no_instruction_runs_anything(tmp_path, name):
    content = attacks(tmp_path / "made")[name]
    try:
        inert_pickle.loads(content)
    except Exception as error:  # whatever a damaged pickle raises
        assert isinstance(error, pickle.UnpicklingError | TypeError | AttributeError | ValueError)
    assert not (tmp_path / "made").exists()


def test_the_attacks_are_attacks(tmp_path):
    """Python's own reader does run them."""
    for number, name in enumerate(("reduce", "stack global", "inst", "obj")):
        path = tmp_path / str(number)
        pickle.loads(attacks(path)[name])
        assert path.exists()


def test_nothing_is_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "this", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse_import)
    value = inert_pickle.loads(b"cthis\nc\n.")
    assert value.origin == "this.c" and "this" not in sys.modules


def refuse_import(name, *args, **kwargs):
    raise AssertionError(f"{name} is imported")


def test_functions_that_rebuild_cannot_be_altered():
    """BUILD would set attributes, __defaults__ among them."""
    attack = b"ctorch._utils\n_rebuild_tensor_v2\n(N(S'__defaults__'\n(I1\ntdtb."
    before = torch._utils._rebuild_tensor_v2.__defaults__
    with pytest.raises(pickle.UnpicklingError, match="alters functions"):
        inert_pickle.loads(attack)
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))  # torch.save writes 2 or more
def test_objects_leave_their_items_and_attributes(protocol):
    options, slots = Options(), Slots()
    options.rate, slots.rate = 0.5, 0.25
    content = {
        "args": argparse.Namespace(rate=0.75, names=["a"]),
        "options": options,
        "slots": slots,
        "ordered": collections.OrderedDict(a=1),
        "default": collections.defaultdict(list, {1: [2]}),
        "size": torch.Size([2, 3]),
        "dtype": torch.float16,
        "others": [Shade.DARK, np.float64(1), np.ones(3), pathlib.Path("a"), datetime.datetime(2020, 1, 1), {1, 2}],
        "keys": {Shade.DARK: 1},
        "call": functools.partial(print, 1),
    }
    loaded = inert_pickle.loads(pickle.dumps(content, protocol))

    assert dict(loaded["args"]) == {"rate": 0.75, "names": ["a"]} and loaded["args"].origin == "argparse.Namespace"
    assert dict(loaded["options"]) == {"rate": 0.5} and dict(loaded["slots"]) == {"rate": 0.25}
    assert dict(loaded["ordered"]) == {"a": 1} and dict(loaded["default"]) == {1: [2]}
    assert loaded["size"] == (2, 3) and loaded["dtype"] is torch.float16
    kinds = [type(value) for value in loaded["others"][:5]]
    assert all(issubclass(kind, StandIn) for kind in kinds)


def test_a_memo_of_gigabytes_is_refused():
    with pytest.raises(pickle.UnpicklingError, match="memo entry"):
        inert_pickle.loads(b"\x80\x02]r\xff\xff\xff\x7f.")
