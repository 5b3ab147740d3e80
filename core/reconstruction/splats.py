"""Stills of scenes: every point a disc, nearer ones in front of those behind, lit by depth."""

import io

import numpy as np
from PIL import Image

from core.reconstruction.pictures import Raster, Scene

AZIMUTH, ELEVATION = 35.0, 22.0  # degrees of the camera, round the vertical axis and above the ground
DISC = 1 / 110  # radius of a point's disc, as a share of the picture's side
LEAST = 1.2  # pixels, of a disc's radius in small pictures
MARGIN = 0.04  # of the picture's side round the sphere in sight
FINE = 2  # drawn larger by this factor, then averaged
FAR, RIM = 0.35, 0.6  # opacity of the farthest points, brightness of a disc's rim


def still(scene: Scene, side: int) -> Raster:
    """The scene as a PNG of `side` pixels, on a transparent ground."""
    width = side * FINE
    places, depths, colours = _project(scene, width)
    radius = max(DISC * side, LEAST) * FINE

    # One fragment for each point and pixel of its disc (n, K), the farthest points in front.
    reach = int(np.ceil(radius))
    steps = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
    cells = np.floor(places).astype(int)[:, None] + steps
    distance = np.linalg.norm(cells + 0.5 - places[:, None], axis=2) / radius
    point, step = np.nonzero((distance <= 1) & (cells >= 0).all(2) & (cells < width).all(2))

    # Of several fragments in one pixel the one assigned last, which is the nearest, stays.
    pixels = np.zeros((width, width, 4))
    rows, columns = cells[point, step].T
    light = 1 - (1 - RIM) * distance[point, step] ** 2
    pixels[rows, columns, :3] = colours[point] * light[:, None]
    pixels[rows, columns, 3] = (FAR + (1 - FAR) * depths)[point]

    return Raster(scene.label, scene.alt, data=_png(pixels, side), size=(side, side), mime="image/png")


def directions(up: int) -> np.ndarray:
    """Rows: the unit vectors to the right, upwards and towards the camera, in x, y, z; `up`: the vertical axis."""
    azimuth, elevation = np.radians([AZIMUTH, ELEVATION])
    sine, cosine = np.sin(azimuth), np.cos(azimuth)

    # With the third axis up; rolling the axes keeps handedness.
    right = np.array([-sine, cosine, 0])
    toward = np.array([cosine * np.cos(elevation), sine * np.cos(elevation), np.sin(elevation)])
    rows = np.stack([right, np.cross(toward, right), toward])
    return np.roll(rows, up - 2, axis=1)


def _project(scene: Scene, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places (n, 2) as row and column in pixels, depths (n,) from 0 far to 1 near, and colours, the farthest first.

    Points outside of the sphere in sight are left out.
    """
    positions = np.concatenate([part.positions for part in scene.sets]).astype(np.float64)
    colours = np.concatenate([part.colours for part in scene.sets])

    local = (positions - scene.centre) / scene.radius
    right, upwards, toward = directions(scene.up) @ local.T
    order = np.argsort(toward, kind="stable")
    order = order[(np.linalg.norm(local, axis=1) <= 1)[order]]

    scale = (0.5 - MARGIN) * width
    places = np.stack([width / 2 - scale * upwards, width / 2 + scale * right], axis=1)
    return places[order], (toward[order] + 1) / 2, colours[order]


def _png(pixels: np.ndarray, side: int) -> bytes:
    """Pixels (H, W, 4) in [0, 1], made smaller to `side`."""
    picture = Image.fromarray((255 * pixels).round().astype(np.uint8))
    buffer = io.BytesIO()
    picture.resize((side, side), Image.Resampling.BOX).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
