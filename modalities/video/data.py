"""Video files as raw samples: uint8 (R, C, T, H, W)."""

from collections.abc import Sequence
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from core.data.reader import WholeReader
from core.data.sources import Item
from core.errors import BadSample, UserError
from modalities.video import sampling
from modalities.video.frames import Frames, Stored, Video
from modalities.video.reader import Decoder, open_video
from modalities.video.transforms import NEAREST, CentreCrop, MultiScaleCrop

STRIDE = 4  # of VideoMAE on Kinetics, and of st-MAE
WHOLE = 2**24  # bytes of all frames: a video of no more is decoded whole where it may be kept in memory
ARRAYS = (".npy", ".npz")
LUMA = torch.tensor([19595, 38470, 7471], dtype=torch.int32)[:, None, None]  # ITU-R 601 in 1/65536, as images have it


class VideoClips(WholeReader):
    """Reads clips of one video as uint8 (R, C, T, H, W), where `size` is (T, H, W).

    Training draws `repeats` views of the video, decoded in one go. They share their frames (VideoMAE V2), or with
    `resample_time` each has its own start (st-MAE). Each goes through `transform`, a list of torchvision v2 transforms
    of whole clips, uint8 (T, C, h, w), by default VideoMAE's multi-scale crop; what they leave is fitted to `size` by a
    centre crop. Evaluation has R = 1: the clip in the middle and its centre crop.

    Frames are `stride` apart; with `target_fps`, as far apart as `stride` frames are at that rate (st-MAE: 4 and 30;
    V-JEPA 2: 1 and 4). A video that is too short repeats its last frame. `stride` None is 4, or for short videos as
    much less as makes the clip fit.

    `channels`: 3, or 1 for luma. Arrays are videos too: uint8 (T, H, W), or (T, H, W, C) with one or three channels.
    Only what a clip needs is decoded, but short videos whole where they may be kept in memory (`decode`).
    """

    view = "video"
    extensions = (
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".gif"),
        *ARRAYS,
    )

    def __init__(
        self,
        size: Sequence[int],
        stride: int | None = None,
        target_fps: float | None = None,
        channels: int = 3,
        transform: Sequence[nn.Module] | None = None,
        repeats: int = 1,
        resample_time: bool = False,
        decoder: Decoder = "pyav",
    ):
        self.size = tuple(size)
        if len(self.size) != 3 or min(self.size) < 1:
            raise UserError(f"modality.reader.size is {size}: it must be [frames, height, width], each at least 1.")
        if channels not in (1, 3) or repeats < 1:
            raise UserError("modality.reader: channels must be 1 or 3, and repeats at least 1.")
        if (stride is not None and stride < 1) or (target_fps is not None and target_fps <= 0):
            raise UserError("modality.reader: stride must be at least 1 and target_fps more than 0, or null.")
        self.stride, self.target_fps, self.channels = stride, target_fps, channels
        self.repeats, self.resample_time, self.decoder = repeats, resample_time, decoder
        self.transform = nn.Sequential(*([MultiScaleCrop(self.size)] if transform is None else transform))

    def read(self, item: Item, train: bool) -> Tensor:
        with self._open(item) as video:
            return self.augment(video, train)

    def decode(self, item: Item) -> Video:
        """All frames in memory if they take at most 16 MiB; else a video that opens the file again for each clip."""
        with self._open(item) as video:
            if video.frames * video.get([0]).nbytes <= WHOLE:
                return Frames(video.get(range(video.frames)), video.fps)
            return Stored(partial(self._open, item), video.frames, video.fps)

    def augment(self, raw: Video, train: bool) -> Tensor:
        views = self.repeats if train else 1
        places = torch.rand(views if self.resample_time else 1).tolist() if train else [0.5]
        indices = [self.indices(raw.frames, raw.fps, place) for place in places]
        pictures = raw.get(list(chain.from_iterable(indices)))
        clips = pictures.permute(0, 3, 1, 2).unflatten(0, (len(places), -1))
        return torch.stack([self._view(clips[view % len(clips)], train) for view in range(views)])

    def objects(self, item: Item) -> Tensor | None:
        """Object pixels (T, H, W) out of the .npy (all frames, h, w) beside the video."""
        if "object" not in item.aux:
            return None
        mask = torch.from_numpy(np.load(item.aux["object"], allow_pickle=False))
        with self._open(item) as video:
            indices = self.indices(video.frames, video.fps, 0.5)
            if len(mask) != video.frames:
                raise BadSample(f"has {video.frames} frames, but {item.aux['object']} has {len(mask)}")
        return CentreCrop(self.size, NEAREST)(mask[indices].to(torch.uint8)[:, None])[:, 0].bool()

    def indices(self, frames: int, fps: float | None, place: float) -> list[int]:
        """The frames of the clip that starts `place` (0 to 1) of the way from the first possible start to the last."""
        length = self.size[0]
        if self.target_fps is None:
            stride = self.stride or min(STRIDE, max(1, frames // length))
            start = int(place * sampling.starts(frames, length, stride))
            return sampling.strided(frames, length, stride, start)
        if fps is None:
            raise BadSample("its frame rate is not known, which modality.reader.target_fps needs")
        span = sampling.span_of(length, self.stride or STRIDE, fps, self.target_fps)
        span = span if self.stride else min(span, frames)
        return sampling.timed(frames, length, span, place * max(frames - span, 0))

    def _open(self, item: Item) -> Video:
        if item.suffix in ARRAYS:
            return _from_array(item.array())
        return open_video(item.path if item.member is None else item.open(), self.decoder)

    def _view(self, clip: Tensor, train: bool) -> Tensor:
        """(T, C, h, w) -> (C, T, H, W)."""
        clip = CentreCrop(self.size)(self.transform(clip) if train else clip)
        if clip.dtype != torch.uint8:
            raise UserError(f"modality.reader.transform makes clips of {clip.dtype}: they must stay uint8.")
        return (_luma(clip) if self.channels == 1 else clip).transpose(0, 1)


def _luma(clip: Tensor) -> Tensor:
    """uint8 (T, 3, H, W) -> (T, 1, H, W); grey stays what it is."""
    return ((clip * LUMA).sum(1, keepdim=True) + 0x8000 >> 16).to(torch.uint8)


def _from_array(values: np.ndarray) -> Frames:
    values = values[..., None] if values.ndim == 3 else values
    if values.ndim != 4 or values.shape[-1] not in (1, 3) or not values.size or values.dtype != np.uint8:
        raise BadSample(
            f"an array of {values.dtype} {values.shape}: videos must be uint8 (T, H, W) or (T, H, W, C), C 1 or 3"
        )
    return Frames(torch.from_numpy(values).expand(-1, -1, -1, 3))
