"""Meshes by trimesh: points on their surface. .off, .obj, .stl, .glb, and .ply with faces."""

import io
import warnings

import numpy as np

from core.data.sources import Item
from core.errors import BadSample
from modalities.point.formats.cloud import Cloud, open_binary

SEED = 0  # of the points on a surface: a file gives the same ones every time


def read(item: Item, surface: int) -> Cloud:
    """`surface` points on the faces, uniform by area; the vertices where a file has no face.

    Raises: BadSample where the faces have no area.
    """
    import trimesh

    with open_binary(item) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged materials
        content = io.BytesIO(stream.read())
        scene = trimesh.load(content, file_type=item.suffix[1:], process=False, skip_materials=True)
    if isinstance(scene, trimesh.Scene):
        scene = scene.to_geometry()
    if not hasattr(scene, "faces"):
        return Cloud(np.asarray(scene.vertices))
    return sample(np.asarray(scene.vertices), np.asarray(scene.faces), surface)


def sample(vertices: np.ndarray, faces: np.ndarray, count: int) -> Cloud:
    """`count` points on faces (F, 3) of vertices (V, 3), uniform by area."""
    import trimesh

    if not len(faces):
        return Cloud(vertices)
    if not np.isfinite(vertices).all():
        raise BadSample("its vertices are not finite (NaN or inf)")

    solid = trimesh.Trimesh(vertices, faces, process=False)
    if not solid.area_faces.sum() > 0:
        raise BadSample(f"its {len(faces)} faces have no area: a mesh is read by points of its surface")
    points, _ = trimesh.sample.sample_surface(solid, count, seed=SEED)
    return Cloud(np.asarray(points), notes=("a mesh, read by points on its surface, uniform by area",))
