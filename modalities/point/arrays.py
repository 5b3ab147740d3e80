"""Grouping on CPUs, in numpy and scipy, where a call costs a fraction of torch's. All ways give the same rows.

Planes are contiguous coordinates x, y, z by axis: (3, B, N) of a batch, (3, N) of one cloud, float32.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

PRUNE_FROM = 40_000  # points of a cloud; measured: from about 30,000 on boxes cost less than they save
TREE_FROM = 1_500  # points of a cloud; measured: for fewer, all distances cost less than a tree
CELL = 256  # points of a box; measured: 64 to 512 differ little
BLOCK = 2**16  # distances at a time: 1 MB with their keys, about what a core's cache holds
EXTRA = 4  # neighbours more than needed: equals beyond the last are rare
ROUNDING = 1e-6  # relative, of a float32 sum of three squared differences: eight times 2**-24, and some room
SMALLEST = 1e-37  # squares below have lost digits

LOW = 32  # bits of a row in a key
ROW = 2**LOW - 1


def farthest(planes: NDArray, nearest: NDArray, count: int) -> NDArray:
    """Farthest-point sampling of a batch: rows (B, count). `nearest` (B, N): the distances to start from."""
    clouds, points = nearest.shape
    if points >= PRUNE_FROM:
        return np.stack([pruned_farthest(planes[:, b], nearest[b], count) for b in range(clouds)])

    size = max(1, BLOCK // (2 * points))
    rows = [_farthest(planes[:, b : b + size], nearest[b : b + size], count) for b in range(0, clouds, size)]
    return np.concatenate(rows)


def _farthest(planes: NDArray, nearest: NDArray, count: int) -> NDArray:
    nearest, gaps = nearest.copy(), np.empty_like(planes)
    clouds = np.arange(len(nearest))
    rows = np.zeros((len(nearest), count), np.int64)

    for step in range(1, count):
        centre = planes[:, clouds, rows[:, step - 1]]
        np.subtract(planes, centre[..., None], out=gaps)
        np.minimum(nearest, _squares(gaps), out=nearest)
        rows[:, step] = nearest.argmax(1)
    return rows


def pruned_farthest(planes: NDArray, nearest: NDArray, count: int) -> NDArray:
    """Farthest-point sampling of one large cloud: rows (count,).

    Points lie in cells of equal size, each with its box. A centre changes no distance in a cell whose box is at least
    as far away as the cell's largest distance: rounding is monotonic, so this holds of the rounded numbers too.
    """
    order = _cells(planes)
    cells, points = np.arange(len(order)), np.ascontiguousarray(planes[:, order].swapaxes(0, 1))
    low, high = points.min(2).T.copy(), points.max(2).T.copy()

    # Of each cell: its largest distance, and the lowest row that has it.
    nearest = nearest[order]
    leads = nearest.argmax(1)
    largest, leads = nearest[cells, leads], order[cells, leads]

    rows = np.zeros(count, np.int64)
    for step in range(1, count):
        centre = planes[:, rows[step - 1], None]
        gaps = np.maximum(low - centre, centre - high)
        np.maximum(gaps, 0, out=gaps)
        near = np.flatnonzero(_squares(gaps) < largest)

        gaps = points.take(near, 0)
        gaps -= centre
        distances = np.minimum(nearest.take(near, 0), _squares(gaps.swapaxes(0, 1)))
        nearest[near] = distances

        places = distances.argmax(1)
        largest[near] = distances[cells[: len(near)], places]
        leads[near] = order[near, places]
        rows[step] = leads[largest == largest.max()].min()
    return rows


def _cells(planes: NDArray) -> NDArray:
    """Rows of the points by cells, ascending in each: slices of equal size along x, then y, then z.

    Row 0 fills up the last places: a copy of a centre changes nothing.
    """
    points = planes.shape[1]
    side = max(1, round((points / CELL) ** (1 / 3)))
    order = np.zeros(-(-points // side**3) * side**3, np.int64)
    order[:points] = np.arange(points)

    for axis, plane in enumerate(planes):
        order = order.reshape(side**axis, -1)
        order = np.take_along_axis(order, plane[order].argsort(1), 1)
    return np.sort(order.reshape(side**3, -1), 1)


def neighbours(queries: NDArray, points: NDArray, count: int) -> NDArray:
    """Rows (B, Q, count) of the nearest points, ascending; of equals the lower row. Planes (3, B, Q) and (3, B, N)."""
    if points.shape[2] < TREE_FROM:
        return direct_neighbours(queries, points, count)

    pairs = zip(queries.swapaxes(0, 1), points.swapaxes(0, 1), strict=True)
    return np.stack([tree_neighbours(sample, cloud, count) for sample, cloud in pairs])


def direct_neighbours(queries: NDArray, points: NDArray, count: int) -> NDArray:
    """By all squared differences, some queries at a time."""
    rows, near = np.arange(points.shape[2]), []
    size = max(1, BLOCK // max(1, points[0].size))

    for start in range(0, queries.shape[2], size):
        part = queries[:, :, start : start + size, None]
        squares = np.zeros((*part.shape[1:3], len(rows)), np.float32)
        for sample, plane in zip(part, points, strict=True):
            gaps = sample - plane[:, None]
            gaps *= gaps
            squares += gaps

        keys = _keys(squares, rows)
        if count < len(rows):
            keys.partition(count - 1, axis=2)
        near.append(np.sort(keys[..., :count], 2) & ROW)
    return np.concatenate(near, 1)


def tree_neighbours(queries: NDArray, points: NDArray, count: int) -> NDArray:
    """By a k-d tree, for one cloud: planes (3, Q) and (3, N) -> rows (Q, count).

    The tree finds somewhat more than `count` points in double precision; float32 squared differences rank them. A point
    beyond those is no neighbour where the last neighbour is nearer than it by more than rounding. Where that fails
    (many equals), the query is repeated for four times as many, then directly.
    """
    samples, cloud = queries.T, np.ascontiguousarray(points.T)
    tree = cKDTree(cloud, balanced_tree=False, compact_nodes=False)  # half the time to build
    rows, unsettled = np.zeros((len(samples), count), np.int64), np.arange(len(samples))

    for more in (count + EXTRA, 4 * (count + EXTRA)):
        if more > len(cloud) // 4:
            break

        pending = []
        for part in np.array_split(unsettled, -(-len(unsettled) * more // BLOCK) or 1):
            distances, near = tree.query(samples[part], more)
            squares = _squares(np.moveaxis(cloud[near] - samples[part, None], 2, 0))
            rows[part] = np.sort(_keys(squares, near), 1)[:, :count] & ROW

            last = np.partition(squares, count - 1, axis=1)[:, count - 1]
            nearer = last < distances[:, -1] ** 2 * (1 - ROUNDING) - SMALLEST
            pending.append(part[~nearer])
        unsettled = np.concatenate(pending)

    if len(unsettled):
        rows[unsettled] = direct_neighbours(queries[:, None, unsettled], points[:, None], count)[0]
    return rows


def _squares(gaps: NDArray) -> NDArray:
    """Sum of the squares of differences by axis (3, ...), in the place of the first of them."""
    gaps *= gaps
    x, y, z = gaps
    x += y
    x += z
    return x


def _keys(squares: NDArray, rows: NDArray) -> NDArray:
    """Numbers in the order of squares, equals in the order of rows: bits of a float >= 0 ascend with its value."""
    keys = squares.view(np.int32).astype(np.int64)
    keys <<= LOW
    keys |= rows
    return keys
