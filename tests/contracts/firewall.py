"""Firewall, growth and alone: what types cannot prove about leaks. Each check raises `Leak` with what changed.

firewall  replace what nothing may read: no latent and no prediction changes, in eval and in training mode
moved     where a target reveals nothing, hidden tokens may be anywhere or gone: again nothing changes
honest    what a target asks for does not stand in the layout that it reveals
growth    more hidden cells around the visible ones change no visible feature (hidden cells are absent ones)
alone     a sample alone gives what it gives in a padded or packed batch, in eval mode
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from core.encoder import Encoder
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Batch, ForwardContext, Layout, Mask, Query, Rows, Tokens, levels

Views = Mapping[str, Tokens]
Masks = Mapping[str, Mask]


class Leak(AssertionError):
    """Something that is hidden was seen."""


def firewall(method: MaskedAutoencoder, tokens: Views, other: Views, masks: Masks) -> None:
    """`other`: the tokens of the same raw input with everything replaced that `unread` names."""
    for name, mask in masks.items():
        view = name.partition("/")[0]
        for one, changed, part in zip(levels(tokens[view]), levels(other[view]), levels(mask), strict=True):
            closed, differ = unread(part, method.encoder.masking), _differ(one.content, changed.content)
            assert not (differ & ~closed).any(), f"{name}: the scrambled input differs in rows that are seen"
        # Of a pyramid the finest: what is raw.
        assert not closed.any() or differ[closed].float().mean() > 0.5, f"{name}: the scrambled input hardly differs"
    for train in (False, True):
        compare(answers(method, tokens, masks, train), answers(method, other, masks, train), _mode(train))


def moved(method: MaskedAutoencoder, tokens: Views, masks: Masks, seed: int = 1) -> None:
    """For methods of which every target reveals nothing: hidden tokens elsewhere on the grid, then deleted."""
    elsewhere = {name: _shuffled_coords(tokens[name], masks[name], seed) for name in masks}
    for train in (False, True):
        before = answers(method, tokens, masks, train)
        compare(before, answers(method, elsewhere, masks, train), f"hidden tokens moved, {_mode(train)}")
        if method.encoder.masking == "drop":
            left = {name: (_without_hidden(tokens[name], masks[name])) for name in masks}
            gone = {name: one for name, (one, _) in left.items()}
            compare(before, answers(method, gone, {n: m for n, (_, m) in left.items()}, train), "hidden tokens deleted")


def honest(method: MaskedAutoencoder, tokens: Views, masks: Masks, batch: Batch, seed: int = 1) -> None:
    """A target that reveals the layout must not ask for what stands in it: hidden coordinates leave its truth alone."""
    elsewhere = {name: _shuffled_coords(tokens[name], masks[name], seed) for name in masks}
    steps = [
        ForwardContext(batch, dict(t), teachers=method.teachers, method=method, masks=dict(masks))
        for t in (tokens, elsewhere)
    ]
    for name, (objective, view, query) in method.prediction_tasks(masks).items():
        if objective.target.reveals == "layout" and tokens[view].layout.coords is not None:
            first, second = (objective.target(step, view, query).values for step in steps)
            compare({name: first}, {name: second}, "the truth stands in the layout that the target reveals")


def growth(method: MaskedAutoencoder, data: Tensor, hidden: Tensor) -> None:
    """For encoders whose hidden rows stand for absent cells: raw data (B, C, *size), hidden (B, *grid).

    The data grow by one patch at the end of every axis, hidden and full of noise.
    """
    tokenizer, encoder = method.tokenizer, method.encoder
    tokens = tokenizer(data)
    grid = tokens.layout.grid
    more = [n + p for n, p in zip(data.shape[2:], tokenizer.patch, strict=True)]
    larger = torch.rand(*data.shape[:2], *more, generator=_seeded(2), dtype=data.dtype)
    larger[(slice(None), slice(None), *(slice(n) for n in data.shape[2:]))] = data
    grown = tokenizer(larger)
    around = torch.ones(hidden.shape[0], *grown.layout.grid, dtype=torch.bool)
    around[(slice(None), *(slice(n) for n in grid))] = hidden
    for train in (False, True):
        first = _visible_features(encoder, tokens, hidden, grid, train)
        second = _visible_features(encoder, grown, around, grid, train)
        compare(first, second, f"hidden cells appended, {_mode(train)}", 1e-5)


def convolves(encoder: Encoder) -> bool:
    """Whether hidden rows stand for absent cells: windows reach for neighbours, and no mask token stands in them."""
    windows = any(isinstance(layer, _ConvNd) and max(layer.kernel_size) > 1 for layer in encoder.modules())
    return windows and not any("mask_token" in name for name, _ in encoder.named_parameters())


def alone(method: MaskedAutoencoder, tokens: Views, masks: Masks, tolerance: float = 1e-5) -> None:
    """Every sample of the batch by itself, without the padding that the others cost it."""
    together = answers(method, tokens, masks, train=False)
    tokens, masks = _settled(tokens, masks)
    layout = tokens[next(iter(masks)).partition("/")[0]].layout
    for i in range(layout.samples or next(iter(masks.values())).hidden.shape[0]):
        parts = {view: one_sample(one, i) for view, one in tokens.items()}
        own = {name: _own_mask(mask, tokens[name.partition("/")[0]], i) for name, mask in masks.items()}
        if layout.samples is not None and not int(parts[next(iter(parts))].layout.count):
            continue
        single = answers(method, parts, own, train=False)
        expected = {key: _part(method, key, value, tokens, masks, i) for key, value in together.items()}
        compare(expected, single, f"sample {i} alone", tolerance)


# What is compared -----------------------------------------------------------------------------------------------------


def answers(method: MaskedAutoencoder, tokens: Views, masks: Masks, train: bool) -> dict[str, Tensor]:
    """All that comes out: features of each level, cls and predictions."""
    torch.manual_seed(0)
    method.train(train)
    with torch.no_grad():
        latents, predictions = method.predict(tokens, masks)
    found = {}
    for name, latent in latents.items():
        for level, one in enumerate(levels(latent)):
            found[f"latent {name}@{level}"] = one.features
        if latent.cls is not None:
            found[f"cls {name}"] = latent.cls
    return found | {f"prediction {name}": value for name, value in predictions.items()}


def compare(first: Mapping[str, Tensor], second: Mapping[str, Tensor], what: str, tolerance: float = 0.0) -> None:
    for key, a in first.items():
        b = second[key]
        if a.shape != b.shape:
            raise Leak(f"{key} has another shape ({what}): {tuple(a.shape)}, {tuple(b.shape)}")
        a, b = a.double(), b.double()
        if a.numel() and not ((a - b).abs().max() <= tolerance * a.abs().max().clamp(min=1e-3)):
            raise Leak(f"{key} changed by {(a - b).abs().max():.1e} of {a.abs().max():.1e} ({what})")


def unread(mask: Mask, masking: str) -> Tensor:
    """(B, N) bool: rows whose content nothing may read."""
    if masking == "drop" or (masking == "replace" and mask.content_from is None):
        return ~mask.visible.to_mask(mask.hidden.shape[1]) if masking == "drop" else mask.hidden
    if masking == "leak":
        return mask.hidden
    named = Rows(mask.content_from.clamp(min=0), mask.content_from >= 0)
    return ~named.to_mask(mask.hidden.shape[1])


def scrambled(tokens: Tokens, mask: Mask, masking: str, seed: int = 1) -> Tokens:
    """Other content in the rows that nothing reads, level by level: values of the same kind and range."""
    closed = unread(mask, masking)
    noise = torch.randperm(tokens.content.numel(), generator=_seeded(seed))
    noise = tokens.content.reshape(-1)[noise].view(tokens.content.shape)
    if tokens.content.is_floating_point():
        noise = noise + torch.rand(noise.shape, generator=_seeded(seed), dtype=noise.dtype)
    content = torch.where(closed.reshape(closed.shape + (1,) * (noise.dim() - 2)), noise, tokens.content)
    finer = None if tokens.finer is None else scrambled(tokens.finer, mask.finer, masking, seed)
    return replace(tokens, content=content, finer=finer)


def one_sample(tokens: Tokens, i: int) -> Tokens:
    """Sample `i` of a padded or packed batch, without padding."""
    rows = _rows_of(tokens.layout, i)
    layout = tokens.layout
    if layout.sample is not None:
        layout = replace(
            layout.gather(rows), sample=torch.zeros(rows.count, dtype=torch.long), samples=1, counts=(rows.count,)
        )
        content = rows.gather(tokens.content)
    else:
        layout = _slice_layout(layout, rows, i)
        content = tokens.content[i : i + 1, rows.index[0]]
    finer = None if tokens.finer is None else one_sample(tokens.finer, i)
    if finer is not None:
        layout = replace(layout, finer=finer.layout)
    return replace(tokens, content=content, layout=layout, finer=finer)


# Pieces ---------------------------------------------------------------------------------------------------------------


def _rows_of(layout: Layout, i: int) -> Rows:
    if layout.sample is not None:
        return Rows((layout.sample == i).nonzero()[:, 0][None])
    if layout.valid is None:
        return Rows(torch.arange(layout.count)[None])
    return Rows(layout.valid[i].nonzero()[:, 0][None])


def _slice_layout(layout: Layout, rows: Rows, i: int) -> Layout:
    coords = None if layout.coords is None else layout.coords[i : i + 1, rows.index[0]]
    children = None if layout.children is None else layout.children[i : i + 1, rows.index[0]]
    return replace(layout, count=rows.count, coords=coords, children=children, valid=None)


def _own_mask(mask: Mask, tokens: Tokens, i: int) -> Mask:
    """The part of a mask that concerns sample `i`, rows renumbered."""
    rows = _rows_of(tokens.layout, i)
    batch = 0 if tokens.layout.sample is not None else i
    number = torch.full((tokens.layout.count,), -1).index_copy(0, rows.index[0], torch.arange(rows.count))

    def own(some: Rows | None) -> Rows | None:
        if some is None:
            return None
        index = some.index[batch] if some.valid is None else some.index[batch][some.valid[batch]]
        index = number[index]
        return Rows(index[index >= 0][None])

    source = mask.content_from
    if source is not None:
        source = source[batch, rows.index[0]]
        source = torch.where(source < 0, -1, number[source.clamp(min=0)])[None]
    predict = {name: Query(own(p.rows), own(p.remask), level=p.level) for name, p in mask.queries.items()}
    layout = None if mask.layout is None else one_sample(replace(tokens, layout=mask.layout, finer=None), i).layout
    finer = None if mask.finer is None else _own_mask(mask.finer, tokens.finer, i)
    condition = {name: value[batch : batch + 1] for name, value in mask.condition.items()}
    hidden = mask.hidden[batch : batch + 1, rows.index[0]]
    return Mask(
        hidden,
        own(mask.visible),
        queries=predict,
        content_from=source,
        layout=layout,
        finer=finer,
        corrupt=mask.corrupt,
        condition=condition,
    )


def _settled(tokens: Views, masks: Masks) -> tuple[Views, Masks]:
    """Swapped content, of other samples maybe, laid where it is swapped in: samples can then be taken apart."""
    tokens, masks = dict(tokens), dict(masks)
    for name, mask in masks.items():
        if mask.content_from is not None:
            one = tokens[name.partition("/")[0]]
            own = torch.arange(one.layout.count).expand_as(mask.hidden)
            tokens[name.partition("/")[0]] = replace(one, content=one.replace_masked(mask).content)
            masks[name] = replace(mask, content_from=torch.where(mask.content_from < 0, -1, own))
    return tokens, masks


def _part(method: MaskedAutoencoder, key: str, value: Tensor, tokens: Views, masks: Masks, i: int) -> Tensor:
    """What of an answer of the batch belongs to sample `i`."""
    kind, name = key.split(" ", 1)
    if kind == "cls":
        return value[i : i + 1]
    if kind == "prediction":
        _, view, query = method.prediction_tasks(masks)[name]
        rows, layout = query.rows, levels(tokens[view])[query.level].layout
    else:
        name, level = name.split("@")
        view = tokens[name.partition("/")[0]]
        if int(level) >= len(levels(view)):  # a pyramid that the encoder made of dense tokens
            return value[i : i + 1]
        layout = levels(view)[int(level)].layout
        kept = levels(view.drop_masked(masks[name]))[int(level)].rows
        rows = kept if method.encoder.masking == "drop" else Rows.all(*levels(masks[name])[int(level)].hidden.shape)
    if layout.sample is None:
        valid = None if rows is None else rows.valid
        if kind == "latent" and method.encoder.masking != "drop" and layout.valid is not None:
            valid = layout.valid
        return value[i : i + 1] if valid is None else value[i : i + 1, valid[i]]
    if rows is None or value.shape[0] == layout.samples > 1:  # dense, a row of the batch for each sample
        return value[i : i + 1]
    return value[:, layout.sample[rows.index[0]] == i]


def _shuffled_coords(tokens: Tokens, mask: Mask, seed: int) -> Tokens:
    """Hidden tokens lie in random free or hidden cells of their grid, or, without one, anywhere among the others."""
    if tokens.layout.coords is None:
        return tokens
    if tokens.layout.grid is None:
        low, high = tokens.layout.coords.amin((0, 1)), tokens.layout.coords.amax((0, 1))
        places = low + (high - low) * torch.rand(tokens.layout.coords.shape, generator=_seeded(seed))
        coords = torch.where(mask.hidden[..., None], places, tokens.layout.coords)
        return replace(tokens, layout=replace(tokens.layout, coords=coords))

    drawn = [torch.randint(n, mask.hidden.shape, generator=_seeded(seed + a)) for a, n in enumerate(tokens.layout.grid)]
    coords = torch.where(mask.hidden[..., None], torch.stack(drawn, -1).to(tokens.layout.coords), tokens.layout.coords)
    return replace(tokens, layout=replace(tokens.layout, coords=coords))


def _without_hidden(tokens: Tokens, mask: Mask) -> tuple[Tokens, Mask]:
    seen = tokens.drop_masked(mask)
    rows, left = seen.rows, Tokens(seen.content, seen.layout)
    everything = Rows(torch.arange(rows.count).expand(rows.index.shape), rows.valid)
    return left, Mask(torch.zeros_like(rows.index, dtype=torch.bool), everything, queries=mask.queries)


def _visible_features(encoder: Encoder, tokens: Tokens, hidden: Tensor, grid: tuple, train: bool) -> dict[str, Tensor]:
    """Features at visible cells of the corner of size `grid`, for every level of the pyramid."""
    torch.manual_seed(0)
    encoder.train(train)
    mask = Mask.from_hidden(hidden.flatten(1))
    with torch.no_grad():
        latent = encoder(tokens.drop_masked(mask) if encoder.masking == "drop" else tokens.replace_masked(mask))
    if encoder.masking == "drop":  # visible cells in their order, which growing does not change
        return {f"latent@{level}": one.features for level, one in enumerate(levels(latent))}
    found = {}
    for level, one in enumerate(levels(latent)):
        times = [n // g for n, g in zip(one.layout.grid, tokens.layout.grid, strict=True)]
        visible = ~hidden
        for axis, k in enumerate(times):
            visible = visible.repeat_interleave(k, axis + 1)
        corner = (slice(None), *(slice(g * k) for g, k in zip(grid, times, strict=True)))
        features = one.features.unflatten(1, one.layout.grid)
        found[f"latent@{level}"] = features[corner][visible[corner]]
    return found


def _differ(a: Tensor, b: Tensor) -> Tensor:
    return (a != b).reshape(*a.shape[:2], -1).any(2)


def _mode(train: bool) -> str:
    return "training mode" if train else "eval mode"


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
