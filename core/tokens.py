"""The data types every part speaks. Read this page first.

A tokenizer makes `Tokens` (content and where it is) of a raw `Batch`. A masker decides a `Mask`. Together they make a
`EncoderInput`, the only thing an encoder accepts: nothing hidden can reach it. The encoder answers with a `Latent`.

One mask convention everywhere: True = hidden. Shape letters: B batch, N tokens, K rows of a set, V visible,
M predicted, D width, C channels, A coordinate axes, E edges, S samples of a packed batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.errors import UserError


@dataclass(frozen=True)
class Rows:
    """A set of rows per sample: `index` (B, K) long, `valid` (B, K) bool or None when every entry counts.

    Padding has index 0 and is zeroed by `gather`.
    """

    index: Tensor
    valid: Tensor | None = None

    @classmethod
    def from_mask(cls, flag: Tensor, count: int | None = None) -> "Rows":
        """Rows where `flag` (B, N) is True, ascending. With `count`, equal for all samples, no device read is made."""
        counts = None
        if count is None:
            counts = flag.sum(1)
            count = int(counts.max()) if flag.numel() else 0
            if bool((counts == count).all()):
                counts = None
        index = (~flag).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
        if counts is None:
            return cls(index)
        valid = torch.arange(count, device=flag.device) < counts[:, None]
        return cls(index.masked_fill(~valid, 0), valid)

    @classmethod
    def all(cls, batch: int, count: int, device=None) -> "Rows":
        return cls(torch.arange(count, device=device).expand(batch, count))

    @property
    def count(self) -> int:
        return self.index.shape[1]

    def gather(self, x: Tensor) -> Tensor:
        """x (B, N, …) -> (B, K, …). Strided views are gathered without copying them first."""
        if x.is_contiguous():
            rows = x.flatten(0, 1).index_select(0, self._flat(x.shape[1])).unflatten(0, self.index.shape)
        else:
            rows = x[torch.arange(x.shape[0], device=x.device)[:, None], self.index]
        return self.zero_padding(rows)

    def scatter(self, x: Tensor, count: int) -> Tensor:
        """x (B, K, …) -> (B, count, …), the inverse of `gather`; rows outside the set are zero."""
        out = x.new_zeros((x.shape[0] * count, *x.shape[2:]))
        out = out.index_add(0, self._flat(count), self.zero_padding(x).flatten(0, 1))
        return out.unflatten(0, (x.shape[0], count))

    def to_mask(self, count: int) -> Tensor:
        """(B, count) bool, True at the rows of the set."""
        ones = torch.ones_like(self.index, dtype=torch.uint8) if self.valid is None else self.valid.to(torch.uint8)
        empty = torch.zeros(self.index.shape[0], count, dtype=torch.uint8, device=self.index.device)
        return empty.scatter_add(1, self.index, ones) > 0

    def zero_padding(self, x: Tensor) -> Tensor:
        if self.valid is None:
            return x
        return x.masked_fill(~self.valid.reshape(self.valid.shape + (1,) * (x.dim() - 2)), 0)

    def _flat(self, count: int) -> Tensor:
        offset = torch.arange(self.index.shape[0], device=self.index.device) * count
        return (self.index + offset[:, None]).flatten()


@dataclass(frozen=True)
class Layout:
    """How many tokens there are, where they are and how they hang together; no content."""

    count: int
    grid: tuple[int, ...] | None = None  # shape of the grid the tokens lie on; without coords: row-major over all of it
    coords: Tensor | None = None  # (B, N, A): grid index, metric xyz, or encodings computed in data
    cell: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # origin and size: turns a grid index into metres
    valid: Tensor | None = None  # (B, N) bool, False at padding
    sample: Tensor | None = None  # (N,) long: packed ragged data is B = 1 with rows sorted by sample
    samples: int | None = None  # how many samples are packed, empty ones too
    counts: tuple[int, ...] | None = None  # rows of each packed sample, on the host
    edges: Tensor | None = None  # (2, E) long, sorted by destination
    edge_content: Tensor | None = None  # (E, …)
    finer: "Layout | None" = None  # the next level of a pyramid, which is linked coarsest first
    children: Tensor | None = None  # (B, N, K): each token's members one level down

    def gather(self, rows: Rows) -> "Layout":
        """The layout of these rows alone. A full grid stays implicit: its cells are `rows.index`.

        Links and packing are taken along: edges between two taken rows are renumbered, others dropped.
        """
        taken = replace(self, count=rows.count, valid=rows.valid)
        if self.valid is not None:
            inside = rows.gather(self.valid)
            taken = replace(taken, valid=inside if rows.valid is None else inside & rows.valid)
        if self.coords is not None:
            taken = replace(taken, coords=rows.gather(self.coords))
        if self.sample is not None:
            sample = rows.gather(self.sample[None])[0]
            counts = tuple(torch.bincount(sample, minlength=self.samples).tolist())
            taken = replace(taken, sample=sample, counts=counts)
        if self.edges is not None:
            number = _renumber(rows, self.count)[0][self.edges]
            kept = (number >= 0).all(0)
            content = None if self.edge_content is None else self.edge_content[kept]
            taken = replace(taken, edges=number[:, kept], edge_content=content)
        if self.children is not None:
            taken = replace(taken, children=rows.gather(self.children))
        return taken

    def cells(self, rows: Rows | None) -> Tensor | None:
        """Flat row-major grid index (B, K) of `rows` (None: every row); None for a full grid asked for whole."""
        if self.coords is None:
            return None if rows is None else rows.index
        index = self.coords if rows is None else rows.gather(self.coords)
        flat = index[..., 0]
        for axis in range(1, len(self.grid)):
            flat = flat * self.grid[axis] + index[..., axis]
        return flat.long()


@dataclass(frozen=True)
class Query:
    """Where something is answered. `rows=None`: every cell of the dense grid, whether a token lies there or not.

    `remask`: rows erased again before this decoding (GraphMAE). `level`: of a pyramid, 0 = coarsest.
    """

    rows: Rows | None
    remask: Rows | None = None
    level: int = 0

    def rows_in(self, layout: Layout, x: Tensor) -> Rows:
        """The rows asked for of x (B, …); for the grid, every row of a layout that fills it."""
        if self.rows is not None:
            return self.rows
        if layout.coords is not None:
            raise UserError("These tokens do not fill their grid: `at: [grid]` needs a dense decoder and target.")
        return Rows.all(x.shape[0], layout.count, x.device)


@dataclass(frozen=True)
class Mask:
    """What a masker decided for one view (or `view/part`)."""

    hidden: Tensor  # (B, N) bool; padding is neither hidden nor visible
    visible: Rows  # in the published order
    queries: Mapping[str, Query]  # what gets answered, by name; mostly `main`
    content_from: Tensor | None = None  # (B, N) long, for `blank`: the row each row's content comes from, -1 = erased
    layout: Layout | None = None  # the encoder's, where it differs (dropped edges)
    finer: "Mask | None" = None
    corrupt: Callable[[Tensor, Rows | None], Tensor] | None = None  # spoils what is left to see (diffusion)
    condition: Mapping[str, Any] = field(default_factory=dict)  # what the encoder is told besides: time, class, keys

    @classmethod
    def from_hidden(cls, hidden: Tensor, count: int | None = None, valid: Tensor | None = None, **more) -> "Mask":
        """The plain case: hidden rows are predicted, the others are visible, both ascending.

        `count`: hidden rows per sample where that is known and equal (costs no device read).
        """
        seen = ~hidden if valid is None else ~hidden & valid
        visible = Rows.from_mask(seen, None if count is None or valid is not None else hidden.shape[1] - count)
        return cls(hidden, visible, {"main": Query(Rows.from_mask(hidden, count))}, **more)

    def query(self, name: str) -> Query:
        """A place by name: one of `predict`, `visible` or `grid`; `name@1` is that of the next finer level."""
        at = {i: ("visible", "grid", *mask.queries) for i, mask in enumerate(levels(self))}
        known = [f"{one}@{i}" if i else one for i, names in at.items() for one in names]
        if name not in known:
            raise UserError(f"There is no place {name!r} to ask at; this mask has {', '.join(known)}.")
        base, _, number = name.partition("@")
        level = int(number or 0)
        mask = levels(self)[level]
        if base == "visible":
            return Query(mask.visible, level=level)
        if base == "grid":
            return Query(None, level=level)
        return replace(mask.queries[base], level=level)

    def spoil(self, content: Tensor, rows: Rows | None) -> Tensor:
        """What is left of the content (B, V or N, *C) of `rows` (None: all) once it is corrupted."""
        return content if self.corrupt is None else self.corrupt(content, rows)

    def propagate(self, layout: Layout) -> "Mask":
        """Fills `finer`: a finer token is visible iff some visible parent lists it (or hidden iff none does)."""
        if layout.finer is None or self.finer is not None:
            return self
        count = layout.finer.count
        listed = self.visible.gather(layout.children)
        visible = Rows(listed.flatten(1), _spread(self.visible.valid, listed.shape[2])).to_mask(count)
        inside = torch.ones_like(visible) if layout.finer.valid is None else layout.finer.valid
        finer = Mask.from_hidden(~visible & inside, valid=inside)
        return replace(self, finer=finer.propagate(layout.finer))


@dataclass(frozen=True)
class EncoderInput:
    """What an encoder may see. Made by `Tokens.keep`, `.blank`, `.whole` (and `.expose`) and in no other way."""

    content: Tensor  # (B, V or N, *C)
    layout: Layout  # of the rows present
    rows: Rows | None  # which rows of the tokens these are; None: all of them
    erased: Tensor | None = None  # (B, N) bool, rows whose content was removed
    finer: "EncoderInput | None" = None
    condition: Mapping[str, Any] = field(default_factory=dict)  # the mask's

    @property
    def cells(self) -> Tensor | None:
        """Flat grid index (B, V) of each row; None when every cell of the grid is there in order."""
        if self.layout.coords is None:
            return None if self.rows is None else self.rows.index
        return self.layout.cells(None)


@dataclass(frozen=True)
class Tokens:
    """Content and layout. `content` (B, N, *C) is raw: before normalisation and any learned layer, channel fastest."""

    content: Tensor
    layout: Layout
    side: Mapping[str, Any] = field(default_factory=dict)  # for masker and target only; never reaches an encoder
    finer: "Tokens | None" = None

    def drop_masked(self, mask: Mask) -> EncoderInput:
        """The visible rows alone: for encoders that drop tokens. Packed rows stay sorted by sample."""
        rows = mask.visible if self.layout.sample is None else Rows(mask.visible.index.sort(1).values)
        layout = (mask.layout or self.layout).gather(rows)
        finer = None
        if self.finer is not None:
            finer = self.finer.drop_masked(mask.finer)
            number = _renumber(mask.finer.visible, self.finer.layout.count).clamp(min=0)  # below 0 at padding alone
            children = number.gather(1, layout.children.flatten(1)).view_as(layout.children)
            layout = replace(layout, children=children, finer=finer.layout)
        return EncoderInput(mask.spoil(rows.gather(self.content), rows), layout, rows, None, finer, mask.condition)

    def replace_masked(self, mask: Mask) -> EncoderInput:
        """All rows, hidden content removed or replaced as `content_from` says: for encoders that need the structure."""
        source = mask.content_from
        if source is None:
            source = torch.arange(self.layout.count, device=mask.hidden.device).expand_as(mask.hidden)
            source = source.masked_fill(mask.hidden, -1)
        erased = source < 0
        content = Rows(source.clamp(min=0), ~erased).gather(self.content)
        finer = None if self.finer is None else self.finer.replace_masked(mask.finer)
        return EncoderInput(mask.spoil(content, None), mask.layout or self.layout, None, erased, finer, mask.condition)

    def unmasked(self) -> EncoderInput:
        """Nothing hidden: for teachers and for people who use the encoder."""
        return EncoderInput(
            self.content, self.layout, None, None, None if self.finer is None else self.finer.unmasked()
        )

    def leak_masked(self, mask: Mask) -> EncoderInput:
        """All rows and the mask. Leaks by design: parity with official code whose embedding sees hidden tokens."""
        finer = None if self.finer is None else self.finer.leak_masked(mask.finer)
        return EncoderInput(self.content, mask.layout or self.layout, mask.visible, mask.hidden, finer, mask.condition)


@dataclass(frozen=True)
class Latent:
    """What an encoder says. `rows`: which tokens the features belong to; None: all, or not input rows (strided)."""

    features: Tensor  # (B, V, D)
    layout: Layout
    rows: Rows | None
    cls: Tensor | None = None  # (B, D); packed (S, D)
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    finer: "Latent | None" = None
    condition: Mapping[str, Any] = field(default_factory=dict)  # for decoders that are conditioned too


@dataclass(frozen=True)
class Batch:
    """Raw data by view, as the readers made it, and what is known about it."""

    views: Mapping[str, Any]
    keys: Sequence[str] = ()
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    skipped: Sequence[tuple[str, str]] = ()  # (key, reason) of bad samples replaced while this batch was made

    def to(self, device) -> "Batch":
        """Moves every tensor; raw data of other kinds must offer `.to` as well (lists are moved item by item)."""
        move = lambda x: [move(i) for i in x] if isinstance(x, list) else x.to(device, non_blocking=True)  # noqa: E731
        views = {name: move(data) for name, data in self.views.items()}
        return replace(self, views=views, labels={name: move(label) for name, label in self.labels.items()})


@dataclass(frozen=True)
class Progress:
    """How far training is: published schedules count steps or (fractional) epochs."""

    step: int = 0
    steps: int = 1
    epoch: float = 0.0
    epochs: float = 1.0


class TargetValues(NamedTuple):
    """What a target says: `values` (B, M, …) and one `weight` per unit of loss, or None when all count alike."""

    values: Tensor
    weight: Tensor | None = None


@dataclass
class ForwardContext:
    """What one forward knows so far. Teachers run at most once each, shared by masker and targets."""

    batch: Batch
    tokens: dict[str, Tokens]
    progress: Progress = field(default_factory=Progress)
    teachers: Mapping[str, Any] = field(default_factory=dict)
    method: Any = None  # for pre-passes of the model itself (HPM)
    generator: torch.Generator | None = None
    masks: dict[str, Mask] = field(default_factory=dict)
    latents: dict[str, Latent] = field(default_factory=dict)
    terms: dict[str, Tensor] = field(default_factory=dict)
    errors: dict[str, Tensor] = field(default_factory=dict)  # every objective's error before reduction
    _teacher_outputs: dict[str, Any] = field(default_factory=dict)

    def teacher_output(self, name: str) -> Any:
        """What the teacher `name` says of this batch."""
        if name not in self._teacher_outputs:
            with torch.no_grad():
                self._teacher_outputs[name] = self.teachers[name](self)
        return self._teacher_outputs[name]


def levels(x) -> tuple:
    """A pyramid (Tokens, Mask, EncoderInput, Latent or Layout linked by `finer`) as a tuple, coarsest first."""
    found = []
    while x is not None:
        found.append(x)
        x = x.finer
    return tuple(found)


def _renumber(rows: Rows, count: int) -> Tensor:
    """(B, count) long: the place of each row within `rows`, -1 where it is not in the set."""
    order = torch.arange(rows.count, device=rows.index.device).expand_as(rows.index)
    return rows.scatter(order + 1, count) - 1


def _spread(valid: Tensor | None, times: int) -> Tensor | None:
    return None if valid is None else valid.repeat_interleave(times, 1)
