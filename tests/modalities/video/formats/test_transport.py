"""MPEG-TS with missing packets: every frame that is read is exact and has its own number."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from core.errors import BadSample
from modalities.video.formats.decoder import open_video
from modalities.video.formats.transport import PACKET, gaps
from tests.modalities.video.films import X264, film, numbers

FRAMES = 48
CODECS = {
    "libx264": X264,
    "mpeg2video": {"g": "12", "bf": "2"},
    "libx265": {"x265-params": "log-level=none:keyint=12:bframes=3"},
}
VIDEO = 256  # the number that FFmpeg gives the first stream


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("streams")


@pytest.fixture(scope="module", params=CODECS)
def stream(request, folder) -> bytes:
    if request.param not in av.codecs_available:
        pytest.skip(f"this PyAV has no {request.param}")
    return film(folder / f"{request.param}.ts", FRAMES, request.param, CODECS[request.param]).read_bytes()


def without(content: bytes, *packets: int) -> bytes:
    array = np.frombuffer(content, np.uint8).reshape(-1, PACKET)
    return np.delete(array, packets, axis=0).tobytes()


def readable(video) -> dict[int, torch.Tensor]:
    frames = {}
    for number in range(video.frames):
        try:
            frames[number] = video.get([number])[0]
        except BadSample as error:
            assert f"frame {number} of {video.frames} is lost" in str(error)
    return frames


def test_a_healthy_stream_has_no_gap(stream):
    assert gaps(stream, VIDEO) == []
    with open_video(stream) as video:
        assert video.frames == FRAMES and video.lost == 0
        assert numbers(video.get(range(FRAMES))) == list(range(FRAMES))


@pytest.mark.parametrize("share", [0.3, 0.45, 0.6, 0.8])
def test_a_lost_packet_spoils_what_needs_it_and_no_more(stream, share):
    heads = np.frombuffer(stream, np.uint8).reshape(-1, PACKET)[:, 1:3].astype(int)
    packets = np.flatnonzero((heads[:, 0] & 0x1F) * 256 + heads[:, 1] == VIDEO)
    broken = without(stream, packets[int(len(packets) * share)])
    with open_video(stream) as whole:
        pictures = whole.get(range(FRAMES))

    with open_video(broken) as video:
        frames = readable(video)
        assert video.lost > 0 and len(frames) <= video.frames <= FRAMES
    assert len(frames) >= FRAMES - 2 * 12  # at most the rest of one group, and of the next where that is open
    assert all(torch.equal(picture, pictures[number]) for number, picture in frames.items())


def test_joined_streams_lose_nothing(stream):
    content = stream + stream + stream
    assert all(gap.is_join for gap in gaps(content, VIDEO))
    with open_video(content) as video:
        assert video.frames == 3 * FRAMES and video.lost == 0
        assert numbers(video.get(range(3 * FRAMES))) == 3 * list(range(FRAMES))


def test_a_join_and_a_loss(folder):
    stream = film(folder / "plain.ts", FRAMES).read_bytes()
    content = stream + without(stream, len(stream) // PACKET // 2)
    with open_video(content) as video:
        assert numbers(video.get(range(FRAMES))) == list(range(FRAMES))
        frames = readable(video)
        burned = numbers(torch.stack(list(frames.values())))
    assert burned == [number % FRAMES for number in frames] and FRAMES + 12 <= len(frames) < 2 * FRAMES


def test_clips_beside_the_gap_are_read(folder):
    path = film(folder / "long.ts", 96)
    content = path.read_bytes()
    path.write_bytes(without(content, len(content) // PACKET // 2))
    with open_video(path) as video:
        assert video.frames == 96
        assert numbers(video.get([0, 12, 30])) == [0, 12, 30] and numbers(video.get([80, 95])) == [80, 95]
        with pytest.raises(BadSample, match=r"is lost: .* missing or damaged"):
            video.get(range(96))


def test_the_beginning_is_lost(folder):
    content = film(folder / "plain.ts", FRAMES).read_bytes()
    with open_video(content[20 * PACKET :]) as video:
        frames = numbers(video.get(range(video.frames)))
    assert frames[-1] == FRAMES - 1 and frames == list(range(frames[0], FRAMES))


def test_framing():
    """Packets with four bytes of time before them (M2TS), and files that are no transport streams."""
    plain = np.zeros((8, PACKET), np.uint8)
    plain[:, 0], plain[:, 1], plain[:, 3] = 0x47, 0x01, 0x10 | np.array([0, 1, 2, 5, 6, 6, 7, 8])
    timed = np.concatenate([np.full((8, 4), 7, np.uint8), plain], axis=1)
    [gap] = gaps(plain.tobytes(), VIDEO)
    [gap_timed] = gaps(timed.tobytes(), VIDEO)
    assert (gap.position, gap_timed.position) == (3 * 188, 4 + 3 * 192) and gap.in_frame and not gap.is_join
    assert gaps(bytes(5000), VIDEO) == [] and gaps(b"", VIDEO) == []


def test_flipped_bits_never_break_out(folder):
    content = np.frombuffer(film(folder / "flips.ts", 24).read_bytes(), np.uint8)
    draw = np.random.default_rng(0)
    for _ in range(12):
        copy = content.copy()
        copy[draw.integers(0, len(copy), 8)] = draw.integers(0, 256, 8)
        try:
            with open_video(copy.tobytes()) as video:
                video.get([0, video.frames - 1])
        except BadSample:
            continue
