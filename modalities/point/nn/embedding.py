"""The embedding of groups of points: mini-PointNet."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from core.embeddings import initialise_truncated
from core.tokens import EncoderInput


class MiniPointNet(nn.Module):
    """Groups of points (B, V, S, C) -> vectors (B, V, D): two shared layers, a maximum, two more, a maximum.

    x -> relu(BN(W₁ x)) -> W₂, widths w₀ and w₁; its maximum over the group is put before each of its points, so that
    2 w₁ numbers go through relu(BN(W₃ ·)), width w₂, and W₄; the maximum over the group is the vector.
    `widths`: (w₀, w₁, w₂). Batch statistics are those of the points that it is given: of visible groups alone, unless
    the encoder shows hidden ones too.
    Source: Pang-Yatian/Point-MAE (Encoder).
    """

    def __init__(self, dim: int, channels: int, widths: Sequence[int] = (128, 256, 512)):
        super().__init__()
        first, second, third = widths
        # Convolutions over (groups, channels, points): batch statistics are summed as the official code sums them.
        self.points = nn.Sequential(
            nn.Conv1d(channels, first, 1), nn.BatchNorm1d(first), nn.ReLU(), nn.Conv1d(first, second, 1)
        )
        self.groups = nn.Sequential(
            nn.Conv1d(2 * second, third, 1), nn.BatchNorm1d(third), nn.ReLU(), nn.Conv1d(third, dim, 1)
        )
        initialise_truncated(self)

    def forward(self, inputs: EncoderInput) -> Tensor:
        content, valid = inputs.content, inputs.layout.valid
        if valid is None:
            return self._embed(content.flatten(0, 1)).unflatten(0, content.shape[:2])

        vectors = self._embed(content[valid])  # padding has no part in the statistics
        return vectors.new_zeros(*valid.shape, vectors.shape[1]).masked_scatter(valid[..., None], vectors)

    def _embed(self, points: Tensor) -> Tensor:
        """(R, S, C) -> (R, D)."""
        x = self.points(points.transpose(1, 2).to(self.points[0].weight.dtype))

        # The half that multiplies the maximum is the same for all points of a group: it is computed once.
        layer, half = self.groups[0], x.shape[1]
        weight = layer.weight[..., 0]
        of_group = F.linear(x.amax(2), weight[:, :half], layer.bias)
        y = F.conv1d(x, layer.weight[:, half:]) + of_group[..., None]

        for part in self.groups[1:]:
            y = part(y)
        return y.amax(2)
