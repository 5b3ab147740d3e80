"""I2P-MAE: a pyramid of points whose mask a teacher decides, with one question per level and kind of row."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.decoders import Decoder
from core.embeddings import token
from core.encoder import AttentionPlan, Encoder
from core.losses import mse
from core.maskers import ScoreMasker
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Head, Objective, Readout
from core.targets import Target
from core.tokenizers import Tokenizer
from core.tokens import Batch, EncoderInput, ForwardContext, Latent, Layout, Query, TargetValues, Tokens, levels
from tests.contracts.firewall import scrambled
from tests.contracts.pairs import masked
from tests.contracts.stress.parts import tight
from tests.contracts.toys import DIM, run, trunk

GROUPS, NEAREST = (6, 12, 24), (3, 3, 4)  # coarsest first; members of a group one level down
WIDTH = 5  # of the image teacher's features


class Pyramid(Tokenizer):
    """Points (B, P, 3) -> nested groups: centres, their nearest members, contents relative to the centre."""

    def forward(self, data: Tensor) -> Tokens:
        below, finer = data, None
        for count, members in reversed(list(zip(GROUPS, NEAREST, strict=True))):
            centres = below[:, :count]
            children = torch.cdist(centres, below).topk(members, largest=False).indices
            around = below[torch.arange(len(data))[:, None, None], children] - centres[:, :, None]
            link = (None, None) if finer is None else (finer.layout, children)
            finer = Tokens(around, Layout(count, coords=centres, finer=link[0], children=link[1]), {}, finer)
            below = centres
        return finer


class DepthMaps(nn.Module):
    """Stands for the 2D model: says how salient coarse groups are, and a feature of every finest centre."""

    def __init__(self):
        super().__init__()
        self.look = nn.Linear(3, WIDTH)

    def forward(self, ctx: ForwardContext) -> Tensor:
        return self.look(levels(ctx.tokens["point"])[2].layout.coords)


class Saliency(nn.Module):
    def forward(self, ctx: ForwardContext) -> Tensor:
        return ctx.tokens["point"].layout.coords[..., 2]


class Hierarchical(Encoder):
    """Finest level first; the tokens of the next are made of the features of their members."""

    def __init__(self):
        super().__init__()
        self.embed = nn.ModuleList([nn.Linear(DIM, DIM), nn.Linear(DIM, DIM), nn.Linear(3, DIM)])
        self.position = nn.ModuleList(nn.Linear(3, DIM) for _ in GROUPS)
        self.trunks = nn.ModuleList(trunk(1) for _ in GROUPS)
        self.embed_dim, self.depth = DIM, 3

    def forward(self, seen: EncoderInput, taps=()) -> Latent:
        below = None
        for level, one in reversed(list(enumerate(levels(seen)))):
            x = one.content if below is None else self.members(below.features, one.layout.children)
            x = self.embed[level](x).amax(2) + self.position[level](one.layout.coords)
            x, _ = self.trunks[level](x, AttentionPlan.of(one.layout))
            below = Latent(x, one.layout, one.rows, finer=below)
        return below

    @staticmethod
    def members(x: Tensor, children: Tensor) -> Tensor:
        return x[torch.arange(len(x))[:, None, None], children]


class Upwards(Decoder):
    """Coarse latents and mask tokens, interpolated to the centres of the next level, with that level's latents."""

    dim = DIM

    def __init__(self):
        super().__init__()
        self.mask_token, self.trunk = nn.Parameter(token(DIM)), trunk(1)
        self.position, self.fuse = nn.Linear(3, DIM), nn.Linear(2 * DIM, DIM)
        self.shown: list[Layout] = []

    def forward(self, latent: Latent, layout: Layout, queries: Mapping[str, Query], others) -> dict[str, Tensor]:
        self.shown.append(layout)
        hidden = ~latent.rows.to_mask(layout.count)[..., None]
        x = torch.where(hidden, self.mask_token, latent.rows.scatter(latent.features, layout.count))
        x, _ = self.trunk(x + self.position(layout.coords), AttentionPlan())
        fine, skip = layout.finer, latent.finer
        near = torch.cdist(fine.coords, layout.coords).topk(3, largest=False)
        share = F.normalize(1 / (near.values + 1e-8), p=1, dim=-1)[..., None]
        x = (Hierarchical.members(x, near.indices) * share).sum(2)
        x = self.fuse(torch.cat([skip.rows.scatter(skip.features, fine.count), x], -1))
        return {name: query.rows.gather(x) for name, query in queries.items()}


class Members(Target):
    """Where a group's members lie, (B, M, K · 3)."""

    out = NEAREST[1] * 3

    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        return TargetValues(query.rows.gather(levels(ctx.tokens[view])[query.level].content).flatten(2))


class ImageFeatures(Target):
    """What the image teacher says of each of a group's members: several targets a token, (B, V, K · T)."""

    out = NEAREST[1] * WIDTH

    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        layout = levels(ctx.tokens[view])[query.level].layout
        return TargetValues(
            Hierarchical.members(ctx.teacher_output("image"), query.rows.gather(layout.children)).flatten(2)
        )


def chamfer(prediction: Tensor, values: Tensor) -> Tensor:
    near = torch.cdist(prediction.unflatten(2, (-1, 3)), values.unflatten(2, (-1, 3))).square()
    return near.amin(-1).mean(-1) + near.amin(-2).mean(-1)


def i2p_mae() -> MaskedAutoencoder:
    shape = Objective(Members(), chamfer, Head(DIM, Members.out), queries=["main@1"])
    image = Objective(ImageFeatures(), mse, Head(DIM, ImageFeatures.out), queries=["visible@1"])
    return MaskedAutoencoder(
        Pyramid(),
        ScoreMasker(0.5, "saliency", randomness=0.3),
        Hierarchical(),
        {"main": Readout(Upwards(), {"shape": shape, "image": image})},
        teachers={"image": DepthMaps(), "saliency": Saliency()},
    )


def clouds(count: int = 3) -> Batch:
    return Batch({"point": torch.randn(count, 40, 3, generator=torch.Generator().manual_seed(0))})


def test_three_levels_with_unequal_visible_counts():
    out = run(i2p_mae(), clouds())
    masks, latents = levels(out.masks["point"]), levels(out.latents["point"])
    assert len(masks) == len(latents) == 3
    assert masks[0].visible.valid is None and masks[1].visible.valid is not None, "samples see unequally many"
    for mask, latent in zip(masks, latents, strict=True):
        assert torch.equal(latent.rows.index, mask.visible.index)
        assert latent.features.shape[1] == mask.visible.count


def test_a_finer_token_is_visible_iff_a_visible_group_lists_it():
    method, batch = i2p_mae(), clouds()
    tokens, masks = masked(method, batch)
    for coarse, fine, one in zip(
        levels(masks["point"]), levels(masks["point"])[1:], levels(tokens["point"]), strict=False
    ):
        for b in range(3):
            listed = one.layout.children[b][~coarse.hidden[b]].unique().tolist()
            assert sorted(listed) == (~fine.hidden[b]).nonzero()[:, 0].tolist()


def test_each_objective_asks_its_rows_of_the_same_level():
    method, batch = i2p_mae(), clouds()
    out = run(method, batch)
    fine = levels(out.masks["point"])[1]
    assert out.predictions["shape"].shape[1] == fine.queries["main"].rows.count
    assert out.targets["image"].values.shape == (3, fine.visible.count, NEAREST[1] * WIDTH)
    (shown,) = method.readouts["main"].decoder.shown
    assert shown.finer is not None and shown.finer.finer is None and shown.finer.children is None, (
        "the finest stays shut"
    )


def test_it_is_tight():
    method, batch = i2p_mae(), clouds()
    tight(method, batch)
    tokens, masks = masked(method, batch)
    other = levels(scrambled(tokens["point"], masks["point"], "drop"))
    assert all((a.content != b.content).any() for a, b in zip(levels(tokens["point"]), other, strict=True))


def test_padded_groups_name_rows_that_exist():
    """Children of padding must not point before the first row."""
    method, batch = i2p_mae(), clouds()
    tokens, masks = masked(method, batch)
    for seen in levels(tokens["point"].drop_masked(masks["point"]))[:2]:
        assert (seen.layout.children >= 0).all() and (seen.layout.children < seen.finer.rows.count).all()


def test_everything_seen_propagates_too():
    method, batch = i2p_mae(), clouds()
    latent = method.encoder(method.tokenizer.tokenize_views(batch.views)["point"].unmasked())
    assert [one.features.shape[1] for one in levels(latent)] == list(GROUPS)
    assert all(one.rows is None for one in levels(latent))
