"""The published rules for the frames of a clip, as pure functions from numbers to frame indices.

The video has `frames` frames, numbered from 0, and a clip `length`. A video that is too short repeats its
last frame. Every function raises ValueError when a number is not positive.
"""

import numpy as np
import torch

NEARLY = 1e-6  # seconds, for times that were rounded


def starts(frames: int, length: int, stride: int) -> int:
    """The number of possible first frames of a clip with frames `stride` apart; at least 1."""
    _check(frames, length, stride)
    return max(1, frames - length * stride + 1)


def strided(frames: int, length: int, stride: int, start: int, last: int | None = None) -> list[int]:
    """Every `stride`-th frame from `start` on, up to frame `last`; then the final one of these is repeated.

    `last` is the final frame of the video by default. VideoMAE and VideoMAE V2 compare strictly in
    pre-training and never use that one: `last = frames - 2`, which makes a difference for short videos and at
    stride 1.
    """
    _check(frames, length, stride)
    if last is None:
        last = frames - 1
    steps = max(0, (last - start) // stride)
    return [start + stride * min(step, steps) for step in range(length)]


def timed(frames: int, length: int, span: float, start: float) -> list[int]:
    """`length` frames spread over `span` frames from `start` on, both real numbers; never backwards.

    Source: st-MAE, which draws start from [0, max(frames − span, 0)].
    """
    _check(frames, length, span)
    return torch.linspace(start, start + max(span - 1, 0), length).clamp(0, frames - 1).long().tolist()


def timed_by(times: np.ndarray, length: int, span: float, position: float) -> list[int]:
    """`length` frames, `span` / `length` seconds apart, of a video whose frames are shown
    at `times` (ascending).

    At each point the frame that is shown there. `position`: from 0, the first possible start, to 1, the last;
    the last frame is shown for as long as the frames are on average.
    """
    _check(len(times), length, span)
    duration = times[-1] - times[0] + mean_interval(times)
    start = times[0] + position * max(duration - span, 0)
    points = start + span / length * np.arange(length)

    shown = np.searchsorted(times, points + NEARLY, side="right") - 1
    return shown.clip(0, len(times) - 1).tolist()


def mean_interval(times: np.ndarray) -> float:
    """Seconds from frame to frame; 0 for a single one."""
    return (times[-1] - times[0]) / max(len(times) - 1, 1)


def span_of(length: int, stride: float, fps: float, target_fps: float) -> float:
    """Frames at `fps` that last as long as `length` frames, `stride` apart, at `target_fps`.

    Source: st-MAE.
    """
    _check(length, stride, fps, target_fps)
    return stride * length / target_fps * fps


def ends(frames: int, length: int, stride: int) -> range:
    """The possible ends of a clip of `spread`, of which fine-tuning draws one.

    Source: VideoMAE V2, fine-tuning.
    """
    _check(frames, length, stride)
    return range(length * stride, max(frames, length * stride + 1))


def spread(frames: int, length: int, stride: int, end: int | None = None) -> list[int]:
    """`length` frames spread over `length * stride` frames before `end`; without an end, those in the middle.

    The distance is not quite `stride`, as the clip has both the first and the last frame of the span. A video
    no longer than the span gives frames / `stride` frames over all of it, then its last one. Source: VideoMAE
    V2, fine-tuning.
    """
    _check(frames, length, stride)
    span = length * stride

    if frames <= span:
        end = frames
        points = torch.linspace(0, frames, frames // stride, dtype=torch.float64).tolist()
        points += [frames] * (length - len(points))
    else:
        if end is None:
            end = (span + frames) // 2
        points = torch.linspace(end - span, end, length, dtype=torch.float64).tolist()

    return [min(int(point), end - 1) for point in points]


def dense_views(frames: int, length: int, stride: int, views: int) -> list[list[int]]:
    """`views` clips from start to end of the video, frames `stride` apart.

    Source: VideoMAE (Kinetics test).
    """
    _check(frames, length, stride, views)
    indices = list(range(0, frames, stride))
    indices += indices[-1:] * (length - len(indices))

    step = (len(indices) - length) / max(views - 1, 1)
    clips = []
    for view in range(views):
        start = int(view * step)
        clips.append(indices[start : start + length])
    return clips


def sparse_views(frames: int, length: int, views: int) -> list[list[int]]:
    """`views` interleaved clips, each of one frame out of each of `length` equal parts.

    Source: VideoMAE (Something-Something test), written for two views.
    """
    _check(frames, length, views)
    tick = frames / length
    indices = []
    for view in range(views):
        indices += [int(view * tick / views + tick * part) for part in range(length)]

    indices.sort()
    return [indices[view::views] for view in range(views)]


def uniform(frames: int, length: int) -> list[int]:
    """The middles of `length` equal parts of the video."""
    _check(frames, length)
    return [int((part + 0.5) * frames / length) for part in range(length)]


def _check(*numbers: float) -> None:
    if min(numbers) <= 0:
        raise ValueError(f"numbers of frames, strides, views and rates must be positive: {numbers}")
