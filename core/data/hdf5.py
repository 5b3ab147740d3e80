"""HDF5 files: their arrays by name, which stay on disk."""

from typing import Any

import numpy as np

from core.errors import UserError

EXTENSIONS = (".h5", ".hdf5")
EXTRA = 'pip install "lacuna-ssl[points]"'


def is_hdf5(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS)


def load(source: Any) -> dict[str, Any]:
    """The arrays of a file, a path or a binary stream: h5py's data sets, of which indexing reads rows.

    Arrays in groups are named "group/array"; texts are read at once.
    Raises: UserError where h5py is missing; OSError where the file is damaged.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"data.root: {source} needs h5py: {EXTRA}.") from error

    arrays: dict[str, Any] = {}

    def add(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.shape is not None:
            is_text = h5py.check_string_dtype(node.dtype) is not None
            arrays[name] = _texts(node) if is_text else node

    h5py.File(source, "r").visititems(add)
    return arrays


def _texts(node: Any) -> np.ndarray:
    return np.asarray(node.asstr()[()], dtype=np.str_)
