"""Reasons of bad samples: text that is equal where the reason is."""

import io
import pickle

import pytest

from core.errors import BadSample, one_line


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"cannot identify image file {io.BytesIO()!r}", "cannot identify image file"),
        (f"'<' not supported between 3 and {object()!r}: stop", "'<' not supported between 3 and: stop"),
        (f"a call of {map(len, [])!r} on <frozen module> failed", "a call of on <frozen module> failed"),
        ("unknown type: \0\0\x1b[31m", "unknown type: [31m"),
        ("holds <b> at 3 and no pixel", "holds <b> at 3 and no pixel"),
        ("offset 0x10 is beyond the end", "offset 0x10 is beyond the end"),
    ],
    ids=["a stream", "an object", "a call", "control characters", "a tag", "an offset"],  # equal in every process
)
def test_no_address_and_no_control_character_in_a_reason(text, reason):
    assert str(BadSample(text)) == reason
    assert one_line(ValueError(text)) == reason
    assert str(pickle.loads(pickle.dumps(BadSample(text)))) == reason
