"""Every file gives exactly the frames asked for, or says what is wrong with it."""

import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from core.errors import BadSample, UserError
from modalities.video.formats import decoder
from modalities.video.formats.decoder import PyAVVideo, open_video
from modalities.video.formats.frames import MemoryVideo
from tests.modalities.video.films import HEIGHT, OPEN_GOP, WIDTH, X264, film, numbers, picture, sound

QUICK_VP9 = {"g": "20", "deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"}
B_FRAMES = {"x264-params": "keyint=12:bframes=3:b-adapt=0:scenecut=0"}
FILMS = {  # name: (frames, codec, options, more)
    "normal.mp4": (60, "libx264", X264, {}),
    "one.mp4": (1, "libx264", X264, {}),
    "nine.mp4": (9, "libx264", X264, {}),
    "open_gop.mp4": (120, "libx264", OPEN_GOP, {}),
    "intra.mp4": (30, "libx264", {"g": "1"}, {}),
    "fragments.mp4": (40, "libx264", X264, {"container": {"movflags": "frag_keyframe+empty_moov"}}),
    "variable.mp4": (40, "libx264", X264, {"times": [k * 20 + k * k for k in range(40)]}),
    "normal.mkv": (40, "libx264", X264, {}),
    "packed.avi": (40, "mpeg4", {"g": "12", "bf": "2"}, {}),
    "b_frames.avi": (40, "libx264", B_FRAMES, {}),  # the time stamps that FFmpeg gives these are wrong
    "stream.ts": (40, "libx264", X264, {}),
    "hevc.mp4": (60, "libx265", {"x265-params": "log-level=none:keyint=12:bframes=4:b-adapt=0"}, {}),
    "vp9.webm": (30, "libvpx-vp9", QUICK_VP9, {}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("films")


@pytest.fixture(scope="module")
def normal(folder) -> Path:
    return film(folder / "plain.mp4", 60, container={"movflags": "faststart"})


def silent(capfd) -> bool:
    return capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", FILMS)
def test_frames_are_exact(folder, name, capfd):
    frames, codec, options, more = FILMS[name]
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    path = film(folder / name, frames, codec, options, **more)
    draw = np.random.default_rng(0)
    for source in (path, path.read_bytes()):
        with open_video(source) as video:
            assert video.frames == frames
            assert name == "variable.mp4" or video.fps == pytest.approx(25)
            assert numbers(video.get(range(frames))) == list(range(frames))
            for _ in range(12):
                wanted = draw.integers(0, frames, 5).tolist()
                assert numbers(video.get(wanted)) == wanted
    assert silent(capfd)


def test_pictures(normal):
    with open_video(normal) as video:
        pictures = video.get([7, 3, 7])
    assert pictures.shape == (3, HEIGHT, WIDTH, 3) and pictures.dtype == torch.uint8
    assert (pictures[0] == pictures[2]).all()
    assert (pictures[1].int() - torch.from_numpy(picture(3)).int())[: HEIGHT // 2].abs().float().mean() < 4


def test_index_out_of_range(normal):
    with open_video(normal) as video:
        for wanted in ([60], [-1], [0, 61]):
            with pytest.raises(IndexError, match="of a video of 60"):
                video.get(wanted)


@pytest.mark.parametrize("turned", [90, 180, 270])
def test_rotation(folder, turned):
    path = film(folder / f"turned{turned}.mp4", 5, turned=turned)
    with open_video(path) as video:
        pictures = video.get(range(5))
    assert pictures.shape[1:3] == ((HEIGHT, WIDTH) if turned == 180 else (WIDTH, HEIGHT))
    assert numbers(pictures.rot90(-turned // 90, (1, 2))) == list(range(5))


def test_edited(folder, normal):
    """Frames that an edit list cuts away are not there."""
    path = folder / "edited.mp4"
    with av.open(str(normal)) as whole, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as edited:
        source = whole.streams.video[0]
        target = edited.add_stream_from_template(source)
        shift = int(17 / 25 / source.time_base)
        for packet in whole.demux(source):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, target
                edited.mux(packet)
    with open_video(path) as video:
        assert numbers(video.get(range(video.frames))) == list(range(17, 60))
        assert numbers(video.get([5, 40])) == [22, 57]


BAD = {  # name: what becomes of the bytes of a good file, and what the reason tells
    "truncated.mp4": (lambda content: content[: len(content) * 6 // 10], "is cut off"),
    "header.mp4": (lambda content: content[:400], "moov"),
    "empty.mp4": (lambda content: b"", "empty"),
    "random.mp4": (lambda content: np.random.default_rng(0).bytes(5000), "no known video format"),
    "text.mp4": (lambda content: b"<html>\n<body>404 Not Found</body></html>", "404 Not Found"),
}


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("name", BAD)
def test_bad_files(folder, normal, name, decoder, capfd):
    if decoder == "decord":
        pytest.importorskip("decord")
    change, reason = BAD[name]
    path = folder / f"{decoder}_{name}"
    path.write_bytes(change(normal.read_bytes()))
    reason = "decord cannot decode it" if (decoder, name) == ("decord", "truncated.mp4") else reason
    for source in (path, path.read_bytes()):
        with pytest.raises(BadSample, match=reason):
            open_video(source, decoder)
    assert silent(capfd)


def test_no_moov(folder, capfd):
    path = film(folder / "no_moov.mp4", 30)  # without faststart the table of frames comes last
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadSample, match="without a whole table of frames"):
        open_video(path)
    assert silent(capfd)


def test_no_pictures(folder):
    with pytest.raises(BadSample, match=r"no video stream.*audio"):
        open_video(sound(folder / "sound.m4a"))


def test_no_file(folder):
    for path in (folder / "nowhere.mp4", folder):
        with pytest.raises(BadSample, match="cannot be read"):
            open_video(path)


def test_no_frames(folder):
    """The header of a fragmented MP4 alone opens, and has no frame."""
    path = film(folder / "fragmented.mp4", 9, container={"movflags": "frag_keyframe+empty_moov"})
    content = path.read_bytes()
    with pytest.raises(BadSample, match="holds no frames"):
        open_video(content[: content.index(b"moof") - 4])


def test_damage_in_the_middle(folder, normal, capfd):
    """What needs the damaged bytes fails; the rest is exact, also after a failure."""
    content = bytearray(normal.read_bytes())
    middle = content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 2
    content[middle : middle + 400] = bytes(400)
    exact = 0
    with open_video(bytes(content)) as video:
        with pytest.raises(BadSample, match=r"PyAV cannot decode it: InvalidDataError|damaged|cannot be decoded"):
            video.get(range(60))
        for wanted in ([0, 5], [50, 59], [3, 9]):
            exact += numbers(video.get(wanted)) == wanted
    assert exact == 3 and silent(capfd)


def test_index_is_remembered(normal, folder, monkeypatch):
    copy = folder / "copy.mp4"
    copy.write_bytes(normal.read_bytes())
    scans = []
    scan = PyAVVideo._scan
    monkeypatch.setattr(PyAVVideo, "_scan", lambda self: scans.append(1) or scan(self))
    for _ in range(3):
        with open_video(copy) as video:
            assert numbers(video.get([31])) == [31]
    assert len(scans) == 1
    film(copy, 9)
    with open_video(copy) as video:
        assert video.frames == 9
    monkeypatch.setattr(decoder, "INDEXES", 1)
    film(folder / "another.mp4", 3)
    open_video(folder / "another.mp4").close()
    assert len(decoder._indexes) < 50


def test_decord(normal):
    pytest.importorskip("decord")
    for source in (normal, str(normal), normal.read_bytes()):
        with open_video(source, "decord") as video, open_video(source) as same:
            assert (video.frames, video.fps) == (60, 25)
            assert numbers(video.get([40, 2, 2])) == [40, 2, 2]
            assert (video.get([9]).int() - same.get([9]).int()).abs().max() <= 4


def test_missing_decoder(normal, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(UserError, match=r"lacuna-ssl\[video\]"):
        open_video(normal, "decord")
    with pytest.raises(UserError, match="no video decoder 'ffmpeg'"):
        open_video(normal, "ffmpeg")


@pytest.mark.parametrize("name", ["cover.mkv", "cover.mp4", "thumbnail.mov"])
def test_the_film_is_not_its_cover(folder, name):
    """A still picture is the first video stream of the file."""
    with av.open(str(folder / name), "w") as file:
        cover = file.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        if name.startswith("cover"):
            cover.disposition = av.stream.Disposition.attached_pic
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"

        file.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        file.mux(cover.encode())
        for number in range(20):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        file.mux(stream.encode())

    with open_video(folder / name) as video:
        assert video.frames == 20 and numbers(video.get([3, 17])) == [3, 17]


def test_a_cover_alone_is_no_film(folder):
    with av.open(str(folder / "alone.mp4"), "w") as file:
        cover = file.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        audio = file.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        file.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        file.mux(cover.encode())
        file.mux(audio.encode(frame))
        file.mux(audio.encode())
    with pytest.raises(BadSample, match="a cover picture and no film"):
        open_video(folder / "alone.mp4")


def test_times_of_a_variable_rate(folder, normal):
    times = [number * 40 if number < 10 else 400 + (number - 10) * 200 for number in range(20)]
    for name in ("jump.mp4", "jump.mkv"):
        with open_video(film(folder / name, 20, times=times)) as video:
            assert video.times == pytest.approx(np.array(times) / 1000)
    jitter = film(folder / "jitter.mkv", 20, times=[number * 40 + number % 3 for number in range(20)])
    for path in (normal, jitter):
        with open_video(path) as video:
            assert video.times is None  # constant, but for rounding


@pytest.mark.parametrize("name", ["cut.mkv", "cut.webm", "cut.avi", "cut.flv"])
def test_recordings_that_were_cut_off_are_read_up_to_there(folder, name):
    codec, options = ("libvpx-vp9", QUICK_VP9) if name.endswith("webm") else ("libx264", {"g": "12", "bf": "0"})
    path = film(folder / name, 40, codec, options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with open_video(path) as video:
        assert 10 < video.frames < 30
        assert numbers(video.get(range(video.frames))) == list(range(video.frames))


def test_memory_clip():
    pictures = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 2, 2, 3)
    with MemoryVideo(pictures, 8.0) as video:
        assert video.get([3, 0, 3])[:, 0, 0, 0].tolist() == [3, 0, 3]
        with pytest.raises(IndexError):
            video.get([4])
