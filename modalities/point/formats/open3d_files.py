"""Meshes of further formats by Open3D, an extra of its own."""

import tempfile
from pathlib import Path

import numpy as np

from core.data.sources import Item
from modalities.point.formats import mesh
from modalities.point.formats.cloud import Cloud, is_plain, open_binary

SUFFIXES = (".gltf", ".fbx")


def read(item: Item, surface: int) -> Cloud:
    """`surface` points of a mesh; its vertices where it has no faces."""
    if is_plain(item):
        return _read(item.path, surface)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"mesh{item.suffix}"
        with open_binary(item) as stream:
            path.write_bytes(stream.read())
        return _read(str(path), surface)


def _read(path: str, surface: int) -> Cloud:
    import open3d

    solid = open3d.io.read_triangle_mesh(path)
    return mesh.sample(np.asarray(solid.vertices), np.asarray(solid.triangles), surface)
