"""Further formats by Open3D, an extra of its own."""

import tempfile
from pathlib import Path

import numpy as np

from core.data.sources import Item
from modalities.point.formats import mesh
from modalities.point.formats.cloud import Cloud, is_plain, open_binary

SUFFIXES = (".glb", ".gltf", ".fbx", ".xyzrgb", ".xyzn")
CLOUDS = (".xyzrgb", ".xyzn")


def read(item: Item, surface: int) -> Cloud:
    """A cloud with its normals and colours, or `surface` points of a mesh."""
    import open3d

    if is_plain(item):
        return _read(open3d, item.path, surface)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"cloud{item.suffix}"
        with open_binary(item) as stream:
            path.write_bytes(stream.read())
        return _read(open3d, str(path), surface)


def _read(open3d, path: str, surface: int) -> Cloud:
    if path.lower().endswith(CLOUDS):
        cloud = open3d.io.read_point_cloud(path)
        parts = [np.asarray(cloud.points), np.asarray(cloud.normals), np.asarray(cloud.colors)]
        return Cloud(np.concatenate([part for part in parts if len(part)], 1))
    solid = open3d.io.read_triangle_mesh(path)
    return mesh.sample(np.asarray(solid.vertices), np.asarray(solid.triangles), surface)
