"""Cuts RadHAR's sequences into clouds, one file for each window of frames, with a list of them.

    python -m benchmarks.radhar <folder of radhar-*.npz> <out> [--frames 8] [--stride 8]

RadHAR (nesl/RadHAR): radar points of five activities, 30 frames a second. Writes <out>/<split>/<sequence>_<frame>.npy,
float32 (points, 3): x, y, z in metres; and <out>/windows.csv: file, split, label, group (the sequence, so that
intervals are over sequences). Windows of fewer than `FEWEST` points are left out, and counted.

    python -m core.train modality=point data=folder data.root=<out>/windows.csv
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

FEWEST = 32  # points of a window


class Window(NamedTuple):
    """Frames of one sequence as a cloud: `points` (N, 3) float32."""

    name: str
    label: str
    sequence: str
    points: np.ndarray


def windows(path: Path, frames: int, stride: int) -> Iterator[Window]:
    """The windows of all sequences of a file, in order; a window lies whole in its sequence."""
    with np.load(path) as file:
        content = {name: file[name] for name in file.files}
    points = content["points"][:, :3].astype(np.float32)
    ends = np.concatenate([[0], np.cumsum(content["frame_counts"], dtype=np.int64)])  # points before each frame

    for number, label in enumerate(content["label"]):
        first, last = content["seq_frame_offsets"][number : number + 2]
        sequence = f"{path.stem}-{number:03d}"
        for start in range(first, last - frames + 1, stride):
            cloud = points[ends[start] : ends[start + frames]]
            yield Window(f"{sequence}_{start - first:05d}", str(content["classes"][label]), sequence, cloud)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--stride", type=int, default=8)
    args = parser.parse_args()

    rows, left_out = [], 0
    for path in sorted(args.folder.glob("radhar-*.npz")):
        split = "train" if "train" in path.stem else "test"
        (args.out / split).mkdir(parents=True, exist_ok=True)
        for window in windows(path, args.frames, args.stride):
            if len(window.points) < FEWEST:
                left_out += 1
                continue
            file = f"{split}/{window.name}.npy"
            np.save(args.out / file, window.points)
            rows.append([file, split, window.label, window.sequence])

    with (args.out / "windows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "split", "label", "group"], *rows])
    print(f"{len(rows)} windows in {args.out}; {left_out} with fewer than {FEWEST} points were left out")


if __name__ == "__main__":
    main()
