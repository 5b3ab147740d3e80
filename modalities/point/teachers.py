"""Teachers of clouds: a frozen image encoder over depth views, and the saliency of groups in them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError
from core.tokens import ForwardContext
from modalities.point.clouds import as_clouds
from modalities.point.image_encoders import PRETRAINED, open_pictures
from modalities.point.views import AXES, Projection, project


@dataclass(frozen=True, kw_only=True)
class ViewMaps:
    """An image encoder's maps of the V views of B clouds, and where the points lie in them.

    Shapes: `features` (V, B, D, h, w), `saliency` (V, B, 1, h, w), float32.
    """

    projection: Projection
    features: Tensor
    saliency: Tensor


class DepthViews(nn.Module):
    """An image encoder over depth views of whole clouds, the hidden points among them: clouds -> ViewMaps.

    Pictures are the sigmoid of the depth maps, alike in all channels.
    `source`: the folder of an image run or of a saved encoder; the name of a network of timm; or "random", a small
    untrained ViT. `weights`: "pretrained", those of the run or timm's own; "random", an untrained network of the same
    shape; or a file with those of a timm network. `seed`: of random weights. `head`, `settings`: of timm networks:
    whether features go through the last layer (of CLIP, the projection), and arguments of the constructor.
    Raises: UserError where there is no such encoder, or it takes other data than square pictures of 1 or 3 channels.
    Source: ZrrSkywalker/I2P-MAE.
    """

    def __init__(
        self,
        source: str,
        weights: str = PRETRAINED,
        head: bool = False,
        settings: dict[str, Any] | None = None,
        seed: int = 0,
        view: str = "point",
    ):
        super().__init__()
        self.view = view
        self.encoder = open_pictures(source, weights, head=head, settings=settings or {}, seed=seed)
        if self.encoder.channels not in (1, 3):
            raise UserError(
                f"method.teachers: source={source} takes pictures of {self.encoder.channels} channels; depth views "
                "have 1, or 3 that are alike: take an encoder of modality.channels=3."
            )

    @property
    def provides(self) -> dict:
        return {"teacher_width": len(AXES) * self.encoder.width}

    @torch.no_grad()
    def forward(self, ctx: ForwardContext) -> ViewMaps:
        projection, maps = project(as_clouds(ctx.batch.views[self.view]).points, self.encoder.size)
        pictures = maps.sigmoid().flatten(0, 1)[:, None].expand(-1, self.encoder.channels, -1, -1)

        features, saliency = self.encoder(pictures)
        features = features.float().unflatten(0, maps.shape[:2])
        saliency = saliency.float().unflatten(0, maps.shape[:2])
        return ViewMaps(projection=projection, features=features, saliency=saliency)


class GroupSaliency(nn.Module):
    """The saliency of the coarsest level's groups, the mean of the views at their centres: (B, G).

    `teacher`: name of the `DepthViews`.
    """

    def __init__(self, teacher: str, view: str = "point"):
        super().__init__()
        self.teacher, self.view = teacher, view

    @torch.no_grad()
    def forward(self, ctx: ForwardContext) -> Tensor:
        maps: ViewMaps = ctx.teacher_output(self.teacher)
        centres = ctx.tokens[self.view].layout.coords
        assert centres is not None, "groups have centres"
        return maps.projection.at(maps.saliency, centres)[..., 0].mean(2)
