import pytest
import torch
from torch import nn

from core.errors import UserError
from core.reconstruction.baseline import HarmonicInterpolation, interpolate, rows_to_cells
from core.tokenizers import Patchify
from core.tokens import Layout, Tokens


def exact(values, known):
    """The same equations, written as one dense system in double precision: a second way to the answer."""
    grid, shape = known.shape, values.shape
    index = torch.arange(known.numel()).view(grid)
    matrix = torch.zeros(known.numel(), known.numel(), dtype=torch.float64)
    for axis, size in enumerate(grid):
        low, high = index.narrow(axis, 0, size - 1).flatten(), index.narrow(axis, 1, size - 1).flatten()
        matrix[low, high] = matrix[high, low] = -1
    matrix.diagonal().copy_(-matrix.sum(1))
    kept = known.flatten()
    matrix[kept] = torch.eye(known.numel(), dtype=torch.float64)[kept]
    right = torch.where(kept, values.double().flatten(1), 0)
    return torch.linalg.solve(matrix, right.T).T.reshape(shape)


@pytest.mark.parametrize(
    "grid, patch", [((24, 32), (8, 8)), ((4, 16, 16), (2, 8, 8)), ((15, 14), (5, 7)), ((13, 11), (1, 1))]
)
def test_solves_the_discrete_laplace_equation(grid, patch):
    generator = torch.Generator().manual_seed(0)
    tokens = [n // p for n, p in zip(grid, patch, strict=True)]
    visible = torch.rand(3, torch.tensor(tokens).prod(), generator=generator) < 0.3
    visible[:, 0] = True
    known = rows_to_cells(visible, tokens, grid)
    values = torch.rand(3, 2, *grid, generator=generator)
    filled = interpolate(values, known, tolerance=1e-6)
    for one, flag, got in zip(values, known, filled, strict=True):
        torch.testing.assert_close(got.double(), exact(one, flag), atol=2e-5, rtol=0)
    assert torch.equal(filled * known[:, None], values * known[:, None])


def test_a_ramp_between_two_known_ends_is_filled_exactly():
    ramp = torch.linspace(0, 1, 33)[None, :].expand(16, 33)
    known = torch.zeros(16, 33, dtype=torch.bool)
    known[:, 0] = known[:, -1] = True
    filled = interpolate(ramp[None, None].clone(), known[None], tolerance=1e-7)
    torch.testing.assert_close(filled[0, 0], ramp, atol=1e-5, rtol=0)


def test_a_sample_of_which_nothing_is_known_harms_no_other():
    values = torch.rand(2, 3, 8, 8)
    known = torch.zeros(2, 8, 8, dtype=torch.bool)
    known[1, :4] = True
    filled = interpolate(values, known)
    assert torch.isfinite(filled).all() and (filled[0] == 0).all()
    torch.testing.assert_close(filled[1:], interpolate(values[1:], known[1:]), atol=2e-4, rtol=0)


def test_hidden_patches_are_filled_from_visible_ones_alone():
    tokenizer = Patchify([4, 4], [16, 16])
    data = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    hidden = torch.rand(2, 16, generator=torch.Generator().manual_seed(1)) < 0.7
    tokens = tokenizer(data)
    filled = HarmonicInterpolation().predict(tokenizer, data, tokens, hidden)
    changed = torch.where(rows_to_cells(hidden, (4, 4), (16, 16))[:, None], torch.randint_like(data, 256), data)
    assert torch.equal(filled, HarmonicInterpolation().predict(tokenizer, changed, tokenizer(changed), hidden))
    kept = tokenizer(filled).content[~hidden]
    torch.testing.assert_close(kept, tokens.content[~hidden].float() / 255)


def test_another_tokenizer_is_refused_by_name():
    class Groups(nn.Module):
        pass

    with pytest.raises(UserError, match="Groups"):
        HarmonicInterpolation().predict(
            Groups(), None, Tokens(torch.zeros(1, 2, 3), Layout(2)), torch.ones(1, 2, dtype=torch.bool)
        )
