"""Which frames make a clip: the published rules, as pure functions from numbers to frame indices.

Everywhere: the video has `frames`, counted from 0, and a clip `length`. Too short ones repeat their last frame.
They raise ValueError when a number is not positive.
"""

import torch


def starts(frames: int, length: int, stride: int) -> int:
    """How many frames a clip, its frames `stride` apart, may start with; at least 1. VideoMAE draws one of them."""
    _check(frames, length, stride)
    return max(1, frames - length * stride + 1)


def strided(frames: int, length: int, stride: int, start: int, last: int | None = None) -> list[int]:
    """Every `stride`-th frame from `start` on, up to frame `last`, then the one reached last again and again.

    `last` is the final frame of the video unless given. VideoMAE and VideoMAE V2 compare strictly in pre-training and
    never use that one: `last = frames - 2`, which tells for short videos and at stride 1.
    """
    _check(frames, length, stride)
    steps = max(0, ((frames - 1 if last is None else last) - start) // stride)
    return [start + stride * min(step, steps) for step in range(length)]


def timed(frames: int, length: int, span: float, start: float) -> list[int]:
    """`length` frames spread over `span` frames from `start` on, both real numbers; never backwards.

    Source: st-MAE, which draws start from [0, max(frames − span, 0)].
    """
    _check(frames, length, span)
    return torch.linspace(start, start + max(span - 1, 0), length).clamp(0, frames - 1).long().tolist()


def span_of(length: int, stride: float, fps: float, target_fps: float) -> float:
    """Frames at `fps` that last as long as `length` frames, `stride` apart, at `target_fps`. Source: st-MAE."""
    _check(length, stride, fps, target_fps)
    return stride * length / target_fps * fps


def ends(frames: int, length: int, stride: int) -> range:
    """Where the clips of `spread` may end: fine-tuning draws one of them. Source: VideoMAE V2, fine-tuning."""
    _check(frames, length, stride)
    return range(length * stride, max(frames, length * stride + 1))


def spread(frames: int, length: int, stride: int, end: int | None = None) -> list[int]:
    """`length` frames spread over `length * stride` frames before `end`; without an end, those in the middle.

    The distance is not quite `stride`: the first and the last frame of the span are both taken. A video no longer than
    the span gives frames / `stride` frames over all of it, then its last one. Source: VideoMAE V2, fine-tuning.
    """
    _check(frames, length, stride)
    span = length * stride
    if frames <= span:
        indices = torch.linspace(0, frames, frames // stride, dtype=torch.float64).tolist()
        indices += [frames] * (length - len(indices))
        return [min(int(index), frames - 1) for index in indices]
    end = (span + frames) // 2 if end is None else end
    indices = torch.linspace(end - span, end, length, dtype=torch.float64).tolist()
    return [min(int(index), end - 1) for index in indices]


def dense_views(frames: int, length: int, stride: int, views: int) -> list[list[int]]:
    """`views` clips from start to end of the video, frames `stride` apart. Source: VideoMAE (Kinetics test)."""
    _check(frames, length, stride, views)
    taken = list(range(0, frames, stride))
    taken += taken[-1:] * (length - len(taken))
    step = (len(taken) - length) / max(views - 1, 1)
    return [taken[int(view * step) :][:length] for view in range(views)]


def sparse_views(frames: int, length: int, views: int) -> list[list[int]]:
    """`views` interleaved clips, each of one frame out of each of `length` equal parts.

    Source: VideoMAE (Something-Something test), written for two views.
    """
    _check(frames, length, views)
    tick = frames / length
    taken = sorted(int(view * tick / views + tick * part) for view in range(views) for part in range(length))
    return [taken[view::views] for view in range(views)]


def uniform(frames: int, length: int) -> list[int]:
    """The middles of `length` equal parts of the whole video."""
    _check(frames, length)
    return [int((part + 0.5) * frames / length) for part in range(length)]


def _check(*numbers: float) -> None:
    if min(numbers) <= 0:
        raise ValueError(f"numbers of frames, strides, views and rates must be positive: {numbers}")
