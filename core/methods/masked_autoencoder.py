"""The method class: a composition of parts. Its `forward` is the picture of the design, read from top to bottom."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core.encoder import Encoder
from core.errors import UserError
from core.maskers import Masker
from core.objectives import Objective, Readout
from core.tokenizers import Tokenizer
from core.tokens import (
    Batch,
    EncoderInput,
    ForwardContext,
    Latent,
    Layout,
    Mask,
    Progress,
    Query,
    TargetValues,
    Tokens,
    levels,
)


@dataclass(frozen=True)
class Output:
    """What a forward says. `terms`: every objective's unweighted loss. Predictions and targets are keyed like terms."""

    loss: Tensor
    terms: Mapping[str, Tensor]
    predictions: Mapping[str, Tensor]
    targets: Mapping[str, TargetValues]
    masks: Mapping[str, Mask]
    latents: Mapping[str, Latent]


class PredictionTask(NamedTuple):
    """What an objective is asked: about tokens of one view, at one place."""

    objective: Objective
    view: str
    query: Query


class MaskedAutoencoder(nn.Module):
    """Hides part of every sample and learns by predicting it.

    `readouts`: by name, a decoder and the objectives that read it; no two objectives share a name.
    `teachers`: by name, anything that maps a `ForwardContext` to what it says of the batch; never trained, nor saved with the
    method unless they follow its weights.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        masker: Masker,
        encoder: Encoder,
        readouts: Mapping[str, Readout],
        teachers: Mapping[str, nn.Module] | None = None,
        no_weight_decay: list[str] | None = None,
    ):
        super().__init__()
        self.tokenizer, self.masker, self.encoder = tokenizer, masker, encoder
        self.readouts = nn.ModuleDict(readouts)
        names = [name for readout in readouts.values() for name in readout.objectives]
        if len(names) > len(set(names)):
            raise UserError(f"method.readouts: two objectives have one name ({', '.join(sorted(names))}); rename one.")
        self.taps = tuple({tap: None for readout in readouts.values() for tap in readout.taps})
        self.teachers = dict(teachers or {})  # a plain dict: most teachers are not part of the weights
        self.moving_teachers = nn.ModuleDict({n: t for n, t in self.teachers.items() if isinstance(t, MovingTeacher)})
        self.frozen = tuple(
            t.requires_grad_(False).eval() for n, t in self.teachers.items() if n not in self.moving_teachers
        )
        self.follow(())
        self._no_weight_decay = tuple(no_weight_decay or ())

    def forward(
        self,
        batch: Batch,
        mask: Mapping[str, Mask] | None = None,
        draws: Mapping | None = None,
        progress: Progress = Progress(),  # noqa: B008 (frozen)
        generator: torch.Generator | None = None,
    ) -> Output:
        tokens = self.tokenizer.tokenize_views(batch.views)
        ctx = ForwardContext(batch, tokens, progress, self.teachers, self, generator)
        mask = self.draw_mask(ctx, draws) if mask is None else mask
        ctx.masks.update(mask)
        latent, predictions = self.predict(tokens, mask, ctx=ctx)
        targets, terms, loss = {}, {}, 0.0
        for name, (objective, view, query) in self.prediction_tasks(mask).items():
            targets[name] = objective.target(ctx, view, query)
            ctx.errors[name] = objective.loss(predictions[name], targets[name].values)
            term = objective.reduce(ctx.errors[name], targets[name].weight, query.rows)
            terms[name] = term.detach()
            loss = loss + objective.weight * term
        return Output(loss, terms, predictions, targets, mask, latent)

    def draw_mask(self, ctx: ForwardContext, draws: Mapping | None = None) -> dict[str, Mask]:
        """One mask per view; `draws` replays recorded randomness."""
        if draws is None:
            draws = self.masker.draw(ctx.tokens, ctx.generator, ctx)
        masks = self.masker(ctx.tokens, draws, ctx)
        return {name: mask.propagate(ctx.tokens[_view(name)].layout) for name, mask in masks.items()}

    def encode(self, tokens: Mapping[str, Tokens], mask: Mapping[str, Mask]) -> dict[str, Latent]:
        """Latents of what the masks leave to see; the firewall is here."""
        seen = {name: self._see(tokens[_view(name)], one) for name, one in mask.items()}
        return self.encoder.encode_views(seen, self.taps)

    def predict(
        self,
        tokens: Mapping[str, Tokens],
        mask: Mapping[str, Mask],
        names: set[str] | None = None,
        ctx: ForwardContext | None = None,
    ) -> tuple[dict[str, Latent], dict[str, Tensor]]:
        """Latents, and the predictions of the objectives in `names` (default all), without scoring."""
        latents = self.encode(tokens, mask)
        if ctx is not None:
            ctx.latents.update(latents)
        predictions = {}
        for readout_name, readout in self.readouts.items():
            prediction_tasks = self.prediction_tasks(mask, readout_name)
            if names is not None:
                prediction_tasks = {name: q for name, q in prediction_tasks.items() if name in names}
            if prediction_tasks:
                features = self._decode(readout, tokens, latents, prediction_tasks)
                for name, asked in prediction_tasks.items():
                    predictions[name] = asked.objective.predict(features[name])
        return latents, predictions

    def prediction_tasks(self, mask: Mapping[str, Mask], readout: str | None = None) -> dict[str, PredictionTask]:
        """Everything that is asked, by name: `objective`, or `objective/place` when it is asked at several."""
        found = {}
        for name, part in self.readouts.items():
            if readout is not None and readout != name:
                continue
            reads = self._reads(part, mask)
            for label, objective in part.objectives.items():
                for at in objective.queries:
                    key = label if len(objective.queries) == 1 else f"{label}/{at}"
                    found[key] = PredictionTask(
                        objective, part.view or _view(reads), mask[part.view or reads].query(at)
                    )
        return found

    def follow(self, loaded: Iterable[str]) -> None:
        """After the tensors `loaded` came in: followers that none of them belongs to begin with the new weights."""
        loaded = tuple(loaded)
        for name, follower in self.moving_teachers.items():
            if not any(key.startswith(f"moving_teachers.{name}.") for key in loaded):
                follower.follow(self)

    def before_step(self, progress: Progress) -> None:
        """Called between the gradients and the optimiser's step."""
        for follower in self.moving_teachers.values():
            follower.before_step(self, progress)

    def after_step(self, progress: Progress) -> None:
        """Called after the optimiser's step."""
        for follower in self.moving_teachers.values():
            follower.after_step(self, progress)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not decayed although they have more than one dimension."""
        return {name for name, _ in self.named_parameters() if name.endswith(self._no_weight_decay)}

    def _apply(self, fn, recurse: bool = True) -> "MaskedAutoencoder":
        """Frozen teachers are no submodules, but move to another device with the method."""
        for teacher in self.frozen:
            teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def _see(self, tokens: Tokens, mask: Mask) -> EncoderInput:
        if self.encoder.masking == "drop":
            return tokens.drop_masked(mask)
        return tokens.replace_masked(mask) if self.encoder.masking == "replace" else tokens.leak_masked(mask)

    def _decode(
        self,
        readout: Readout,
        tokens: Mapping[str, Tokens],
        latents: Mapping[str, Latent],
        prediction_tasks: Mapping[str, PredictionTask],
    ) -> dict[str, Tensor]:
        name = self._reads(readout, latents)
        queries = {key: asked.query for key, asked in prediction_tasks.items()}
        if readout.decoder is None:
            said = latents[name], tokens[_view(name)]
            return {key: _undecoded(readout, *said, place) for key, place in queries.items()}
        layout = _down_to(max(place.level for place in queries.values()), tokens[readout.view or _view(name)].layout)
        if any(asked.objective.target.reveals == "nothing" for asked in prediction_tasks.values()):
            layout = _bare(layout, queries)
        others = {key: other for key, other in latents.items() if key != name}
        shared: dict[tuple, str] = {}  # objectives that ask at one place share its features
        first = {key: shared.setdefault((id(p.rows), id(p.remask), p.level), key) for key, p in queries.items()}
        features = readout.decoder(latents[name], layout, {key: queries[key] for key in shared.values()}, others)
        return {key: features[first[key]] for key in queries}

    @staticmethod
    def _reads(readout: Readout, named: Mapping) -> str:
        return readout.reads or next(iter(named))


class MovingTeacher(nn.Module):
    """A teacher that changes while the method trains (an average of its weights, say); saved with it, for resuming."""

    def follow(self, method: MaskedAutoencoder) -> None:
        """Called when the method's other parts stand, and again when other weights were loaded into them."""

    def before_step(self, method: MaskedAutoencoder, progress: Progress) -> None: ...

    def after_step(self, method: MaskedAutoencoder, progress: Progress) -> None: ...


def _view(name: str) -> str:
    """Masks and latents are named `view` or `view/part`."""
    return name.partition("/")[0]


def _undecoded(readout: Readout, latent: Latent, tokens: Tokens, query: Query) -> Tensor:
    """What the encoder itself says at a place, or one of its taps."""
    latent, count = levels(latent)[query.level], levels(tokens)[query.level].layout.count
    if readout.tap is not None and readout.tap not in latent.taps:
        raise UserError(f"The encoder has no tap {readout.tap!r} (a readout's tap); it gives {list(latent.taps)}.")
    features = latent.features if readout.tap is None else latent.taps[readout.tap]
    whole = features if latent.rows is None else latent.rows.scatter(features, count)
    return whole if query.rows is None else query.rows.gather(whole)


def _down_to(level: int, layout: Layout) -> Layout:
    """Levels finer than those asked for are never shown at hidden rows; a decoder gets them from the latent."""
    if not level:
        return replace(layout, finer=None, children=None)
    return replace(layout, finer=_down_to(level - 1, layout.finer))


def _bare(layout: Layout, queries: Mapping[str, Query]) -> Layout:
    """The grid alone, for targets that reveal nothing; rows asked for would tell where tokens are."""
    if any(query.rows is not None for query in queries.values()):
        raise UserError("A target that reveals nothing can only be asked at the whole grid: set at=[grid].")
    return Layout(0, grid=layout.grid, cell=layout.cell)
