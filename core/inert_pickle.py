"""A pickle module that runs nothing: `torch.load(file, pickle_module=inert_pickle)`.

A pickle names classes and functions, and calls them. Here every name becomes one of three things, looked up
in a table and never imported:

- the storages and dtypes of tensors;
- a rebuilding function of tensors, one of the few in `REBUILD`;
- a `StandIn`: a dict that takes any arguments, items and state, keeps the items and the attributes, and does
  nothing else.

So tensors are read, dicts stay dicts, an argparse.Namespace or any config object becomes a dict of its
attributes, and of numbers, paths, optimisers and code a harmless placeholder is left.
"""

import io
import pickle
import pickletools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor, _utils  # its functions stand by name in every file that torch.save writes


class Items(dict):
    """Replaces dicts with an order or a default; attributes (the `_metadata` of a state dict) are dropped."""

    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]  # placeholders may be keys

    def __init__(self, *args: Any):
        pairs = args[0] if args and isinstance(args[0], list) else []
        super().__init__(pairs)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __setstate__(self, state: Any) -> None:
        pass


class StandIn(Items):
    """Replaces any other object: its items and attributes as a dict. `origin`: the name of its class."""

    origin = ""
    dump_patches = False  # torch asks classes of modules whether to write down how their source has changed

    def __new__(cls, *args: Any, **kwargs: Any) -> "StandIn":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def __call__(self, *args: Any, **kwargs: Any) -> "StandIn":
        return self

    def __setstate__(self, state: Any) -> None:
        """Attributes, as a dict or, of classes with slots, as a pair of dicts."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, Mapping):
                self.update(part)

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Iterable[Any]) -> None:
        pass

    def add(self, item: Any) -> None:
        pass


class Rebuild:
    """A function that rebuilds a value. A pickle can call it, and cannot change it."""

    __slots__ = ("function",)

    def __init__(self, function: Callable):
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a pickle that alters functions")


def parameter(data: Tensor, *_: Any) -> Tensor:
    """A parameter's tensor; hooks and attributes are dropped."""
    return data


def typed(rebuild: Any, kind: Any, args: tuple, state: Any) -> Any:
    """The tensor of a subclass, as a plain one; `rebuild` is one of `REBUILD`, or a stand-in."""
    return rebuild(*args)


# Names as torch.save writes them: they are part of its format.
TENSORS = "torch._utils"
REBUILD: dict[tuple[str, str], Any] = {
    (TENSORS, "_rebuild_tensor"): Rebuild(_utils._rebuild_tensor),
    (TENSORS, "_rebuild_tensor_v2"): Rebuild(_utils._rebuild_tensor_v2),
    (TENSORS, "_rebuild_tensor_v3"): Rebuild(_utils._rebuild_tensor_v3),
    (TENSORS, "_rebuild_parameter"): Rebuild(parameter),
    (TENSORS, "_rebuild_parameter_with_state"): Rebuild(parameter),
    ("torch._tensor", "_rebuild_from_type_v2"): Rebuild(typed),
    ("torch", "Size"): Rebuild(tuple),
    ("collections", "OrderedDict"): Items,
    ("collections", "defaultdict"): Items,
}


class Unpickler(pickle.Unpickler):
    """Reads one pickle. Raises: pickle.UnpicklingError where it is cut off, or is none."""

    def __init__(self, file: BinaryIO, **options: Any):
        super().__init__(file, **options)
        self.file = file

    def load(self) -> Any:
        check(self.file)
        return super().load()

    def find_class(self, module: str, name: str) -> Any:
        """The value that stands for a name of the pickle; nothing is imported."""
        if (module, name) in REBUILD:
            return REBUILD[module, name]

        value = vars(torch).get(name) if module in ("torch", "torch.storage") else None
        is_storage = isinstance(value, type) and issubclass(value, torch.TypedStorage | torch.UntypedStorage)
        if is_storage or isinstance(value, torch.dtype):
            return value
        return type("StandIn", (StandIn,), {"origin": f"{module}.{name}"})


def load(file: BinaryIO, **options: Any) -> Any:
    return Unpickler(file, **options).load()


def loads(content: bytes, **options: Any) -> Any:
    return load(io.BytesIO(content), **options)


def check(file: BinaryIO) -> None:
    """Reads the pickle's instructions without carrying them out; the file's position stays.

    Numbers of memo entries must not exceed the instructions, else one changed bit would take gigabytes.
    """
    start = file.tell()
    try:
        for count, (code, argument, _) in enumerate(pickletools.genops(file)):
            if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(str(argument)) <= count:
                raise pickle.UnpicklingError(f"memo entry {argument} after {count} instructions")
    except (ValueError, EOFError) as error:
        raise pickle.UnpicklingError(str(error)) from None
    file.seek(start)
