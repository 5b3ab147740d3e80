"""The data types: sets of rows, layouts, masks, and the ways into an encoder."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch

from core.errors import UserError
from core.tokens import Batch, EncoderInput, ForwardContext, Latent, Layout, Mask, Query, Rows, Tokens, levels


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flags(*rows: str) -> torch.Tensor:
    return torch.tensor([[c == "x" for c in row] for row in rows])


# Rows -----------------------------------------------------------------------------------------------------------------


def test_where_equal_counts_need_no_padding():
    rows = Rows.from_mask(flags("x.x.", ".xx."))
    assert rows.index.tolist() == [[0, 2], [1, 2]] and rows.valid is None


def test_where_pads_with_zero():
    rows = Rows.from_mask(flags("..x.", ".xx.", "...."))
    assert rows.index.tolist() == [[2, 0], [1, 2], [0, 0]]
    assert rows.valid.tolist() == [[True, False], [True, True], [False, False]]


@pytest.mark.parametrize("flag", [flags("x.x.", ".xx."), flags("....", "...."), torch.ones(2, 0, dtype=torch.bool)])
def test_a_known_count_says_the_same(flag):
    counted = Rows.from_mask(flag, int(flag.sum(1).max()) if flag.numel() else 0)
    assert torch.equal(counted.index, Rows.from_mask(flag).index) and counted.valid is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8, torch.int64, torch.bool])
def test_take_keeps_types_and_zeroes_padding(dtype):
    x = torch.randint(1, 2, (2, 4, 3), generator=seeded()).to(dtype)
    taken = Rows.from_mask(flags("..x.", ".xx.")).gather(x)
    assert taken.dtype == dtype and taken.shape == (2, 2, 3)
    assert not taken[0, 1].any() and taken[1, 1].all()


def test_take_of_a_strided_view_is_that_of_its_copy():
    x = torch.rand(3, 5, 4, generator=seeded()).permute(1, 2, 0)  # (5, 4, 3), not contiguous
    rows = Rows(torch.randint(4, (5, 6), generator=seeded()))
    assert not x.is_contiguous() and torch.equal(rows.gather(x), rows.gather(x.contiguous()))


def test_put_is_the_inverse_of_take():
    x = torch.rand(2, 6, 3, generator=seeded())
    flag = flags("x.xx..", ".x....")
    rows = Rows.from_mask(flag)
    back = rows.scatter(rows.gather(x), 6)
    assert torch.equal(back, x * flag[..., None])
    assert torch.equal(rows.gather(back), rows.gather(x))


def test_put_carries_gradients_to_valid_rows_only():
    x = torch.rand(2, 2, 3, generator=seeded(), requires_grad=True)
    Rows.from_mask(flags("..x.", ".xx.")).scatter(x, 4).sum().backward()
    assert x.grad[..., 0].tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize("flag", [flags("x.x.", ".xx."), flags("..x.", "xxx."), flags("....", "...x")])
def test_flag_is_the_inverse_of_where(flag):
    assert torch.equal(Rows.from_mask(flag).to_mask(4), flag)


def test_flag_of_rows_named_twice():
    assert Rows(torch.tensor([[1, 1, 3]])).to_mask(4).tolist() == [[False, True, False, True]]


def test_all():
    assert Rows.all(2, 3).index.tolist() == [[0, 1, 2]] * 2
    x = torch.rand(2, 3, generator=seeded())
    assert torch.equal(Rows.all(2, 3).gather(x), x)


# Layout ---------------------------------------------------------------------------------------------------------------


def test_a_full_grid_stays_implicit():
    rows = Rows(torch.tensor([[5, 2]]))
    taken = Layout(6, (2, 3)).gather(rows)
    assert (taken.count, taken.grid, taken.coords) == (2, (2, 3), None)
    assert Layout(6, (2, 3)).cells(rows) is rows.index and Layout(6, (2, 3)).cells(None) is None


def test_cells_of_coordinates_are_row_major():
    coords = torch.tensor([[[0, 0, 1], [1, 2, 3]]])
    layout = Layout(2, (2, 3, 4), coords)
    assert layout.cells(None).tolist() == [[1, 23]]
    assert layout.cells(Rows(torch.tensor([[1]]))).tolist() == [[23]]


def test_take_joins_padding_of_both_kinds():
    layout = Layout(3, valid=flags("xx.", "xxx"))
    rows = Rows(torch.tensor([[0, 2], [1, 0]]), flags("xx", "x."))
    assert torch.equal(layout.gather(rows).valid, flags("x.", "x."))
    assert torch.equal(layout.gather(Rows(rows.index)).valid, flags("x.", "xx"))


def test_packed_samples_are_counted_empty_ones_too():
    layout = Layout(5, sample=torch.tensor([0, 0, 2, 2, 2]), samples=4, counts=(2, 0, 3, 0))
    taken = layout.gather(Rows(torch.tensor([[0, 3, 4]])))
    assert taken.sample.tolist() == [0, 2, 2] and taken.counts == (1, 0, 2, 0) and taken.samples == 4


def test_edges_between_taken_rows_are_renumbered_others_dropped():
    edges = torch.tensor([[0, 1, 2, 3], [1, 1, 3, 2]])
    layout = Layout(4, edges=edges, edge_content=torch.arange(4))
    taken = layout.gather(Rows(torch.tensor([[1, 2, 3]])))
    assert taken.edges.tolist() == [[0, 1, 2], [0, 2, 1]] and taken.edge_content.tolist() == [1, 2, 3]


# Mask -----------------------------------------------------------------------------------------------------------------


def test_hide_knows_padding_is_neither_hidden_nor_visible():
    mask = Mask.from_hidden(flags("x...", ".x.."), valid=flags("xxx.", "xxxx"))
    assert mask.visible.to_mask(4).tolist() == flags(".xx.", "x.xx").tolist()
    assert mask.queries["main"].rows.index.tolist() == [[0], [1]]


def test_hide_with_a_count_is_the_same():
    hidden = flags("xx..", ".xx.")
    one, two = Mask.from_hidden(hidden), Mask.from_hidden(hidden, count=2)
    assert torch.equal(one.visible.index, two.visible.index) and two.visible.valid is None


def test_places_by_name():
    mask = Mask.from_hidden(flags("x..."), finer=Mask.from_hidden(flags("xx..")))
    assert mask.query("main").rows is mask.queries["main"].rows and mask.query("main").level == 0
    assert mask.query("visible").rows is mask.visible and mask.query("grid").rows is None
    fine = mask.query("main@1")
    assert fine.rows is mask.finer.queries["main"].rows and fine.level == 1
    assert mask.query("visible@1").rows is mask.finer.visible and mask.query("grid@1").level == 1


@pytest.mark.parametrize("name", ["maim", "main@1", "main@x"])
def test_unknown_places_name_those_there_are(name):
    with pytest.raises(UserError, match="visible, grid, main"):
        Mask.from_hidden(flags("x...")).query(name)


def test_a_finer_token_is_visible_iff_a_visible_parent_lists_it():
    children = torch.tensor([[[0, 1], [1, 2], [3, 4]]] * 2)
    layout = Layout(3, finer=Layout(6), children=children)
    mask = Mask.from_hidden(flags(".xx", "x.x")).propagate(layout)
    assert mask.finer.hidden.tolist() == flags("..xxxx", "x..xxx").tolist()
    assert mask.propagate(layout) is mask, "what is there stays"
    plain = Mask.from_hidden(flags("x.."))
    assert plain.propagate(Layout(3)) is plain


def test_propagation_leaves_finer_padding_out_and_ignores_padded_parents():
    layout = Layout(2, finer=Layout(4, valid=flags("xxx.", "xxxx")), children=torch.tensor([[[1, 2], [0, 1]]] * 2))
    mask = Mask.from_hidden(flags(".x", "xx"), valid=flags("xx", "xx")).propagate(layout)
    assert mask.visible.valid.tolist() == [[True], [False]]
    assert mask.finer.hidden.tolist() == flags("x...", "xxxx").tolist(), "a padded row's children are not seen"


def test_places_of_a_grid_among_tokens():
    x = torch.zeros(2, 4, 1)
    assert Query(None).rows_in(Layout(4, (4,)), x).index.tolist() == [[0, 1, 2, 3]] * 2
    with pytest.raises(UserError, match="dense decoder"):
        Query(None).rows_in(Layout(4, (9,), coords=torch.zeros(2, 4, 1)), x)


# Ways into an encoder -------------------------------------------------------------------------------------------------


@pytest.fixture
def tokens() -> Tokens:
    content = torch.arange(1.0, 13).view(2, 3, 2)
    return Tokens(content, Layout(3, (3,)), {"secret": content})


def test_keep_takes_visible_rows_in_the_masks_order(tokens):
    mask = Mask(flags(".x.", "..x"), Rows(torch.tensor([[2, 0], [1, 0]])), {})
    seen = tokens.drop_masked(mask)
    assert seen.content[..., 0].tolist() == [[5, 1], [9, 7]]
    assert seen.cells.tolist() == [[2, 0], [1, 0]] and seen.layout.count == 2 and seen.erased is None


def test_keep_pads(tokens):
    seen = tokens.drop_masked(Mask.from_hidden(flags("xx.", "x..")))
    assert seen.content[0, 1].tolist() == [0, 0] and seen.layout.valid.tolist() == [[True, False], [True, True]]


def test_packed_rows_stay_sorted_by_sample_whatever_the_masks_order():
    layout = Layout(4, sample=torch.tensor([0, 0, 1, 1]), samples=2, counts=(2, 2))
    tokens = Tokens(torch.arange(4.0).view(1, 4, 1), layout)
    seen = tokens.drop_masked(Mask(flags(".x.."), Rows(torch.tensor([[3, 0, 2]])), {}))
    assert seen.layout.sample.tolist() == [0, 1, 1] and seen.content.flatten().tolist() == [0, 2, 3]
    assert seen.rows.index.tolist() == [[0, 2, 3]] and seen.layout.counts == (1, 2)


def test_blank_empties_hidden_rows(tokens):
    seen = tokens.replace_masked(Mask.from_hidden(flags("x..", ".x.")))
    assert seen.content[..., 0].tolist() == [[0, 3, 5], [7, 0, 11]]
    assert torch.equal(seen.erased, flags("x..", ".x.")) and seen.rows is None and seen.cells is None


def test_blank_by_content_from(tokens):
    source = torch.tensor([[0, -1, 1], [2, 1, 0]])
    seen = tokens.replace_masked(Mask.from_hidden(flags("xxx", "xxx"), content_from=source))
    assert seen.content[..., 0].tolist() == [[1, 0, 3], [11, 9, 7]], "kept, erased, swapped; all of them hidden"
    assert torch.equal(seen.erased, flags(".x.", "..."))


def test_the_mask_may_bring_the_encoders_layout(tokens):
    other = replace(tokens.layout, edges=torch.zeros(2, 1, dtype=torch.long))
    assert tokens.replace_masked(Mask.from_hidden(flags("x..", "x.."), layout=other)).layout is other
    assert tokens.drop_masked(Mask.from_hidden(flags("x..", "x.."), layout=Layout(3))).layout.grid is None


def test_whole_and_expose(tokens):
    whole = tokens.unmasked()
    assert whole.content is tokens.content and whole.rows is None and whole.erased is None
    mask = Mask.from_hidden(flags("x..", ".x."))
    exposed = tokens.leak_masked(mask)
    assert exposed.content is tokens.content and exposed.rows is mask.visible and exposed.erased is mask.hidden


def test_side_never_reaches_an_encoder():
    assert "side" not in {field.name for field in fields(EncoderInput)} | {field.name for field in fields(Latent)}


@pytest.mark.parametrize("way", ["drop_masked", "replace_masked"])
def test_corruption_sees_only_what_is_left_and_conditions_travel(tokens, way):
    given = []

    def spoil(content, rows):
        given.append(content.clone())
        return content + 100

    told = {"time": torch.ones(2)}
    seen = getattr(tokens, way)(Mask.from_hidden(flags("x..", ".x."), corrupt=spoil, condition=told))
    assert torch.equal(seen.content, given[0] + 100) and seen.condition is told
    assert not {1.0, 9.0} & set(given[0][..., 0].flatten().tolist()), "hidden content was handed over"


def pyramid() -> Tokens:
    fine = Tokens(torch.arange(4.0).view(1, 4, 1), Layout(4))
    layout = Layout(2, finer=fine.layout, children=torch.tensor([[[0, 1], [2, 3]]]))
    return Tokens(torch.arange(2.0).view(1, 2, 1), layout, {}, fine)


def test_a_pyramid_is_kept_level_by_level():
    tokens = pyramid()
    mask = Mask.from_hidden(flags("x.")).propagate(tokens.layout)
    seen = tokens.drop_masked(mask)
    assert [one.content.flatten().tolist() for one in levels(seen)] == [[1], [2, 3]]
    assert seen.layout.children.tolist() == [[[0, 1]]], "members are numbered among the rows that are there"
    assert seen.layout.finer is seen.finer.layout
    for way in (tokens.replace_masked, tokens.leak_masked):
        assert len(levels(way(mask))) == 2
    assert len(levels(tokens.unmasked())) == 2 and levels(None) == ()


# Batch and ForwardContext -------------------------------------------------------------------------------------------------------


def test_a_batch_moves_with_lists_and_labels():
    batch = Batch({"a": torch.zeros(2), "b": [torch.zeros(1), torch.zeros(2)]}, labels={"label": torch.zeros(2)})
    moved = batch.to("meta")
    assert moved.views["a"].is_meta and moved.views["b"][1].is_meta and moved.labels["label"].is_meta


def test_a_teacher_speaks_once_and_without_gradient():
    calls = []

    def teacher(ctx):
        calls.append(ctx)
        return weight * 2

    weight = torch.ones(1, requires_grad=True)
    ctx = ForwardContext(Batch({}), {}, teachers={"t": teacher})
    assert (
        ctx.teacher_output("t") is ctx.teacher_output("t")
        and len(calls) == 1
        and not ctx.teacher_output("t").requires_grad
    )


def test_values_are_frozen(tokens):
    with pytest.raises(FrozenInstanceError):
        tokens.content = None
