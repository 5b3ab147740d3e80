"""`benchmarks/radhar.py`: windows lie whole in their sequences and hold the points of their frames."""

import numpy as np

from benchmarks.radhar import windows


def test_windows_of_two_sequences(tmp_path):
    counts = np.array([2, 1, 3, 2, 4, 1, 2], dtype=np.uint16)  # 4 frames, then 3
    points = np.arange(15 * 5, dtype=np.float16).reshape(15, 5)
    np.savez(
        tmp_path / "radhar-train.npz",
        points=points, frame_counts=counts, seq_frame_offsets=[0, 4, 7], label=[1, 0], classes=["jack", "walk"],
    )  # fmt: skip
    found = list(windows(tmp_path / "radhar-train.npz", frames=2, stride=2))
    assert [window.name for window in found] == [
        "radhar-train-000_00000", "radhar-train-000_00002", "radhar-train-001_00000",
    ]  # fmt: skip
    assert [window.label for window in found] == ["walk", "walk", "jack"]
    assert [window.sequence for window in found] == ["radhar-train-000"] * 2 + ["radhar-train-001"]
    for window, rows in zip(found, (slice(0, 3), slice(3, 8), slice(8, 13)), strict=True):
        assert window.points.dtype == np.float32 and (window.points == points[rows, :3]).all()
