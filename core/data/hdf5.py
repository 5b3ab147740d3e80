"""HDF5 files: their arrays by name, which stay on disk."""

from typing import Any

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

    file = h5py.File(source, "r")
    arrays: dict[str, Any] = {}

    def add(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.shape is not None:
            arrays[name] = node
            if h5py.check_string_dtype(node.dtype) is not None:
                arrays[name] = node.asstr()[()].astype(str) if node.ndim else node[()]

    file.visititems(add)
    return {name: array for name, array in arrays.items() if hasattr(array, "dtype")}
