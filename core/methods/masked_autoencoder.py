"""The method class: a composition of parts. Its `forward`, from top to bottom, is the design."""

import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from core.encoder import Encoder, EncoderByView
from core.errors import UserError, suggestion
from core.maskers import Masker, ViewMasker
from core.objectives import Objective, Readout
from core.teachers import MovingTeacher
from core.tokenizers import Tokenizer, TokenizerByView
from core.tokens import (
    Batch,
    EncoderInput,
    ForwardContext,
    Latent,
    Mask,
    Progress,
    Query,
    TargetValues,
    Tokens,
    levels,
    view_of,
)


@dataclass(frozen=True, kw_only=True)
class Output:
    """The result of a forward. `terms`: unweighted losses of objectives, also keys of predictions, targets."""

    loss: Tensor
    terms: Mapping[str, Tensor]
    predictions: Mapping[str, Tensor]
    targets: Mapping[str, TargetValues]
    masks: Mapping[str, Mask]
    latents: Mapping[str, Latent]


class PredictionTask(NamedTuple):
    """One objective at one query, about tokens of one view."""

    objective: Objective
    view: str
    query: Query


class MaskedAutoencoder(nn.Module):
    """Hides part of every sample and learns by predicting it.

    `readouts`: by name, a decoder and the objectives that read it; no two objectives share a name.
    `teachers`: by name, anything that maps a `ForwardContext` to targets or scores; never trained, nor saved
    with the method unless they follow its weights.
    `no_weight_decay`: endings of parameter names that are not decayed although they have more than one
    dimension; `*` in them stands for anything.
    """

    built_first = ("tokenizer", "masker", "encoder", "teachers")  # targets follow the width of teachers

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
        names, taps = [], {}
        for readout in readouts.values():
            names += readout.objectives
            taps |= dict.fromkeys(readout.taps)
        if len(names) > len(set(names)):
            listed = ", ".join(sorted(names))
            raise UserError(f"method.readouts: two objectives have one name ({listed}); rename one.")

        self.tokenizer = tokenizer
        self.masker = masker
        self.encoder = encoder
        self.readouts = cast(dict[str, Readout], nn.ModuleDict(readouts))  # whose values have no type
        self.taps = tuple(taps)
        self._no_weight_decay = tuple(no_weight_decay or ())

        self.teachers = dict(teachers or {})  # a plain dict: most teachers are not part of the weights
        self.moving_teachers = cast(dict[str, MovingTeacher], nn.ModuleDict())
        frozen_teachers = []
        for name, teacher in self.teachers.items():
            if isinstance(teacher, MovingTeacher):
                self.moving_teachers[name] = teacher
            else:
                frozen_teachers.append(teacher.requires_grad_(False).eval())

        self.frozen_teachers = tuple(frozen_teachers)  # a tuple: no submodules
        self.follow(())

    def forward(
        self,
        batch: Batch,
        masks: Mapping[str, Mask] | None = None,
        draws: Mapping | None = None,
        progress: Progress = Progress(),  # noqa: B008 (frozen)
        generator: torch.Generator | None = None,
    ) -> Output:
        """One training step's loss. `masks`: in place of the masker's; `draws`: recorded randomness."""
        ctx = self.context(batch, progress=progress, generator=generator)
        if masks is None:
            masks = self.draw_mask(ctx, draws)
        ctx.masks.update(masks)

        tasks = self.prediction_tasks(masks)
        if not tasks:
            raise UserError(
                f"No readout of the method reads any of the masks {', '.join(masks)}; check `view`, `reads`."
            )

        latents, predictions = self.predict(ctx.tokens, masks, ctx=ctx)
        targets, terms = {}, {}
        loss: Any = 0.0  # a tensor from the first task on

        for name, (objective, view, query) in tasks.items():
            target = objective.target(ctx, view, query)
            error = objective.loss(predictions[name], target.values)
            term = objective.reduce(error, target.weight, query.rows)

            ctx.errors[name], targets[name], terms[name] = error, target, term.detach()
            loss = loss + objective.weight * term

        return Output(
            loss=loss,
            terms=terms,
            predictions=predictions,
            targets=targets,
            masks=masks,
            latents=latents,
        )

    def context(
        self,
        batch: Batch,
        progress: Progress = Progress(),  # noqa: B008 (frozen)
        generator: torch.Generator | None = None,
        masks: Mapping[str, Mask] | None = None,
    ) -> ForwardContext:
        """A fresh context of one forward over `batch`, with its tokens."""
        return ForwardContext(
            batch,
            self.tokenizer.tokenize_views(batch.views),
            progress=progress,
            teachers=self.teachers,
            method=self,
            generator=generator,
            masks=dict(masks or {}),
        )

    def draw_mask(self, ctx: ForwardContext, draws: Mapping | None = None) -> dict[str, Mask]:
        """One mask per view; `draws` replays recorded randomness."""
        if draws is None:
            draws = self.masker.draw(ctx.tokens, ctx.generator, ctx)

        masks = {}
        for name, mask in self.masker(ctx.tokens, draws, ctx).items():
            masks[name] = mask.propagate(ctx.tokens[view_of(name)].layout)
        return masks

    def encode(self, tokens: Mapping[str, Tokens], masks: Mapping[str, Mask]) -> dict[str, Latent]:
        """Latents of the tokens that the masks leave visible; the firewall is here."""
        inputs = {}
        for name, mask in masks.items():
            inputs[name] = self._mask_tokens(tokens[view_of(name)], mask)
        return self.encoder.encode_views(inputs, self.taps)

    def predict(
        self,
        tokens: Mapping[str, Tokens],
        masks: Mapping[str, Mask],
        names: set[str] | None = None,
        ctx: ForwardContext | None = None,
    ) -> tuple[dict[str, Latent], dict[str, Tensor]]:
        """Latents, and the predictions of the tasks in `names` (default all), without scores."""
        latents = self.encode(tokens, masks)
        if ctx is not None:
            ctx.latents.update(latents)

        predictions = {}
        for readout_name, readout in self.readouts.items():
            tasks = self.prediction_tasks(masks, readout_name)
            if names is not None:
                tasks = {name: task for name, task in tasks.items() if name in names}
            if not tasks:
                continue

            features = self._decode(readout, tokens, latents, tasks)
            for name, task in tasks.items():
                predictions[name] = task.objective.predict(features[name])

        return latents, predictions

    def prediction_tasks(
        self,
        masks: Mapping[str, Mask],
        readout: str | None = None,
    ) -> dict[str, PredictionTask]:
        """All tasks (of one readout) by name: `objective`, or `objective/query` where it has several queries.

        A readout whose view has no mask in this batch has none.
        """
        readouts = self.readouts
        if readout is not None:
            readouts = {readout: self.readouts[readout]}

        tasks = {}
        for readout_name, part in readouts.items():
            latent_name = part.latent_name(masks)
            view = part.view or view_of(latent_name)
            mask_name = part.view or latent_name
            mask = masks.get(mask_name)
            if mask is None:  # normal in joint training; a typing error elsewhere
                text = f"Readout {readout_name!r} is skipped in batches without a mask of {mask_name!r}."
                warnings.warn(text, stacklevel=2)  # shown once
                continue

            for name, objective in part.objectives.items():
                for query in objective.queries:
                    key = name
                    if len(objective.queries) > 1:
                        key = f"{name}/{query}"
                    tasks[key] = PredictionTask(objective, view, mask.query(query))
        return tasks

    def check_readouts(self, views: Collection[str]) -> None:
        """Compares the names that readouts have for views and latents with those that there can be.

        `views`: of the reader. Tokenizers, maskers and encoders that make views, parts or latents of their
        own are left alone. Raises: UserError for a name of none.
        """
        if isinstance(self.tokenizer, TokenizerByView):
            views = [view for view in views if view in self.tokenizer.views]
        elif type(self.tokenizer).tokenize_views is not Tokenizer.tokenize_views:
            return

        makes_latents = type(self.encoder).encode_views not in (Encoder.encode_views, EncoderByView.encode_views)
        for readout_name, readout in self.readouts.items():
            for setting, name in (("reads", readout.reads), ("view", readout.view)):
                if name is None or (setting == "reads" and makes_latents):
                    continue
                if name not in views and (isinstance(self.masker, ViewMasker) or view_of(name) not in views):
                    key = f"method.readouts.{readout_name}.{setting}"
                    raise UserError(f"{key}={name}: there is no such view.{suggestion(name, views)}")

    def check_masks(self, batch: Batch, progress: Progress, generator: torch.Generator) -> None:
        """Raises UserError where the masks of a batch leave nothing to see, or nothing to predict."""
        masks = self.draw_mask(self.context(batch, progress, generator))
        remedy = "choose another method.masker.ratio, or more tokens (modality.patch smaller, modality.size larger)."
        if not any(mask.visible.count for mask in masks.values()):
            raise UserError(f"method.masker hides every token, so that there is nothing to see: {remedy}")

        for task in self.prediction_tasks(masks).values():
            rows = task.query.rows
            if rows is None or rows.count:  # None: every cell of the grid
                return
        raise UserError(f"method.masker hides no token, so that there is nothing to predict: {remedy}")

    def follow(self, loaded: Iterable[str]) -> None:
        """After the tensors `loaded` came in: moving teachers that got none start from the new weights."""
        loaded = tuple(loaded)
        for name, teacher in self.moving_teachers.items():
            if not any(key.startswith(f"moving_teachers.{name}.") for key in loaded):
                teacher.follow(self)

    def before_step(self, progress: Progress) -> None:
        """Called between the gradients and the optimiser's step."""
        for teacher in self.moving_teachers.values():
            teacher.before_step(self, progress)

    def after_step(self, progress: Progress) -> None:
        """Called after the optimiser's step."""
        for teacher in self.moving_teachers.values():
            teacher.after_step(self, progress)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not decayed although they have more than one dimension."""
        names = set()
        for name, _ in self.named_parameters():
            if any(fnmatchcase(name, f"*{ending}") for ending in self._no_weight_decay):
                names.add(name)
        return names

    def _apply(self, fn, recurse: bool = True) -> "MaskedAutoencoder":
        """Frozen teachers are no submodules, but move to another device with the method."""
        for teacher in self.frozen_teachers:
            teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def _mask_tokens(self, tokens: Tokens, mask: Mask) -> EncoderInput:
        if self.encoder.masking == "drop":
            return tokens.drop_masked(mask)
        if self.encoder.masking == "replace":
            return tokens.replace_masked(mask)
        return tokens.leak_masked(mask)

    def _decode(
        self,
        readout: Readout,
        tokens: Mapping[str, Tokens],
        latents: Mapping[str, Latent],
        tasks: Mapping[str, PredictionTask],
    ) -> dict[str, Tensor]:
        """Features (B, M, D) for every task, by its name."""
        source = readout.latent_name(latents)
        queries = {name: task.query for name, task in tasks.items()}

        if readout.decoder is None:  # the encoder's own features are the prediction
            view = tokens[view_of(source)]
            features = {}
            for name, query in queries.items():
                features[name] = _own_features(readout, latents[source], view, query)
            return features

        # Of hidden tokens' layout a decoder gets only what the strictest target reveals.
        deepest = max(query.level for query in queries.values())
        layout = tokens[readout.view or view_of(source)].layout.up_to(deepest)
        if any(task.objective.target.reveals == "nothing" for task in tasks.values()):
            # Rows would reveal where tokens are.
            if any(query.rows is not None for query in queries.values()):
                remedy = "set queries=[grid]"
                raise UserError(f"A target that reveals nothing is predicted at the whole grid: {remedy}.")
            layout = layout.grid_only()

        # Tasks with the same query share one decoding, under the name of the first.
        owner: dict[tuple, str] = {}
        distinct: dict[str, Query] = {}
        for name, query in queries.items():
            if query.key not in owner:
                owner[query.key] = name
                distinct[name] = query

        context = dict(latents)
        del context[source]
        features = readout.decoder(latents[source], layout, distinct, context)
        return {name: features[owner[query.key]] for name, query in queries.items()}


def _own_features(readout: Readout, latent: Latent, tokens: Tokens, query: Query) -> Tensor:
    """The encoder's own features at a query, or one of its taps: (B, M, D)."""
    latent = levels(latent)[query.level]
    count = levels(tokens)[query.level].layout.count

    if readout.tap is not None and readout.tap not in latent.taps:
        taps = list(latent.taps)
        raise UserError(f"The encoder has no tap {readout.tap!r} (a readout's tap); its taps are {taps}.")

    features = latent.features
    if readout.tap is not None:
        features = latent.taps[readout.tap]
    if latent.rows is not None:
        features = latent.rows.scatter(features, count)
    if query.rows is not None:
        features = query.rows.gather(features)
    return features
