"""The eight motions: departure of a solid from its rest pose at angle w of the cycle, with amplitude a."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Offset:
    """Departure from the rest pose. Shapes: all () or all (T,)."""

    x: Array | float = 0.0  # world units
    y: Array | float = 0.0
    z: Array | float = 0.0
    pitch: Array | float = 0.0  # radians
    roll: Array | float = 0.0
    scale: Array | float = 1.0  # a factor


Motion = Callable[[Array, float], Offset]  # (angles () or (T,) in radians, amplitude) -> offset


def still(w: Array, a: float) -> Offset:
    return Offset()


def slide(w: Array, a: float) -> Offset:
    return Offset(x=a * np.sin(w))


def bounce(w: Array, a: float) -> Offset:
    return Offset(y=a * (2 * np.abs(np.sin(w / 2)) - 1))


def nod(w: Array, a: float) -> Offset:
    return Offset(pitch=0.8 * np.sin(w))


def rock(w: Array, a: float) -> Offset:
    return Offset(roll=0.8 * np.sin(w))


def orbit(w: Array, a: float) -> Offset:
    return Offset(x=a * np.cos(w), z=1.6 * a * np.sin(w))


def pulse(w: Array, a: float) -> Offset:
    return Offset(scale=0.9 + 0.3 * np.sin(w))


def swing(w: Array, a: float) -> Offset:
    return Offset(x=a * np.sin(w), y=0.4 * a * np.sin(w) ** 2, roll=0.5 * np.sin(w))


MOTIONS: tuple[Motion, ...] = (still, slide, bounce, nod, rock, orbit, pulse, swing)
MOVES = [motion.__name__ for motion in MOTIONS]  # names of the classes, in the order of the labels
