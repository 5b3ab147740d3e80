"""Position tables against their formulas, resizing, patch embedding, cls tokens."""

import math
from math import prod

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core.embeddings import (
    ClsToken,
    CoordinateMLP,
    FlatSinusoid,
    Learned,
    PatchEmbed,
    Separable,
    SinCos,
    resize_table,
    token,
)
from core.errors import UserError
from core.tokenizers import Normalise, Patchify
from core.tokens import Layout, Mask, Rows, Tokens


def test_sincos_is_maes_formula():
    """First half the column, second half the row; sines before cosines; ω_k = 10000^(−k / (D/4))."""
    grid, dim = (3, 5), 16
    table = SinCos(grid, dim).full()
    for row in range(3):
        for column in range(5):
            expected = []
            for position in (column, row):
                angles = [position * 10000 ** (-k / (dim / 4)) for k in range(dim // 4)]
                expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            assert torch.allclose(table[row * 5 + column], torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize("grid, dim, zeros", [((7,), 10, 0), ((2, 3, 4), 20, 2), ((2, 2), 6, 2), ((2, 2, 2, 2), 8, 0)])
def test_sincos_of_other_axes_leaves_spare_channels_zero(grid, dim, zeros):
    table = SinCos(grid, dim).full()
    assert table.shape == (prod(grid), dim)
    assert (table[:, dim - zeros :] == 0).all() if zeros else True
    assert len({tuple(row.tolist()) for row in table}) == prod(grid), "every cell has a vector of its own"


def test_flat_sinusoid_is_videomaes_formula():
    grid, dim = (2, 2, 3), 10
    table = FlatSinusoid(grid, dim).full()
    for n in range(12):
        for j in range(dim):
            angle = n / 10000 ** (2 * (j // 2) / dim)
            expected = math.sin(angle) if j % 2 == 0 else math.cos(angle)
            assert abs(float(table[n, j]) - expected) < 1e-6


def test_separable_adds_space_and_time():
    positions = Separable((2, 2, 3), 4)
    table = positions.full()
    for t in range(2):
        for s in range(6):
            assert torch.equal(table[t * 6 + s], positions.temporal[0, t] + positions.spatial[0, s])
    assert {name for name, _ in positions.named_parameters()} == {"spatial", "temporal"}


def test_learned_has_a_vector_for_every_cell():
    positions = Learned((3, 2), 4)
    assert positions.table.shape == (1, 6, 4) and positions.table.std() < 0.04
    assert [name for name, _ in SinCos((3, 2), 4).named_parameters()] == []


@pytest.mark.parametrize("kind", [SinCos, FlatSinusoid, Learned, Separable])
def test_positions_of_cells(kind):
    positions = kind((2, 3), 8)
    whole = positions(None, (2, 3))
    assert whole.shape == (1, 6, 8)
    cells = torch.tensor([[5, 0], [2, 2]])
    assert torch.equal(positions(cells, (2, 3)), whole[0, cells])
    assert positions(cells[:, :0], (2, 3)).shape == (2, 0, 8), "nothing is asked where nothing is hidden"
    layout = Layout(2, (2, 3), coords=torch.tensor([[[1, 2], [0, 0]]]))
    assert torch.equal(positions.at(layout, Rows(torch.tensor([[1, 0]]))), whole[:, [0, 5]])


@pytest.mark.parametrize("grid", [(7,), (3, 4), (2, 3, 4), (2, 2, 3, 4)])
def test_resizing_to_the_same_grid_changes_nothing(grid):
    table = torch.rand(prod(grid), 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(resize_table(table, grid, grid), table, atol=1e-6)


@pytest.mark.parametrize("old, new", [((4,), (7,)), ((3, 4), (6, 5)), ((2, 3, 4), (4, 3, 8))])
def test_a_constant_stays_constant(old, new):
    table = torch.ones(prod(old), 2) * torch.tensor([1.0, -2.0])
    resized = resize_table(table, old, new)
    assert resized.shape == (prod(new), 2) and torch.allclose(resized, table[:1].expand(prod(new), 2), atol=1e-5)


def test_space_is_bicubic_and_time_linear():
    table = torch.rand(24, 3, generator=torch.Generator().manual_seed(0))
    space = table.T.view(3, 2, 3, 4)
    expected = F.interpolate(space, size=(6, 5), mode="bicubic", align_corners=False)
    assert torch.allclose(resize_table(table, (2, 3, 4), (2, 6, 5)), expected.flatten(1).T, atol=1e-6)
    twice = F.interpolate(expected.flatten(2).transpose(1, 2), size=4, mode="linear").transpose(1, 2).flatten(1).T
    assert torch.allclose(resize_table(table, (2, 3, 4), (4, 6, 5)), twice, atol=1e-6)


def test_a_line_is_resized_linearly():
    assert resize_table(torch.tensor([[0.0], [2.0]]), (2,), (4,)).flatten().tolist() == [0.0, 0.5, 1.5, 2.0]


def test_grids_of_unlike_dimension_do_not_resize():
    with pytest.raises(ValueError, match="2-d grid to a 3-d"):
        resize_table(torch.zeros(4, 2), (2, 2), (1, 2, 2))
    with pytest.raises(ValueError, match="3-d grid to a 2-d"):
        SinCos((2, 2, 2), 12)(None, (4, 4))


def test_other_inputs_get_resized_positions():
    positions = SinCos((2, 2), 8)
    assert torch.equal(positions(None, (4, 4))[0], resize_table(positions.full(), (2, 2), (4, 4)))


@pytest.mark.parametrize("size, patch", [((8,), (4,)), ((6, 8), (3, 4)), ((4, 4, 6), (2, 2, 3))])
def test_patch_embedding_is_a_strided_convolution(size, patch):
    convolution = [nn.Conv1d, nn.Conv2d, nn.Conv3d][len(size) - 1](2, 5, patch, patch)
    data = torch.rand(2, 2, *size, generator=torch.Generator().manual_seed(0))
    embed = PatchEmbed(2 * prod(patch), 5, Normalise([0.0], [1.0]))
    with torch.no_grad():
        embed.proj.weight.copy_(convolution.weight.movedim(1, -1).flatten(1))  # (D, *patch, C): channel fastest
        embed.proj.bias.copy_(convolution.bias)
    tokens = Patchify(patch, size, 2)(data)
    expected = convolution(data).flatten(2).transpose(1, 2)
    assert torch.allclose(embed(tokens.unmasked()), expected, atol=1e-5)
    mask = Mask.from_hidden(torch.arange(tokens.layout.count).expand(2, -1) % 2 == 0)
    assert torch.allclose(embed(tokens.drop_masked(mask)), mask.visible.gather(expected), atol=1e-5)


def test_patch_embedding_adds_the_positions_of_the_rows_that_are_there():
    positions = SinCos((2, 2), 8)
    embed = PatchEmbed(4, 8, Normalise([0.0], [1.0]), positions)
    tokens = Patchify([2, 2], (4, 4), 1)(torch.zeros(1, 1, 4, 4))
    seen = tokens.drop_masked(Mask(torch.zeros(1, 4, dtype=torch.bool), Rows(torch.tensor([[3, 1]])), queries={}))
    assert torch.allclose(embed(seen), embed.proj.bias + positions.full()[None, [3, 1]])


def test_embedding_starts_as_published():
    xavier, default = (
        PatchEmbed(64, 64, Normalise([0.0], [1.0]), init=kind).proj.weight for kind in ("xavier", "default")
    )
    assert abs(xavier.std() / (2 / 128) ** 0.5 - 1) < 0.1, "uniform with variance 2 / (in + out)"
    assert abs(default.std() / (1 / (3 * 64)) ** 0.5 - 1) < 0.1, "uniform with variance 1 / (3 · in)"


def test_cls_stands_before_the_others():
    x = torch.zeros(2, 3, 4)
    own = ClsToken(4, position="learned")
    assert torch.allclose(own(x)[:, 0], (own.token + own.position)[0]) and own(x).shape == (2, 4, 4)
    handed = ClsToken(4, learned=False, position="fixed")
    cls = torch.rand(2, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(handed(x, cls)[:, 0], cls) and handed.token is None
    assert "position" in handed.state_dict() and not list(handed.parameters())
    assert ClsToken(4).position is None


@pytest.mark.parametrize(
    "init, low, high", [("normal", 0.018, 0.022), ("truncated", 0.018, 0.022), ("cut", 0.009, 0.0125)]
)
def test_tokens_start_as_published(init, low, high):
    value = token(4096, init)
    assert value.shape == (1, 1, 4096) and low < value.std() < high
    assert init != "cut" or value.abs().max() <= 0.02
    assert (token(8, "zero") == 0).all()


def test_a_mask_token_stands_for_erased_content_at_its_own_position():
    """SimMIM: x_i = mask token + p_i where the content is hidden, W·content_i + p_i elsewhere."""
    tokens = Patchify([2, 2], [4, 4], 1)(torch.rand(2, 1, 4, 4))
    hidden = torch.tensor([[True, False, False, True], [False, True, False, True]])
    embed = PatchEmbed(4, 8, Normalise([0.0], [1.0]), SinCos((2, 2), 8), mask_token=True)
    x = embed(tokens.replace_masked(Mask.from_hidden(hidden)))

    expected = embed.proj(tokens.content.flatten(2))
    expected[hidden] = embed.mask_token[0, 0]
    assert torch.allclose(x, expected + embed.positions.table, atol=1e-6)
    assert torch.allclose(embed(tokens.unmasked()), embed.proj(tokens.content.flatten(2)) + embed.positions.table)


def test_coordinates_go_through_two_layers():
    torch.manual_seed(0)
    made, coords = CoordinateMLP(6, 5, init="truncated"), torch.rand(2, 4, 3)
    layout = Layout(4, coords=coords)
    hidden = coords @ made.fc1.weight.T + made.fc1.bias
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
    expected = hidden @ made.fc2.weight.T + made.fc2.bias
    assert torch.allclose(made.at(layout, None), expected, atol=1e-6)
    rows = Rows(torch.tensor([[2, 0], [3, 1]]))
    assert torch.allclose(made.at(layout, rows), rows.gather(expected), atol=1e-6)
    assert not made.fc1.bias.any() and made.fc1.weight.abs().max() < 2
    with pytest.raises(UserError, match="coordinates"):
        made.at(Layout(4, (2, 2)), None)


def test_positions_of_an_input_are_those_of_its_rows():
    """Of cells of a full grid, and of tokens that bring their coordinates."""
    mask = Mask.from_hidden(torch.tensor([[True, False, False, True]]))
    table, mlp = SinCos((2, 2), 8), CoordinateMLP(8)
    on_grid = Tokens(torch.rand(1, 4, 1), Layout(4, (2, 2)))
    scattered = Tokens(torch.rand(1, 4, 1), Layout(4, coords=torch.rand(1, 4, 3)))
    assert torch.equal(table.of(on_grid.drop_masked(mask)), table.full()[None, 1:3])
    assert torch.allclose(mlp.of(scattered.drop_masked(mask)), mlp.at(scattered.layout, None)[:, 1:3], atol=1e-6)
