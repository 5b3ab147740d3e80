import pytest

from modalities.video import sampling


@pytest.mark.parametrize("frames", [1, 2, 7, 16, 63, 64, 65, 300])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_every_rule_stays_inside(frames, stride):
    length, fps = 16, 25.0
    count = sampling.starts(frames, length, stride)
    span = sampling.span_of(length, stride, fps, 30)
    clips = [sampling.strided(frames, length, stride, start) for start in (0, count - 1)]
    clips += [sampling.timed(frames, length, span, place * max(frames - span, 0)) for place in (0, 0.5, 0.999)]
    clips += [sampling.spread(frames, length, stride)]
    clips += [sampling.spread(frames, length, stride, end) for end in sampling.ends(frames, length, stride)]
    clips += sampling.dense_views(frames, length, stride, 5) + sampling.sparse_views(frames, length, 2)
    clips += [sampling.uniform(frames, length)]
    for clip in clips:
        assert len(clip) == length and clip == sorted(clip)
        assert clip[0] >= 0 and clip[-1] < frames


def test_strided():
    assert sampling.starts(8, 8, 1) == 1
    assert sampling.strided(8, 8, 1, 0) == list(range(8))  # all frames of a clip that just fits
    assert sampling.strided(8, 8, 1, 0, last=6) == [0, 1, 2, 3, 4, 5, 6, 6]  # as VideoMAE has it
    assert sampling.strided(70, 4, 16, 6) == [6, 22, 38, 54]
    assert sampling.strided(3, 4, 4, 0) == [0, 0, 0, 0]


def test_timed():
    assert sampling.span_of(16, 4, 30, 30) == 64 and sampling.span_of(16, 4, 15, 30) == 32
    assert sampling.timed(100, 16, 64, 0.0)[:3] == [0, 4, 8] and sampling.timed(100, 16, 64, 36.0)[-1] == 99
    assert sampling.timed(100, 4, 16, 10.5) == [10, 15, 20, 25]
    assert sampling.timed(5, 4, 16, 0.0) == [0, 4, 4, 4]
    assert sampling.timed(9, 3, 0.4, 5.0) == [5, 5, 5]  # a slide show


def test_views():
    assert sampling.dense_views(64, 16, 2, 1) == [list(range(0, 32, 2))]
    assert sampling.uniform(16, 4) == [2, 6, 10, 14] and sampling.uniform(2, 4) == [0, 0, 1, 1]


def test_numbers_must_be_positive():
    for rule in (
        lambda: sampling.starts(10, 4, 0),
        lambda: sampling.strided(0, 4, 1, 0),
        lambda: sampling.span_of(4, 1, 0.0, 30),
        lambda: sampling.span_of(4, 1, 30, 0),
        lambda: sampling.spread(10, 4, 0),
        lambda: sampling.dense_views(10, 4, 0, 2),
        lambda: sampling.sparse_views(10, 4, 0),
        lambda: sampling.uniform(0, 4),
    ):
        with pytest.raises(ValueError, match="must be positive"):
            rule()
