"""Point-MAE: an embedding with BatchNorm may be shown hidden groups for parity (`expose`); that leaks, and is seen."""

import pytest
import torch
from torch import nn

from core.embeddings import token
from core.encoder import AttentionPlan
from core.maskers import RandomMasker
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Head, Objective, Readout
from core.tokenizers import Tokenizer
from core.tokens import Batch, EncoderInput, Latent, Layout, Rows, Tokens
from tests.contracts.firewall import Leak
from tests.contracts.stress.parts import Inner, tight
from tests.contracts.stress.test_pyramids import chamfer
from tests.contracts.toys import DIM, Raw, run, trunk

GROUPS, POINTS = 8, 4


class Groups(Tokenizer):
    def forward(self, data: torch.Tensor) -> Tokens:
        centres = data[:, :GROUPS]
        near = torch.cdist(centres, data).topk(POINTS, largest=False).indices
        around = data[torch.arange(len(data))[:, None, None], near] - centres[:, :, None]
        return Tokens(around, Layout(GROUPS, coords=centres))


class PointEncoder(Inner):
    """Mini-PointNet with BatchNorm over the points it is shown, then a trunk with positions of the centres.

    `embed`: "seen", statistics of visible groups; "all", those of hidden ones too (expose).
    """

    def __init__(self, embed: str):
        super().__init__()
        self.masking = "drop" if embed == "seen" else "leak"
        self.points, self.norm, self.position = nn.Linear(3, DIM), nn.BatchNorm1d(DIM), nn.Linear(3, DIM)

    def forward(self, seen: EncoderInput, taps=()) -> Latent:
        x = self.points(seen.content)
        x = self.norm(x.flatten(0, 2)).view(x.shape).amax(2)
        if self.masking == "drop":
            return self.latent(x + self.position(seen.layout.coords), seen, taps)
        layout = seen.layout.gather(seen.rows)
        x, _ = self.trunk(seen.rows.gather(x) + self.position(layout.coords), AttentionPlan.of(layout))
        return Latent(x, layout, seen.rows)


class PointDecoder(nn.Module):
    """Visible codes, then mask tokens at the centres of hidden groups, which the layout reveals."""

    dim, taps = DIM, ()

    def __init__(self):
        super().__init__()
        self.mask_token, self.position, self.trunk = nn.Parameter(token(DIM)), nn.Linear(3, DIM), trunk(1)

    def forward(self, latent: Latent, layout: Layout, places, others) -> dict:
        ((name, place),) = places.items()
        queries = self.mask_token + self.position(place.rows.gather(layout.coords))
        x = torch.cat([latent.features + self.position(latent.layout.coords), queries], 1)
        return {name: self.trunk(x, AttentionPlan())[0][:, latent.rows.count :]}


def point_mae(embed: str) -> MaskedAutoencoder:
    objective = Objective(Raw(POINTS * 3), chamfer, Head(DIM, POINTS * 3))
    readouts = {"main": Readout(PointDecoder(), {"points": objective})}
    return MaskedAutoencoder(Groups(), RandomMasker(0.6), PointEncoder(embed), readouts)


BATCH = Batch({"point": torch.randn(3, 30, 3, generator=torch.Generator().manual_seed(0))})


@pytest.mark.parametrize("embed", ["seen", "all"])
def test_both_ways_train(embed):
    out = run(point_mae(embed), BATCH)
    assert out.latents["point"].features.shape == (3, 3, DIM) and isinstance(out.latents["point"].rows, Rows)


def test_ours_is_tight_and_the_official_one_is_not():
    tight(point_mae("seen"), BATCH)
    with pytest.raises(Leak, match="training mode"):
        tight(point_mae("all"), BATCH)
