"""GraphMAE2's latent prediction: the teacher, a running mean of the encoder fed with every node, and the head."""

from collections.abc import Mapping

from torch import Tensor, nn

from core.methods.masked_autoencoder import MaskedAutoencoder
from core.teachers import EMATeacher
from core.tokens import ForwardContext


class LatentTeacher(EMATeacher):
    """Projected codes (1, N, D) of the whole graph by averaged weights, with dropout, as published.

    Its input is the view "teacher", where the data make one (with other edges dropped), else `view`, the
    student's.
    """

    def __init__(self, parts: Mapping[str, str], momentum: float, delay: float = 0.0, view: str = "graph"):
        super().__init__(parts, momentum, delay)
        self.view = view

    def follow(self, method: MaskedAutoencoder) -> None:
        super().follow(method)
        self.copies["encoder"].input.mask_token = None  # nothing is hidden from it

    def forward(self, ctx: ForwardContext) -> Tensor:
        tokens = ctx.tokens.get("teacher", ctx.tokens[self.view])
        latent = self.copies["encoder"](tokens.unmasked())
        return self.copies["projector"](latent.features)


class LatentHead(nn.Module):
    """Projector and predictor: (…, D) -> (…, D). The teacher has a projector of its own, no predictor."""

    def __init__(self, width: int, inner: int = 256):
        super().__init__()
        self.projector = nn.Sequential(nn.Linear(width, inner), nn.PReLU(), nn.Linear(inner, width))
        self.predictor = nn.Sequential(nn.PReLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.predictor(self.projector(x))
