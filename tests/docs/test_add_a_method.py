"""The diffs of docs/add-a-method.md, taken together, are the method as it stands in the tree."""

import re
from collections.abc import Iterator
from pathlib import Path

import torch

from core.tokens import ForwardContext, Layout, Tokens

ROOT = Path(__file__).resolve().parents[2]


def hunks() -> Iterator[tuple[str, str]]:
    """File and text of every hunk after it is applied: its unchanged and added lines."""
    page = (ROOT / "docs/add-a-method.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```diff\n(.*?)^```$", page, re.M | re.S):
        for diff in re.split(r"^diff --git .*\n", block, flags=re.M)[1:]:
            file = re.search(r"^\+\+\+ b/(.*)$", diff, re.M)[1]
            for hunk in re.split(r"^@@ .*\n", diff, flags=re.M)[1:]:
                lines = [line[1:] for line in hunk.splitlines() if not line.startswith("-")]
                yield file, "\n".join(lines)


def test_the_page_shows_the_tree():
    files = set()
    for file, text in hunks():
        files.add(file)
        assert text in (ROOT / file).read_text(encoding="utf-8"), (
            f"docs/add-a-method.md does not show {file} as it is, from {text.splitlines()[1]!r} on: bring it up to date"
        )
    assert {"configs/method/simmim.yaml", "core/losses.py", "core/maskers.py", "core/encoder.py"} <= files


def test_the_config_is_shown_whole():
    text = dict(hunks())["configs/method/simmim.yaml"]
    assert text + "\n" == (ROOT / "configs/method/simmim.yaml").read_text(encoding="utf-8")


def test_the_masker_from_outside_hides_what_it_says():
    """Three quarters of 8 × 8 tokens; several processes hide what one does."""
    page = (ROOT / "docs/add-a-method.md").read_text(encoding="utf-8")
    names: dict = {}
    exec(re.search(r"^```python\n(# lacuna_rings/maskers.py.*?)^```$", page, re.M | re.S)[1], names)
    masker, tokens = names["RingMasker"](0.75), Tokens(torch.zeros(4, 64, 1), Layout(64, grid=(8, 8)))

    draws = masker.draw_view(tokens, torch.Generator().manual_seed(0), ForwardContext(None, {"image": tokens}))
    hidden = masker.mask_view(tokens, draws, ForwardContext(None, {"image": tokens})).hidden
    assert hidden.sum(1).tolist() == [48] * 4 and len({tuple(row) for row in hidden.tolist()}) > 1

    # The centre of a circle without radius is visible last.
    circle = masker.mask_view(tokens, torch.tensor([[0.0, 0.0, 0.0]] * 4), ForwardContext(None, {"image": tokens}))
    assert circle.hidden[:, 0].all() and not circle.hidden[:, -1].any()
