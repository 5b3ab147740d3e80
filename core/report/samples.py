"""The pictures of a run: its newest weights on a few held-out samples under fixed masks."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch

from core import seeding
from core.config import compose
from core.config.build import build
from core.data.loader import evaluation_batches
from core.data.opening import open_source
from core.data.sources import Item, Source
from core.errors import UserError
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.reconstruction.pictures import Gallery, Pictures
from core.runs import Run, open_method
from core.tokens import Batch

SHOWN = 8  # samples
SEED = 0  # of samples and masks, so that reports of different runs show the same


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Pictures of samples, and notes on them."""

    notes: Sequence[str]  # without a gallery, the reason
    gallery: Gallery | None = None
    skipped: Sequence[tuple[str, str]] = ()  # key and reason of samples that could not be read


def with_settings(run: Run, overrides: Sequence[str]) -> Run:
    """The run with other settings in its config. Raises: UserError where they do not fit."""
    if not overrides:
        return run
    return replace(run, config=compose([f"config={run.path / 'config.yaml'}", *overrides]))


def draw_samples(run: Run) -> Samples:
    """Pictures by the modality's own drawing; without checkpoint, data or pictures, the reason."""
    config = deepcopy(run.config)  # building completes its nodes
    if run.checkpoint is None:
        return Samples(notes=["There is no checkpoint yet: pictures come with the first one."])
    if config["modality"].get("pictures") is None:
        return Samples(notes=[f"modality={config['modality']['name']} has no pictures (modality.pictures)."])

    try:
        pictures: Pictures = build(config["modality"]["pictures"], key="modality.pictures")
        batch, origin = read_samples(config)
        gallery = _draw(pictures, open_method(run.path, config), batch, run)
    except UserError as error:
        return Samples(notes=[f"Pictures are missing: {error}"])
    return Samples(gallery=gallery, notes=[origin], skipped=batch.skipped)


def read_samples(config: dict) -> tuple[Batch, str]:
    """A batch of held-out samples, always the same ones, and a sentence on them.

    Raises: UserError where none can be read.
    """
    reader, source = open_source(config)
    items, origin = held_out(source)
    order = torch.randperm(len(items), generator=seeding.generator(SEED)).tolist()
    sample = [items[i] for i in order[:SHOWN]]
    batch = next(evaluation_batches(sample, reader, SHOWN, workers=0))
    return batch, origin


def held_out(source: Source) -> tuple[Sequence[Item], str]:
    """The test samples, or, where there are none, those of training; and a sentence on them."""
    try:
        items = source.items("test")
        count = f"{min(SHOWN, len(items))} of {len(items)} test samples, drawn by a fixed seed"
        note = f"Shown are {count}; new to the method are {source.held_out}."
    except UserError:
        items = source.items("train")
        note = f"No sample is held out: these are {min(SHOWN, len(items))} training samples."
    return items, note


@torch.no_grad()
def _draw(pictures: Pictures, method: MaskedAutoencoder, batch: Batch, run: Run) -> Gallery:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    method, batch = method.to(device).eval(), batch.to(device)

    generator = torch.Generator().manual_seed(SEED)
    ctx = method.context(batch, progress=run.progress, generator=generator)
    return pictures.draw(method, batch, method.draw_mask(ctx))
