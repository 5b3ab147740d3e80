""".ply by plyfile: clouds, and meshes by their surface."""

import numpy as np

from core.data.sources import Item
from core.errors import BadSample
from modalities.point.formats import mesh
from modalities.point.formats.cloud import Cloud, is_plain, join_columns, open_binary


def read(item: Item, surface: int) -> Cloud:
    """The vertices and all their numbers; of a mesh `surface` points of its faces."""
    from plyfile import PlyData

    if is_plain(item):
        source, mapping = item.path, "c"  # copy on write: the file is read where it is looked at
    else:
        source, mapping = open_binary(item), False
    content = PlyData.read(source, mmap=mapping)

    if "vertex" not in content:
        raise BadSample("has no element 'vertex': a cloud is one of vertices with x, y and z")
    if "face" in content and len(content["face"]):
        return mesh.read(item, surface)

    vertices = content["vertex"].data
    columns = {}
    for name in vertices.dtype.names:
        if vertices.dtype[name].kind in "fiu":
            columns[name] = np.asarray(vertices[name])
    return Cloud(join_columns(columns, "its vertices"))
