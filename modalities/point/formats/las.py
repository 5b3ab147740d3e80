""".las and .laz by laspy."""

import numpy as np

from core.data.sources import Item
from core.errors import BadSample
from modalities.point.formats.cloud import Cloud, open_binary

CHUNK = 2**20  # points


def read(item: Item) -> Cloud:
    """x, y, z from the file's own smallest corner, in its units, intensity, and red, green, blue where it has them.

    Intensity and colours are shares of 65535. Counting from the corner keeps centimetres where coordinates are
    those of a map, in the hundred thousands.
    """
    import laspy

    with open_binary(item) as stream, laspy.open(stream) as file:
        names = [*file.header.point_format.dimension_names]
        channels = [name for name in ("intensity", "red", "green", "blue") if name in names]
        corner = np.asarray(file.header.mins)

        points = np.empty((file.header.point_count, 3 + len(channels)), np.float32)
        start = 0
        for chunk in file.chunk_iterator(CHUNK):
            rows = points[start : start + len(chunk)]
            for axis, values in enumerate((chunk.x, chunk.y, chunk.z)):
                rows[:, axis] = np.asarray(values) - corner[axis]
            for number, name in enumerate(channels, 3):
                rows[:, number] = np.asarray(chunk[name]) / np.iinfo(np.uint16).max
            start += len(chunk)

    if start < len(points):
        raise BadSample(f"is cut: it has {start} of {len(points)} points")
    return Cloud(points)
