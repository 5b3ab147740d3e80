"""Tokens of empty clips, and a masker's mask of them."""

import torch

from core.tokens import Batch, ForwardContext, Layout, Mask, Tokens


def clip_tokens(grid=(8, 14, 14), batch=3) -> Tokens:
    count = grid[0] * grid[1] * grid[2]
    return Tokens(torch.zeros(batch, count, 1), Layout(count, grid))


def mask_of(masker, tokens: Tokens, seed: int = 0) -> Mask:
    ctx = ForwardContext(Batch({}), {"video": tokens})
    return masker(ctx.tokens, masker.draw(ctx.tokens, torch.Generator().manual_seed(seed), ctx), ctx)["video"]
