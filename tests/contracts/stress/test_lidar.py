"""R-MAE: tokens are occupied cells alone, in ragged numbers; the prediction covers every cell of a dense grid."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from core.decoders import Decoder
from core.encoder import Encoder
from core.errors import UserError
from core.losses import binary_cross_entropy
from core.maskers import ViewMasker, uniform
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Objective, Readout
from core.targets import Target
from core.tokens import Batch, EncoderInput, ForwardContext, Latent, Layout, Mask, Query, TargetValues
from tests.contracts.firewall import honest, moved
from tests.contracts.pairs import masked
from tests.contracts.stress.parts import tight
from tests.contracts.toys import CELLS, DIM, Packed, ragged_data, run

SECTORS = 8


class Sectors(ViewMasker):
    """Hides whole sectors of the grid, the same in every sample of the batch."""

    def draw_view(self, tokens, generator, ctx) -> Tensor:
        return uniform((SECTORS,), tokens.content.device, generator)

    def mask_view(self, tokens, draws, ctx) -> Mask:
        kept = draws.argsort()[: SECTORS // 2]
        sector = tokens.layout.cells(None) * SECTORS // CELLS
        return Mask.from_hidden(~torch.isin(sector, kept))


class SparseConvolution(Encoder):
    """Occupied cells alone, then a strided layer: its sites are no input rows."""

    def __init__(self):
        super().__init__()
        self.embed, self.down = nn.Linear(3, DIM, bias=False), nn.Conv1d(DIM, DIM, 3, 2, 1, bias=False)
        self.embed_dim, self.depth = DIM, 2

    def forward(self, seen: EncoderInput, taps=()) -> Latent:
        layout = seen.layout
        flat = layout.sample * CELLS + layout.cells(None)[0]
        sites = seen.content.new_zeros(layout.samples * CELLS, DIM).index_add(0, flat, self.embed(seen.content[0]))
        x = torch.relu(self.down(sites.view(layout.samples, CELLS, DIM).transpose(1, 2)))
        return Latent(x.transpose(1, 2), Layout(x.shape[2], (x.shape[2],)), None)


class DenseDecoder(Decoder):
    dim = 1

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose1d(DIM, 1, 2, 2)
        self.shown: list[Layout] = []

    def forward(self, latent: Latent, layout: Layout, queries: Mapping[str, Query], others) -> dict[str, Tensor]:
        self.shown.append(layout)
        return dict.fromkeys(queries, self.up(latent.features.transpose(1, 2)).transpose(1, 2))


class Occupied(Target):
    """(S, cells, 1): 1 wherever a token lies, hidden or seen."""

    reveals, out = "nothing", 1

    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        layout = ctx.tokens[view].layout
        grid = torch.zeros(layout.samples * CELLS)
        grid[layout.sample * CELLS + layout.cells(None)[0]] = 1
        return TargetValues(grid.view(layout.samples, CELLS, 1))


def r_mae(at: str = "grid") -> MaskedAutoencoder:
    objective = Objective(Occupied(), binary_cross_entropy, queries=[at])
    return MaskedAutoencoder(
        Packed(), Sectors(), SparseConvolution(), {"main": Readout(DenseDecoder(), {"occupied": objective})}
    )


BATCH = Batch({"lidar": ragged_data((5, 0, 9))})


def test_every_cell_is_predicted_of_ragged_samples():
    method = r_mae()
    out = run(method, BATCH)
    assert out.predictions["occupied"].shape == out.targets["occupied"].values.shape == (3, CELLS, 1)
    assert out.targets["occupied"].values.sum((1, 2)).tolist() == [5, 0, 9]


def test_one_mask_for_the_batch():
    method = r_mae()
    tokens, masks = masked(method, BATCH)
    sector = tokens["lidar"].layout.cells(None)[0] * SECTORS // CELLS
    hidden = masks["lidar"].hidden[0]
    assert not set(sector[hidden].tolist()) & set(sector[~hidden].tolist())


def test_the_decoder_knows_the_grid_and_nothing_else():
    method = r_mae()
    run(method, BATCH)
    (shown,) = method.readouts["main"].decoder.shown
    assert replace(shown, grid=None) == Layout(0) and shown.grid == (CELLS,)


def test_nothing_revealed_means_that_hidden_tokens_may_be_anywhere_or_gone():
    method = r_mae()
    tokens, masks = masked(method, BATCH)
    moved(method, tokens, masks)
    honest(method, tokens, masks, BATCH)
    tight(method, BATCH)


def test_rows_of_tokens_are_no_question_where_nothing_is_revealed():
    with pytest.raises(UserError, match="whole grid"):
        run(r_mae(at="main"), BATCH)
