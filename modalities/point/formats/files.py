"""Files of clouds, whatever their format: an item -> `Cloud`."""

from collections.abc import Callable, Sequence
from functools import partial

from core.data.sources import Item
from core.errors import BadSample, UserError, one_line
from modalities.point.formats import array, las, mesh, open3d_files, pcd, ply, text
from modalities.point.formats.cloud import Cloud, checked

Read = Callable[[Item], Cloud]
TEXTS = (".txt", ".xyz", ".xyzn", ".xyzrgb", ".csv", ".pts")
MESHES = (".off", ".obj", ".stl", ".glb")
HDF5 = (".h5", ".hdf5")
NAMED = (".npz", *HDF5)  # files of several arrays
EXTENSIONS = (
    *(".npy", ".npz", *HDF5, *TEXTS),
    *(".ply", *MESHES, ".pcd", ".las", ".laz", *open3d_files.SUFFIXES),
)


def read(item: Item, surface: int, names: Sequence[str] = ()) -> Cloud:
    """The cloud in a file, a row of an array file or a member of an archive.

    `surface`: points that stand for a mesh. `names`: of the arrays of a file that hold the cloud together; none: the
    usual one. Raises: BadSample with the reason; UserError for a missing package.
    """
    try:
        if names and (item.is_row or item.suffix in NAMED):
            return checked(array.read_named(item, names))
        return checked(_reads(surface)[item.suffix](item))
    except (BadSample, UserError):
        raise
    except ImportError as error:
        extra = "open3d" if item.suffix in open3d_files.SUFFIXES else "points"
        raise UserError(
            f'data.root: {item.key}: {item.suffix} files need `pip install "lacuna-ssl[{extra}]"` ({error}).'
        ) from error
    except Exception as error:  # damaged files raise anything
        raise BadSample(f"is no readable {item.suffix} file: {one_line(error)}") from error


def _reads(surface: int) -> dict[str, Read]:
    """What reads a file, by its extension."""
    of_mesh = partial(mesh.read, surface=surface)
    return {
        ".npy": array.read_npy,
        ".npz": array.read_npz,
        **dict.fromkeys(HDF5, array.read_hdf5),
        **dict.fromkeys(TEXTS, text.read),
        ".ply": partial(ply.read, surface=surface),
        **dict.fromkeys(MESHES, of_mesh),
        ".pcd": pcd.read,
        **dict.fromkeys((".las", ".laz"), las.read),
        **dict.fromkeys(open3d_files.SUFFIXES, partial(open3d_files.read, surface=surface)),
    }
