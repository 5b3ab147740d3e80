"""The generated world as video: a short clip of each moving scene, as an MP4 file."""

import io
from collections.abc import Iterator, Sequence

import av
import numpy as np
import torch
from av.video.frame import VideoFrame
from torch import Tensor

from core.errors import UserError
from core.world.render import render
from core.world.scene import FRAMES_PER_TIME, MOVING, Scene
from core.world.source import WorldSource, npy, require_channels, require_integer

# Lossless H.264 of the RGB values themselves. Measured on 64 test clips, error of the decoded clip in units
# of the variance within a patch (2 x 8 x 8, each channel alone): crf 10 in YUV 4:4:4 0.12, lossless YUV 4:4:4
# 0.07, this 0.
CODEC = "libx264rgb"
# fastdecode: half the time to decode, 8 % more bytes.
OPTIONS = {"qp": "0", "preset": "veryfast", "tune": "fastdecode"}


class VideoWorld(WorldSource):
    """Clips of `frames` square pictures of `size` pixels; the labels are the solid's shape and its motion.

    8 frames are about one cycle of a motion. Test samples have `aux["object"]`: the pixels that show the
    solid, bool (T, H, W). `train` and `test` are the numbers of samples, `root` and `seed` as in
    `WorldSource`, `channels` those that the reader makes of them.
    Cost: 14 ms a clip of 8 frames on one core at 64 x 64.
    """

    kind = "video"
    suffix = ".mp4"
    aux_names = ("object",)
    ranges = MOVING
    chunk_size = 16

    def __init__(
        self,
        root: str | None = None,
        seed: int = 0,
        train: int = 3500,
        test: int = 512,
        size: int = 64,
        frames: int = 8,
        channels: int = 3,
    ):
        require_channels(channels)
        self.size = require_integer("size", size, at_least=8)
        self.frames = require_integer("frames", frames, at_least=1)
        super().__init__(root, seed, train, test, f"{frames}x{size}px")

    def make(self, scenes: Sequence[Scene]) -> Iterator[dict[str, bytes]]:
        clips, solid = self._render(scenes)
        for clip, pixels in zip(clips, solid, strict=True):
            yield {".object.npy": npy(pixels), ".mp4": encode(clip)}

    def clean(self, key: str) -> Tensor:
        """The frames of the item with this key as they were before the codec, uint8 (C, T, H, W).

        The error of the decoded clip against them is the ceiling that the codec sets to any skill.
        """
        clips, _ = self._render([self.scene(key)])
        return torch.from_numpy(clips[0]).permute(3, 0, 1, 2).contiguous()

    def _render(self, scenes: Sequence[Scene]) -> tuple[np.ndarray, np.ndarray]:
        return render(scenes, [frame / FRAMES_PER_TIME for frame in range(self.frames)], self.size)


def encode(clip: np.ndarray) -> bytes:
    """An MP4 file with exactly these frames, uint8 (T, H, W, 3), at 8 a second; the
    only key frame is frame 0.

    Raises: UserError where PyAV was built without x264.
    """
    if CODEC not in av.codecs_available:
        raise UserError(f"PyAV {av.__version__} lacks the encoder {CODEC}; install the `av` wheel from PyPI.")

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(CODEC, rate=FRAMES_PER_TIME, options=OPTIONS)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "rgb24"
        stream.codec_context.thread_count = 1

        for picture in clip:
            container.mux(stream.encode(VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())

    return buffer.getvalue()
