"""The pictures of a run: its newest weights on a few held-out samples under fixed masks."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch

from core import seeding
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


@dataclass(frozen=True)
class Samples:
    """What there is to show. `gallery` is None where `notes` say why; `skipped` (key, reason) could not be read."""

    gallery: Gallery | None
    notes: Sequence[str] = ()
    skipped: Sequence[tuple[str, str]] = ()


def draw_samples(run: Run) -> Samples:
    """Pictures as the modality shows them; without a checkpoint, or where data or pictures are missing, the reason."""
    config = deepcopy(run.config)  # building completes its nodes
    if run.checkpoint is None:
        return Samples(None, ["There is no checkpoint yet: pictures come with the first one."])
    if config["modality"].get("pictures") is None:
        return Samples(None, [f"modality={config['modality']['name']} has no pictures (modality.pictures)."])
    try:
        pictures: Pictures = build(config["modality"]["pictures"], key="modality.pictures")
        batch, origin = read_samples(config)
        gallery = _draw(pictures, open_method(run.path, config), batch, run)
    except UserError as error:
        return Samples(None, [f"Pictures are missing: {error}"])
    return Samples(gallery, [origin], batch.skipped)


def read_samples(config: dict) -> tuple[Batch, str]:
    """A batch of held-out samples, always the same ones, and what they are. Raises UserError where none can be read."""
    reader, source = open_source(config)
    items, origin = held_out(source)
    order = torch.randperm(len(items), generator=seeding.generator(SEED)).tolist()
    batch = next(evaluation_batches([items[i] for i in order[:SHOWN]], reader, SHOWN, workers=0))
    return batch, origin


def held_out(source: Source) -> tuple[Sequence[Item], str]:
    """The test samples, or, where there are none, those of training; and what they are."""
    try:
        items = source.items("test")
        count = f"{min(SHOWN, len(items))} of {len(items)} test samples, drawn by a fixed seed"
        return items, f"Shown are {count}; new to the method are {source.held_out}."
    except UserError:
        items = source.items("train")
        return items, f"No sample is held out: these are {min(SHOWN, len(items))} training samples."


@torch.no_grad()
def _draw(pictures: Pictures, method: MaskedAutoencoder, batch: Batch, run: Run) -> Gallery:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    method, batch = method.to(device).eval(), batch.to(device)
    generator = torch.Generator().manual_seed(SEED)
    ctx = method.context(batch, progress=run.progress, generator=generator)
    return pictures.draw(method, batch, method.draw_mask(ctx))
