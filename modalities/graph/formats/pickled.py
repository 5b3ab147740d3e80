"""A .pt file as plain tensors, arrays, lists and dicts. Nothing in it runs; torch_geometric need not be installed."""

import io
import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

BATCH = "torch_geometric.data.batch.Batch"
BATCH_MAKER = "torch_geometric.data.batch.DynamicInheritanceGetter"
RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # pickles of protocol 2 have the names of Python 2
MOST_PICKLES = 8  # one behind the other in a file of torch before 1.6


class Opaque:
    """Stands in for a class or function that a file names: its arguments and state, of which nothing runs.

    `path`: the name in the file, such as "torch_geometric.data.data.Data".
    """

    path: str
    arguments: tuple = ()
    state: Any = None

    def __new__(cls, *arguments: Any) -> "Opaque":
        record = super().__new__(cls)
        record.arguments = arguments
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state

    @property
    def values(self) -> dict[str, Any]:
        """The attributes in its state; empty where the state is no mapping."""
        if not isinstance(self.state, Mapping):
            return {}
        return dict(self.state)


def load(content: bytes) -> Any:
    """The content of a .pt file; objects of other classes than torch's as `Opaque`, numpy's as arrays.

    Raises: UnpicklingError, EOFError or RuntimeError where the file is damaged or no file of torch.
    """
    names = sorted(set(_global_names(content)))
    records = {name: type(name.rpartition(".")[2], (Opaque,), {"path": name}) for name in names}
    if BATCH_MAKER in records:
        records[BATCH_MAKER] = _batch_maker(records)

    allowed = [(record, name) for name, record in records.items()]
    if BATCH_MAKER in records:
        allowed.append((records[BATCH], BATCH))
    with _only_allowed(allowed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sparse tensors are validated, and which protocol was used
        return _plain(torch.load(io.BytesIO(content), weights_only=True, map_location="cpu"), set())


def opaque_names(content: Any) -> list[str]:
    """Names of the classes and functions in a loaded file that stayed opaque, sorted."""
    names, visited, rest = set(), set(), [content]
    while rest:
        node = rest.pop()
        if isinstance(node, Opaque) and id(node) not in visited:
            visited.add(id(node))
            names.add(node.path)
            rest += [node.state, *node.arguments]
        elif isinstance(node, Mapping):
            rest += node.values()
        elif isinstance(node, list | tuple):
            rest += node
    return sorted(names)


@contextmanager
def _only_allowed(records: Sequence[tuple[type, str]]) -> Iterator[None]:
    """Allows these alone: torch_geometric, where it is imported, allows its own classes, which would run."""
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals(list(records)):
            yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)


def _batch_maker(records: dict[str, type]) -> type:
    """A Batch is pickled as a call of an object that makes its class; here the object is the class itself."""
    batch = records.setdefault(BATCH, type("Batch", (Opaque,), {"path": BATCH}))
    return type("DynamicInheritanceGetter", (), {"__new__": lambda cls: batch})


def _global_names(content: bytes) -> Iterator[str]:
    """Full names of all classes and functions that a file's pickles name."""
    for part in _pickles(content):
        for opcode, argument, _ in pickletools.genops(part):
            if opcode.name == "GLOBAL":
                module, _, name = argument.partition(" ")
                yield f"{RENAMED.get(module, module)}.{name}"


def _pickles(content: bytes) -> Iterator[io.BytesIO]:
    """The pickles of a file: of a zip the one inside, of files before torch 1.6 those at its start."""
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    yield io.BytesIO(archive.read(name))
        return

    stream = io.BytesIO(content)
    for _ in range(MOST_PICKLES):
        start = stream.tell()
        try:
            for _ in pickletools.genops(stream):
                pass
        except (ValueError, UnicodeDecodeError):  # behind the pickles lie the tensors' bytes
            return
        yield io.BytesIO(content[start : stream.tell()])


def _plain(node: Any, visited: set[int]) -> Any:
    """The same with numpy's arrays and numbers in place of their records.

    `visited`: ids of the records on the way: a graph's storage refers back to the graph.
    """
    if isinstance(node, Opaque):
        array = _array(node)
        if array is not None:
            return array
        if id(node) not in visited:
            visited.add(id(node))
            node.state = _plain(node.state, visited)
        return node

    if isinstance(node, Mapping):
        return {key: _plain(value, visited) for key, value in node.items()}
    if type(node) in (list, tuple):
        return type(node)([_plain(value, visited) for value in node])
    return node


def _array(record: Opaque) -> np.ndarray | np.generic | None:
    """The numpy array or number that a record describes; None for other records."""
    if record.path.endswith("multiarray.scalar"):
        kind, raw = record.arguments
        return np.frombuffer(_bytes(raw), _dtype(kind))[0]

    if not record.path.endswith("multiarray._reconstruct"):
        return None
    _, shape, kind, is_fortran, raw = record.state
    if isinstance(raw, list):  # an array of objects
        return np.array([str(value) for value in raw]).reshape(shape)
    order = "F" if is_fortran else "C"
    return np.frombuffer(_bytes(raw), _dtype(kind)).reshape(shape, order=order).copy()


def _dtype(record: Opaque) -> np.dtype:
    """A number's type from its record: its name and, in its state, the order of its bytes."""
    kind = np.dtype(record.arguments[0])
    if kind.hasobject:
        raise UnpicklingError("an array of objects has no bytes")
    if record.state:
        kind = kind.newbyteorder(record.state[1])
    return kind


def _bytes(raw: Any) -> bytes:
    """Bytes as pickles of protocol 2 hold them: a text and its encoding."""
    if isinstance(raw, Opaque):
        raw = raw.arguments[0] if raw.arguments else b""
    return raw.encode("latin-1") if isinstance(raw, str) else raw
