"""The world's version, and the hash that shows whether its definition is still what the version stands for.

Figures on the generated world hold for one version. A change of the world's looks raises the version and
sets the new hash; a test compares it with the code.
"""

import hashlib

import numpy as np

from core.world.motions import MOVES
from core.world.render import radiance
from core.world.scene import MOVING, STILL, sample
from core.world.solids import SHAPES

WORLD_VERSION = 1
WORLD_HASH = "b8d90069"


def definition_hash() -> str:
    """Eight hex digits of the labels and pictures of scenes of every shape and motion, in double precision.

    Colours are rounded to 1e-5, so that machines that differ in the last bits agree.
    """
    digest = hashlib.sha256(repr((SHAPES, MOVES)).encode())
    for ranges in (STILL, MOVING):
        for split in ("train", "test"):
            scenes = [sample(0, split, index, ranges) for index in range(64)]
            labels = [(scene.shape, scene.motion) for scene in scenes]
            digest.update(repr(labels).encode())

            colours, solid = radiance(scenes, (0.0, 0.4), 12, np.float64)
            digest.update(np.rint(colours * 1e5).astype("<i8").tobytes())
            digest.update(solid.tobytes())
    return digest.hexdigest()[:8]
