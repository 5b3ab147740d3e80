"""The light decoder: which rows it answers, and how."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from core.decoders import MAEDecoder
from core.embeddings import ClsToken, CoordinateMLP, SinCos
from core.encoder import Trunk
from core.errors import UserError
from core.tokens import Latent, Layout, Query, Rows

WIDTH, DIM, GRID = 6, 8, (2, 4)


class Through(nn.Module):
    """A trunk that changes nothing: what is answered is what went in."""

    def forward(self, x, plan, taps=(), read=None, positions=None):
        return x if read is None else read.gather(x), {}


def decoder(visible_rows: str, trunk: nn.Module | None = None, **more) -> MAEDecoder:
    torch.manual_seed(0)
    return MAEDecoder(WIDTH, DIM, trunk or Through(), SinCos(GRID, DIM), visible_rows=visible_rows, **more)


def latent(index, valid=None, count: int = 8) -> Latent:
    rows = Rows(torch.tensor(index), None if valid is None else torch.tensor(valid))
    features = rows.zero_padding(torch.randn(*rows.index.shape, WIDTH, generator=torch.Generator().manual_seed(0)))
    layout = Layout(count, GRID).gather(rows)
    return Latent(features, layout, rows=rows)


def place(index, valid=None) -> Query:
    return Query(Rows(torch.tensor(index), None if valid is None else torch.tensor(valid)))


def ask(made: MAEDecoder, seen: Latent, layout: Layout | None = None, **places: Query):
    return made(seen, layout or Layout(8, GRID), places, {})


def test_latent_answers_seen_rows_by_their_latents():
    made, seen = decoder("latent"), latent([[5, 0, 3]])
    said = ask(made, seen, main=place([[3, 1, 5]]))["main"]
    table = made.positions.full()
    own = made.project(seen.features)
    assert torch.allclose(said[0, 0], own[0, 2] + table[3]) and torch.allclose(said[0, 2], own[0, 0] + table[5])
    assert torch.allclose(said[0, 1], made.mask_token[0, 0] + table[1])


def test_query_answers_seen_rows_by_an_extra_mask_token():
    made, seen = decoder("mask_token"), latent([[5, 0, 3]])
    said = ask(made, seen, main=place([[3, 1, 5]]))["main"]
    assert torch.allclose(said, made.mask_token + made.positions.full()[None, [3, 1, 5]])


class Spy(Through):
    def forward(self, x, plan, taps=(), read=None, positions=None):
        self.shape, self.plan, self.read = x.shape, plan, read
        return super().forward(x, plan, taps, read)


@pytest.mark.parametrize("visible_rows, length", [("latent", 8), ("mask_token", 3 + 2)])
def test_the_sequence_holds_all_rows_or_just_those_asked_for(visible_rows, length):
    spy = Spy()
    ask(decoder(visible_rows, spy), latent([[5, 0, 3]]), main=place([[1, 5]]))
    assert spy.shape == (1, length, DIM)


@pytest.mark.parametrize("visible_rows", ["latent", "mask_token"])
def test_the_trunk_answers_no_more_than_is_asked(visible_rows):
    spy = Spy()
    ask(decoder(visible_rows, spy, cls=ClsToken(DIM)), latent([[5, 0, 3]]), main=place([[1, 5]]))
    assert spy.read.count == 2 and spy.shape[1] > 2


@pytest.mark.parametrize("visible_rows", ["latent", "mask_token"])
def test_several_places_in_one_pass(visible_rows):
    made, seen = decoder(visible_rows, Trunk(DIM, 1, 2)), latent([[5, 0, 3], [1, 2, 3]])
    places = {"a": place([[1, 5], [0, 7]]), "b": place([[2], [6]])}
    said = ask(made, seen, **places)
    assert said["a"].shape == (2, 2, DIM) and said["b"].shape == (2, 1, DIM)
    if visible_rows == "latent":
        assert torch.allclose(said["a"], ask(made, seen, a=places["a"])["a"], atol=1e-6)


@pytest.mark.parametrize("visible_rows", ["latent", "mask_token"])
def test_the_whole_grid_is_a_place(visible_rows):
    made, seen = decoder(visible_rows), latent([[5, 0, 3]])
    said = ask(made, seen, all=Query(None))["all"]
    rows = ask(made, seen, all=place([list(range(8))]))["all"]
    assert said.shape == (1, 8, DIM) and torch.equal(said, rows)


@pytest.mark.parametrize("visible_rows", ["latent", "mask_token"])
def test_padding_changes_nothing(visible_rows):
    made = decoder(visible_rows, Trunk(DIM, 2, 2))
    seen = latent([[5, 0, 3], [4, 0, 0]], [[True] * 3, [True, False, False]])
    asked = place([[1, 2], [6, 0]], [[True, True], [True, False]])
    together = ask(made, seen, main=asked)["main"]
    alone = ask(made, Latent(seen.features[1:, :1], Layout(1, GRID), rows=Rows(torch.tensor([[4]]))), main=place([[6]]))
    assert torch.allclose(together[1, :1], alone["main"][0], atol=1e-5)


@pytest.mark.parametrize("visible_rows", ["latent", "mask_token"])
def test_padded_tokens_are_never_asked(visible_rows):
    made = decoder(visible_rows, Trunk(DIM, 2, 2))
    cells = torch.tensor([[[0, 0], [0, 1], [1, 2], [0, 0]]])
    layout = Layout(4, GRID, coords=cells, valid=torch.tensor([[True, True, True, False]]))
    rows = Rows(torch.tensor([[1]]))
    seen = Latent(torch.randn(1, 1, WIDTH, generator=torch.Generator().manual_seed(0)), layout.gather(rows), rows=rows)
    long = ask(made, seen, layout, main=place([[0, 2]]))["main"]
    short = ask(made, seen, replace(layout, count=3, coords=cells[:, :3], valid=None), main=place([[0, 2]]))["main"]
    assert torch.allclose(long, short, atol=1e-5)


def test_latents_of_all_rows_need_no_mask_token():
    made = decoder("latent", Trunk(DIM, 1, 2))
    features = torch.randn(1, 8, WIDTH, generator=torch.Generator().manual_seed(0))
    said = ask(made, Latent(features, Layout(8, GRID)), main=place([[1, 5]]))["main"]
    order = latent([list(range(8))])
    assert torch.allclose(said, ask(made, replace(order, features=features), main=place([[1, 5]]))["main"], atol=1e-6)


def test_rows_may_come_in_any_order():
    made = decoder("latent", Trunk(DIM, 2, 2))
    seen = latent([[5, 0, 3]])
    turned = Latent(seen.features[:, [2, 0, 1]], seen.layout, rows=Rows(torch.tensor([[3, 5, 0]])))
    first, second = (ask(made, one, main=place([[1, 2]]))["main"] for one in (seen, turned))
    assert torch.allclose(first, second, atol=1e-5)


def test_a_cls_of_its_own_or_the_encoders():
    seen = latent([[5, 0, 3]])
    spy = Spy()
    ask(decoder("latent", spy, cls=ClsToken(DIM)), seen, main=place([[1]]))
    assert spy.shape == (1, 9, DIM)
    handed = decoder("latent", Trunk(DIM, 1, 2), cls=ClsToken(DIM, learned=False))
    one, two = (
        ask(handed, replace(seen, cls=torch.full((1, WIDTH), x)), main=place([[1]]))["main"] for x in (0.0, 1.0)
    )
    assert one.shape == (1, 1, DIM) and not torch.allclose(one, two), "it is looked at"


def test_positions_are_those_of_the_input():
    """Other grids than the one it was built for: positions are resized."""
    made = decoder("mask_token")
    seen = replace(latent([[5, 0, 3]]), layout=Layout(3, (4, 4)))
    said = ask(made, seen, Layout(16, (4, 4)), main=place([[15]]))["main"]
    assert torch.allclose(said, made.mask_token + made.positions(torch.tensor([[15]]), (4, 4)))


def test_packed_samples_are_refused():
    packed = Layout(3, GRID, sample=torch.tensor([0, 0, 1]), samples=2, counts=(2, 1))
    with pytest.raises(UserError, match="packed"):
        ask(decoder("latent"), latent([[0, 1]]), packed, main=place([[2]]))


def test_bias_and_start_of_the_mask_token_are_settings():
    made = decoder("mask_token", project_bias=False, mask_init="zero")
    assert made.project.bias is None and (made.mask_token == 0).all() and made.provides == {"width": DIM}


def test_positions_before_every_block_are_those_of_the_same_rows():
    """With blocks that change nothing, they are added as often as there are blocks."""

    class Steps(nn.Module):
        def forward(self, x, plan, taps=(), read=None, positions=None):
            return read.gather(x + 3 * positions), {}

    torch.manual_seed(0)
    positions, coords = CoordinateMLP(DIM, 5), torch.rand(1, 8, 3)
    made = MAEDecoder(DIM, DIM, Steps(), positions, project=False, positions_at="blocks")
    layout = Layout(8, coords=coords)
    rows = Rows(torch.tensor([[6, 1, 3]]))
    seen = Latent(torch.rand(1, 3, DIM), layout.gather(rows), rows=rows)
    said = made(seen, layout, {"main": place([[4, 6]])}, {})["main"]
    at = positions.at(layout, Rows(torch.tensor([[4, 6]])))
    assert torch.allclose(said[:, 0], made.mask_token[:, 0] + 3 * at[:, 0])
    assert torch.allclose(said[:, 1], seen.features[:, 0] + 3 * at[:, 1])


def test_without_projection_widths_are_equal():
    assert not any(
        "project" in name
        for name, _ in MAEDecoder(DIM, DIM, Through(), SinCos(GRID, DIM), project=False).named_parameters()
    )
    with pytest.raises(UserError, match=r"decoder\.dim=8 must be the encoder's width 6"):
        decoder("latent", project=False)
