"""Video files as raw samples: uint8 (R, C, T, H, W)."""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from core.data.facts import SampleFacts
from core.data.reader import PIXELS, WholeReader
from core.data.sources import Item
from core.errors import BadSample, UserError
from modalities.image.formats import files
from modalities.image.formats.picture import with_channels
from modalities.video import sampling
from modalities.video.formats.decoder import Decoder, open_video
from modalities.video.formats.folder import FrameFolder
from modalities.video.formats.frames import FileVideo, MemoryVideo, Video, cut
from modalities.video.transforms import NEAREST, CentreCrop, MultiScaleCrop

STRIDE = 4  # of VideoMAE on Kinetics, and of st-MAE
MEMORY_BYTES = 2**24  # largest video, all frames together, that `decode` holds in memory
CONTAINERS = (
    *(
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".divx",
        ".mpg",
        ".mpeg",
        ".m2v",
        ".vob",
        ".ts",
        ".m2ts",
        ".mts",
    ),
    *(".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".mxf", ".gif"),
)
ARRAYS = (".npy", ".npz")
MOST_BANDS = 16  # of an array of three frames or fewer; a longer last axis is the width of pictures


class VideoClips(WholeReader):
    """Reads clips of one video as uint8 (R, C, T, H, W), where `size` is (T, H, W).

    Training draws `repeats` views of the video, decoded in one go. They share their frames (VideoMAE V2), or
    with `resample_time` each has its own start (st-MAE). Each goes through `transform`, a list of torchvision
    v2 transforms of whole clips, uint8 (T, C, h, w), by default VideoMAE's multi-scale crop; a centre crop
    then fits the result to `size`. Evaluation has R = 1: the clip in the middle and its centre crop.

    Frames are `stride` apart; with `target_fps`, as far apart as `stride` frames are at that rate (st-MAE: 4
    and 30; V-JEPA 2: 1 and 4), by time stamps where the rate is not constant. A video that is too short
    repeats its last frame. `stride` None is 4, or for short videos as much less as makes the clip fit.

    `channels` is the number that every clip gets: films have 3, which become luma (ITU-R 601) for 1; grey is
    repeated to 3. Arrays are videos too: uint8 (T, H, W), or (T, H, W, C). So is a folder of numbered
    pictures. Only the frames of a clip are decoded; `decode` reads short videos whole, to be cached.
    """

    view = "video"
    values = PIXELS
    sample_axes = 3
    extensions = (*CONTAINERS, *ARRAYS)
    frame_extensions = files.extensions()
    reads_parts = True

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
            raise UserError(f"modality.size is {size}: it must be [frames, height, width], each at least 1.")
        if channels < 1:
            raise UserError(f"modality.channels is {channels}: it must be at least 1.")
        if repeats < 1:
            raise UserError(f"modality.reader.repeats is {repeats}: it must be at least 1.")
        if (stride is not None and stride < 1) or (target_fps is not None and target_fps <= 0):
            raise UserError("modality.reader: stride must be at least 1 and target_fps more than 0, or null.")

        if transform is None:
            transform = [MultiScaleCrop(self.size)]
        self.transform = nn.Sequential(*transform)
        self.stride, self.target_fps, self.channels = stride, target_fps, channels
        self.repeats, self.resample_time, self.decoder = repeats, resample_time, decoder

    def read(self, item: Item, train: bool) -> Tensor:
        with self._open(item) as video:
            return self.augment(video, train)

    def decode(self, item: Item) -> Video:
        """All frames in memory if they take at most 16 MiB; else a video that opens the file for each clip."""
        with self._open(item) as video:
            # One with lost frames cannot be read whole.
            if not video.lost and video.frames * video.get([0]).nbytes <= MEMORY_BYTES:
                return MemoryVideo(video.get(range(video.frames)), video.fps, video.times)
            return FileVideo(partial(self._open, item), video)

    def augment(self, raw: Video, train: bool) -> Tensor:
        views = 1
        if train:
            views = self.repeats

        # Where the clips start, from 0 to 1: one start per view, or one that the views share.
        positions = [0.5]
        if train:
            positions = torch.rand(views if self.resample_time else 1).tolist()
        indices = [self.indices(raw, position) for position in positions]

        pictures = raw.get(list(chain.from_iterable(indices)))
        clips = pictures.permute(0, 3, 1, 2).unflatten(0, (len(positions), -1))
        return torch.stack([self._view(clips[view % len(clips)], train) for view in range(views)])

    def measure(self, item: Item) -> SampleFacts:
        """Channels and (frames, height, width) of one video, by its first frame and the one in its middle."""
        with self._open(item) as video:
            pictures = video.get([0, video.frames // 2])

        notes = []
        if video.times is not None:
            notes.append("a video of variable frame rate (modality.reader.target_fps reads it by time)")
        if video.lost:
            notes.append("a video of which some frames are lost or damaged; clips that need them are skipped")

        _, height, width, channels = pictures.shape
        if channels == 3 and (pictures == pictures[..., :1]).all():
            channels = 1
        return SampleFacts(channels=channels, size=(video.frames, height, width), notes=tuple(notes))

    def objects(self, item: Item) -> Tensor | None:
        """Object pixels (T, H, W) out of the .npy (all frames, h, w) beside the video.

        Raises: BadSample where the two have different numbers of frames.
        """
        if "object" not in item.aux:
            return None

        mask = torch.from_numpy(np.load(item.aux["object"], allow_pickle=False))
        with self._open(item) as video:
            indices = self.indices(video, 0.5)
            if len(mask) != video.frames:
                raise BadSample(f"has {video.frames} frames, but {item.aux['object']} has {len(mask)}")

        clip = mask[indices].to(torch.uint8)[:, None]
        return CentreCrop(self.size, NEAREST)(clip)[:, 0].bool()

    def indices(self, video: Video, position: float) -> list[int]:
        """The frames of the clip that starts `position` (0 to 1) of the way from the first start to the last.

        Raises: BadSample where `target_fps` is set and the video's own rate is unknown.
        """
        length, frames, fps = self.size[0], video.frames, video.fps
        if self.target_fps is None:
            stride = self.stride or min(STRIDE, max(1, frames // length))
            start = int(position * sampling.starts(frames, length, stride))
            return sampling.strided(frames, length, stride, start)

        stride = self.stride or STRIDE
        if video.times is not None:  # frames do not follow at a constant rate
            span = stride * length / self.target_fps
            if self.stride is None:
                span = min(span, frames * sampling.mean_interval(video.times))
            return sampling.timed_by(video.times, length, span, position)

        if fps is None:
            raise BadSample("its frame rate is not known, which modality.reader.target_fps needs")
        span = sampling.span_of(length, stride, fps, self.target_fps)
        if self.stride is None:
            span = min(span, frames)
        return sampling.timed(frames, length, span, position * max(frames - span, 0))

    def _open(self, item: Item) -> Video:
        if item.member is None and Path(item.path).is_dir():
            keeps_alpha = self.channels in (2, 4)
            video: Video = FrameFolder(Path(item.path), self.frame_extensions, keeps_alpha=keeps_alpha)
        elif item.suffix in ARRAYS:
            video = video_from_array(item.array())
        else:
            source: str | bytes = item.path
            if item.member is not None:
                source = item.open()
            video = open_video(source, self.decoder)
        if item.part is None:
            return video

        try:
            return cut(video, item.part)
        except BadSample:
            video.close()
            raise

    def _view(self, clip: Tensor, train: bool) -> Tensor:
        """(T, C, h, w) -> (C, T, H, W)."""
        if train:
            clip = self.transform(clip)
        clip = CentreCrop(self.size)(clip)
        if clip.dtype != torch.uint8:
            raise UserError(f"modality.reader.transform makes clips of {clip.dtype}: they must stay uint8.")

        clip = torch.from_numpy(with_channels(clip.numpy(), self.channels))
        return clip.transpose(0, 1)


def video_from_array(values: np.ndarray) -> MemoryVideo:
    """Frames uint8 (T, H, W) or (T, H, W, C) as a video; or channels first, one or three, (T, C,
    H, W) or (C, T, H, W).

    Raises: BadSample for other arrays.
    """
    if values.ndim == 3:
        values = values[..., None]
    if values.ndim != 4 or not values.size or values.dtype != np.uint8:
        raise BadSample(
            f"an array of {values.dtype} {values.shape}: videos must be uint8 (T, H, W), (T, H, W, C) or (T, C, H, W)"
        )
    return MemoryVideo(torch.from_numpy(_channels_last(values)))


def _channels_last(values: np.ndarray) -> np.ndarray:
    """(T, H, W, C) of four axes in any order that starts with T or C: no picture is one or three pixels high."""
    if values.shape[-1] in (1, 3):
        return values
    if values.shape[1] in (1, 3):
        return values.transpose(0, 2, 3, 1)
    if values.shape[0] in (1, 3) and values.shape[-1] > MOST_BANDS:
        return values.transpose(1, 2, 3, 0)
    return values
