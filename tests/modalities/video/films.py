"""Videos made on the spot, with the number of each frame burned into its pixels."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from torch import Tensor

HEIGHT, WIDTH, BAR = 48, 96, 8
X264 = {"g": "12", "bf": "3"}
# Frames before a key frame that need it: wrong pictures come out of readers that jump carelessly.
OPEN_GOP = {"x264-params": "keyint=24:open-gop=1:bframes=3:b-adapt=0:scenecut=0"}


def picture(number: int) -> np.ndarray:
    """uint8 (HEIGHT, WIDTH, 3): twelve bars, white where the bit of `number` is set, over noise."""
    image = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) // 4 + 96
    bits = [number >> bit & 1 for bit in range(WIDTH // BAR)]
    image[: HEIGHT // 2] = np.repeat(bits, BAR)[:, None] * np.uint8(255)
    return image


def numbers(pictures: Tensor) -> list[int]:
    """What `picture` burned into (T, HEIGHT, WIDTH, 3)."""
    middles = pictures[:, HEIGHT // 4, BAR // 2 :: BAR, 0].numpy() > 127
    return (middles << np.arange(WIDTH // BAR)).sum(1).tolist()


def film(
    path: Path,
    frames: int,
    codec: str = "libx264",
    options: Mapping[str, str] = X264,
    times: Sequence[int] | None = None,
    turned: int = 0,
    container: Mapping[str, str] | None = None,
) -> Path:
    """Writes a video at 25 frames/s, or shown at `times` in ms; `turned`: degrees by which players turn it back."""
    with av.open(str(path), "w", container_options=dict(container or {})) as file:
        stream = file.add_stream(codec, rate=25, options=dict(options))
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if turned:
            stream.set_display_rotation(turned)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def sound(path: Path) -> Path:
    """A file without pictures."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path
