"""The data types that every part passes on. Read this page first.

A tokenizer turns a raw `Batch` into `Tokens` (content and layout). A masker turns tokens into a `Mask`.
Together they give an `EncoderInput`, the only type an encoder accepts, so that nothing hidden can reach it.
An encoder returns a `Latent`, and a decoder features for each `Query`.

One mask convention everywhere: True = hidden. Shape letters: B batch, N tokens, K rows of a set, V visible,
M predicted, D width, C channels, A coordinate axes, E edges, S samples of a packed batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from core.errors import UserError


@dataclass(frozen=True)
class Rows:
    """A set of token rows per sample.

    Shapes: `index` (B, K) long; `valid` (B, K) bool, or None when every entry counts. Padding has index 0 and
    is zeroed by `gather`.
    """

    index: Tensor
    valid: Tensor | None = None

    @classmethod
    def from_mask(cls, flags: Tensor, count: int | None = None) -> "Rows":
        """Rows where `flags` (B, N) is True, ascending.

        `count`: their number where it is known and the same for all samples; then the device is not read.
        """
        counts = None
        if count is None:
            counts = flags.sum(1)
            count = int(counts.max()) if flags.numel() else 0
            if bool((counts == count).all()):
                counts = None

        index = (~flags).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
        if counts is None:
            return cls(index)

        valid = torch.arange(count, device=flags.device) < counts[:, None]
        return cls(index.masked_fill(~valid, 0), valid)

    @classmethod
    def all(cls, batch: int, count: int, device=None) -> "Rows":
        return cls(torch.arange(count, device=device).expand(batch, count))

    @property
    def count(self) -> int:
        return self.index.shape[1]

    def gather(self, x: Tensor) -> Tensor:
        """x (B, N, …) -> (B, K, …). Strided views are gathered without a copy of the whole."""
        if x.is_contiguous():
            rows = x.flatten(0, 1).index_select(0, self._flat(x.shape[1]))
            return self.zero_padding(rows.unflatten(0, self.index.shape))

        samples = torch.arange(x.shape[0], device=x.device)[:, None]
        return self.zero_padding(x[samples, self.index])

    def scatter(self, x: Tensor, count: int) -> Tensor:
        """x (B, K, …) -> (B, count, …), the inverse of `gather`; rows outside the set are zero."""
        out = x.new_zeros((x.shape[0] * count, *x.shape[2:]))
        out = out.index_add(0, self._flat(count), self.zero_padding(x).flatten(0, 1))
        return out.unflatten(0, (x.shape[0], count))

    def to_mask(self, count: int) -> Tensor:
        """(B, count) bool, True at the rows of the set."""
        ones = torch.ones_like(self.index, dtype=torch.uint8) if self.valid is None else self.valid.to(torch.uint8)
        zeros = torch.zeros(self.index.shape[0], count, dtype=torch.uint8, device=self.index.device)
        return zeros.scatter_add(1, self.index, ones) > 0

    def zero_padding(self, x: Tensor) -> Tensor:
        """x (B, K, …) with zeros at padding."""
        if self.valid is None:
            return x
        return x.masked_fill(~self.valid.reshape(self.valid.shape + (1,) * (x.dim() - 2)), 0)

    def _flat(self, count: int) -> Tensor:
        """(B · K,) row numbers in x (B, count, …) with its first two axes flattened."""
        offset = torch.arange(self.index.shape[0], device=self.index.device) * count
        return (self.index + offset[:, None]).flatten()


@dataclass(frozen=True)
class Layout:
    """How many tokens there are, where they are and how they are linked; no content."""

    count: int
    grid: tuple[int, ...] | None = None  # that the tokens lie on; without coords: row-major over all of it
    _: KW_ONLY
    coords: Tensor | None = None  # (B, N, A): grid index, metric xyz, or encodings computed in data
    cell: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # origin and size: grid index -> metres
    valid: Tensor | None = None  # (B, N) bool, False at padding
    sample: Tensor | None = None  # (N,) long: packed ragged data is B = 1 with rows sorted by sample
    samples: int | None = None  # number of packed samples, empty ones too
    counts: tuple[int, ...] | None = None  # rows of each packed sample, on the host
    edges: Tensor | None = None  # (2, E) long, sorted by destination
    edge_content: Tensor | None = None  # (E, …)
    finer: "Layout | None" = None  # the next level of a pyramid, which is linked coarsest first
    children: Tensor | None = None  # (B, N, K): each token's members one level down

    def gather(self, rows: Rows) -> "Layout":
        """The layout of these rows alone. A full grid stays implicit: its cells are `rows.index`.

        Edges between two of the rows are renumbered, all other edges dropped; packed
        samples keep their numbers.
        """
        layout = replace(self, count=rows.count, valid=rows.valid)

        if self.valid is not None:
            valid = rows.gather(self.valid)
            layout = replace(layout, valid=valid if rows.valid is None else valid & rows.valid)

        if self.coords is not None:
            layout = replace(layout, coords=rows.gather(self.coords))

        if self.sample is not None and self.samples is not None:
            sample = rows.gather(self.sample[None])[0]
            counts = tuple(torch.bincount(sample, minlength=self.samples).tolist())
            layout = replace(layout, sample=sample, counts=counts)

        if self.edges is not None:
            ends = _renumber(rows, self.count)[0][self.edges]
            stays = (ends >= 0).all(0)
            content = None if self.edge_content is None else self.edge_content[stays]
            layout = replace(layout, edges=ends[:, stays], edge_content=content)

        if self.children is not None:
            layout = replace(layout, children=rows.gather(self.children))
        return layout

    @overload
    def cells(self, rows: Rows) -> Tensor: ...

    @overload
    def cells(self, rows: None) -> Tensor | None: ...

    def cells(self, rows: Rows | None) -> Tensor | None:
        """Flat row-major grid index (B, K) of `rows` (None: every row); None for every row of a full grid."""
        if self.coords is None:
            return None if rows is None else rows.index

        assert self.grid is not None, "coordinates without a grid are no cells"
        index = self.coords if rows is None else rows.gather(self.coords)
        flat = index[..., 0]
        for axis in range(1, len(self.grid)):
            flat = flat * self.grid[axis] + index[..., axis]
        return flat.long()

    def up_to(self, level: int) -> "Layout":
        """The pyramid cut off below `level` (0 = coarsest)."""
        if level == 0:
            return replace(self, finer=None, children=None)
        assert self.finer is not None, "the pyramid has fewer levels"
        return replace(self, finer=self.finer.up_to(level - 1))

    def grid_only(self) -> "Layout":
        """The dense grid and its cell size, without a word about which cells hold tokens."""
        return Layout(0, grid=self.grid, cell=self.cell)


@dataclass(frozen=True)
class Query:
    """The rows that a decoder predicts. `rows=None`: every cell of the dense grid, with or without a token.

    `remask`: rows erased again before this decoding (GraphMAE). `level`: of a pyramid, 0 = coarsest.
    """

    rows: Rows | None
    remask: Rows | None = None
    _: KW_ONLY
    level: int = 0

    @property
    def key(self) -> tuple[int, int, int]:
        """Equal for queries of one mask that one decoding serves."""
        return id(self.rows), id(self.remask), self.level

    def rows_in(self, layout: Layout, x: Tensor) -> Rows:
        """The query's rows of x (B, …); for the grid, every row of a layout that fills it."""
        if self.rows is not None:
            return self.rows
        if layout.coords is not None:
            remedy = "`queries: [grid]` needs a dense decoder and target"
            raise UserError(f"These tokens do not fill their grid: {remedy}.")
        return Rows.all(x.shape[0], layout.count, x.device)


@dataclass(frozen=True)
class Mask:
    """A masker's decision for one view (or `view/part`)."""

    hidden: Tensor  # (B, N) bool; padding is neither hidden nor visible
    visible: Rows  # in the published order
    _: KW_ONLY
    queries: Mapping[str, Query]  # the rows to predict, by name; mostly `main`
    content_from: Tensor | None = (
        None  # (B, N) long, for `replace_masked`: the row each row's content comes from, or −1
    )
    layout: Layout | None = None  # the encoder's, where it differs (dropped edges)
    finer: "Mask | None" = None
    corrupt: Callable[[Tensor, Rows | None], Tensor] | None = None  # adds noise to visible content (diffusion)
    condition: Mapping[str, Any] = field(default_factory=dict)  # of the encoder: time, class, keys

    @classmethod
    def from_hidden(cls, hidden: Tensor, count: int | None = None, valid: Tensor | None = None, **more) -> "Mask":
        """The plain case: hidden rows are predicted, all others are visible, both ascending.

        `count`: hidden rows per sample where that is known and equal; then the device is not read.
        """
        shown = ~hidden if valid is None else ~hidden & valid
        shown_count = None if count is None or valid is not None else hidden.shape[1] - count
        visible = Rows.from_mask(shown, shown_count)
        queries = {"main": Query(Rows.from_mask(hidden, count))}
        return cls(hidden, visible, queries=queries, **more)

    def query(self, name: str) -> Query:
        """A query by name: one of `queries`, or `visible` or `grid`; `name@1` is that
        of the next finer level.

        Raises: UserError for a name that this mask does not have.
        """
        base, _, number = name.partition("@")
        masks, level = levels(self), int(number) if number.isdigit() else 0

        if level < len(masks) and number in ("", str(level)):
            mask = masks[level]
            if base == "visible":
                return Query(mask.visible, level=level)
            if base == "grid":
                return Query(None, level=level)
            if base in mask.queries:
                return replace(mask.queries[base], level=level)

        raise UserError(f"There is no query {name!r}; this mask has {', '.join(self.query_names())}.")

    def query_names(self) -> list[str]:
        """All names that `query` takes."""
        names = []
        for level, mask in enumerate(levels(self)):
            suffix = f"@{level}" if level else ""
            names += [f"{name}{suffix}" for name in ("visible", "grid", *mask.queries)]
        return names

    def corrupted(self, content: Tensor, rows: Rows | None) -> Tensor:
        """The content (B, V or N, *C) of `rows` (None: all) with the mask's noise, if it adds any."""
        return content if self.corrupt is None else self.corrupt(content, rows)

    def propagate(self, layout: Layout) -> "Mask":
        """Fills `finer`: a finer token is visible where some visible parent lists it, else hidden."""
        if layout.finer is None or self.finer is not None:
            return self

        assert layout.children is not None, "a pyramid lists the children of every token"
        count = layout.finer.count
        members = self.visible.gather(layout.children)
        valid = None
        if self.visible.valid is not None:
            valid = self.visible.valid.repeat_interleave(members.shape[2], 1)
        visible = Rows(members.flatten(1), valid).to_mask(count)

        exists = torch.ones_like(visible) if layout.finer.valid is None else layout.finer.valid
        finer = Mask.from_hidden(~visible & exists, valid=exists)
        return replace(self, finer=finer.propagate(layout.finer))


@dataclass(frozen=True)
class EncoderInput:
    """Tokens after masking. Made by `Tokens.drop_masked`, `.replace_masked`, `.unmasked` and in no other way.

    (`.leak_masked` is for parity with official code alone.)
    """

    content: Tensor  # (B, V or N, *C)
    layout: Layout  # of the rows present
    _: KW_ONLY
    rows: Rows | None = None  # which rows of the tokens these are; None: all of them
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
    """Content and layout.

    `content` (B, N, *C) is raw: before normalisation and any learned layer, channel fastest.
    """

    content: Tensor
    layout: Layout
    _: KW_ONLY
    side: Mapping[str, Any] = field(default_factory=dict)  # for masker and target; never reaches an encoder
    finer: "Tokens | None" = None

    def drop_masked(self, mask: Mask) -> EncoderInput:
        """The visible rows alone: for encoders that drop tokens. Packed rows stay sorted by sample."""
        rows = mask.visible
        if self.layout.sample is not None:
            rows = Rows(rows.index.sort(1).values)

        layout, finer = (mask.layout or self.layout).gather(rows), None
        if self.finer is not None:
            assert mask.finer is not None and layout.children is not None, "masks are propagated to finer levels"
            finer = self.finer.drop_masked(mask.finer)
            number = _renumber(mask.finer.visible, self.finer.layout.count)
            number = number.clamp(min=0)  # below 0 at padding alone
            children = number.gather(1, layout.children.flatten(1)).view_as(layout.children)
            layout = replace(layout, children=children, finer=finer.layout)

        content = mask.corrupted(rows.gather(self.content), rows)
        return EncoderInput(content=content, layout=layout, rows=rows, finer=finer, condition=mask.condition)

    def replace_masked(self, mask: Mask) -> EncoderInput:
        """All rows, hidden content erased or replaced by `content_from`.

        For encoders that need the structure.
        """
        source = mask.content_from
        if source is None:
            source = torch.arange(self.layout.count, device=mask.hidden.device).expand_as(mask.hidden)
            source = source.masked_fill(mask.hidden, -1)

        finer = None
        if self.finer is not None:
            assert mask.finer is not None, "masks are propagated to finer levels"
            finer = self.finer.replace_masked(mask.finer)

        erased = source < 0
        content = Rows(source.clamp(min=0), ~erased).gather(self.content)
        return EncoderInput(
            content=mask.corrupted(content, None),
            layout=mask.layout or self.layout,
            erased=erased,
            finer=finer,
            condition=mask.condition,
        )

    def unmasked(self) -> EncoderInput:
        """Nothing hidden: for teachers and for people who use the encoder."""
        finer = None if self.finer is None else self.finer.unmasked()
        return EncoderInput(content=self.content, layout=self.layout, finer=finer)

    def leak_masked(self, mask: Mask) -> EncoderInput:
        """All rows and the mask.

        Leaks by design: parity with official code whose embedding sees hidden tokens.
        """
        finer = None
        if self.finer is not None:
            assert mask.finer is not None, "masks are propagated to finer levels"
            finer = self.finer.leak_masked(mask.finer)

        return EncoderInput(
            content=self.content,
            layout=mask.layout or self.layout,
            rows=mask.visible,
            erased=mask.hidden,
            finer=finer,
            condition=mask.condition,
        )


@dataclass(frozen=True)
class Latent:
    """An encoder's output.

    `rows`: which tokens the features belong to; None: all, or no input rows (strided).
    """

    features: Tensor  # (B, V, D)
    layout: Layout
    _: KW_ONLY
    rows: Rows | None = None
    cls: Tensor | None = None  # (B, D); packed (S, D)
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    finer: "Latent | None" = None
    condition: Mapping[str, Any] = field(default_factory=dict)  # for decoders that are conditioned too


@dataclass(frozen=True)
class Batch:
    """Raw data by view, as the readers made it, with keys and labels."""

    views: Mapping[str, Any]
    keys: Sequence[str] = ()
    _: KW_ONLY
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    skipped: Sequence[tuple[str, str]] = ()  # (key, reason) of bad samples replaced while this batch was made

    def to(self, device) -> "Batch":
        """Moves every tensor, lists item by item; raw data of other kinds must offer `.to` as well."""
        views = {name: _move(data, device) for name, data in self.views.items()}
        labels = {name: _move(label, device) for name, label in self.labels.items()}
        return replace(self, views=views, labels=labels)


@dataclass(frozen=True)
class Progress:
    """How far training is: published schedules count steps or (fractional) epochs."""

    step: int = 0
    steps: int = 1
    epoch: float = 0.0
    epochs: float = 1.0


class TargetValues(NamedTuple):
    """`values` (B, M, …) of a target, and one `weight` per unit of loss, or None when all count alike."""

    values: Tensor
    weight: Tensor | None = None


@dataclass
class ForwardContext:
    """The values that the parts of one forward share. Teachers run at most once each, for
    masker and targets together.

    Made by `MaskedAutoencoder.context`.
    """

    batch: Batch
    tokens: dict[str, Tokens]
    _: KW_ONLY
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
        """The output of the teacher `name` for this batch, computed once and without gradient."""
        if name not in self._teacher_outputs:
            with torch.no_grad():
                self._teacher_outputs[name] = self.teachers[name](self)
        return self._teacher_outputs[name]


def levels(pyramid) -> tuple:
    """A pyramid as a tuple, coarsest first: Tokens, Mask, EncoderInput, Latent or Layout, linked by `finer`."""
    members = []
    while pyramid is not None:
        members.append(pyramid)
        pyramid = pyramid.finer
    return tuple(members)


def view_of(name: str) -> str:
    """The view of a mask or latent, which are named `view` or `view/part`."""
    return name.partition("/")[0]


def _renumber(rows: Rows, count: int) -> Tensor:
    """(B, count) long: the position of each row within `rows`, −1 where it is not in the set."""
    order = torch.arange(rows.count, device=rows.index.device).expand_as(rows.index)
    return rows.scatter(order + 1, count) - 1


def _move(data: Any, device) -> Any:
    if isinstance(data, list):
        return [_move(item, device) for item in data]
    return data.to(device, non_blocking=True)
