"""Features of held-out samples, encoded once for everything that the page draws of them."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch

from core import seeding
from core.config.build import build
from core.data.loader import evaluation_batches
from core.data.opening import open_source
from core.data.reader import Reader, TokenLabels
from core.data.sources import Item
from core.encoding import choose_device
from core.errors import UserError
from core.export import SavedEncoder
from core.reconstruction.pictures import Pictures, Raster
from core.report.samples import held_out
from core.runs import Run, open_method

SAMPLES, TOKENS = 300, 1000  # shown at most
BATCH_SIZE = 32  # samples encoded at a time
THUMBNAIL = 72  # pixels of the longer side
GRIDS, LARGE = 8, 192  # samples whose tokens are kept by their places, and the side of their pictures


@dataclass(frozen=True)
class Points:
    """Features (n, D) of samples or of tokens and their class numbers (n,), -1 where unknown.

    `keys`, `thumbnails`: of samples; empty for tokens, and without pictures.
    """

    features: np.ndarray
    classes: np.ndarray
    _: KW_ONLY
    names: Sequence[str]  # of the classes
    note: str  # describes the points
    keys: Sequence[str] = ()
    thumbnails: Sequence[Raster] = ()

    def class_name(self, point: int) -> str:
        """The class of a point; empty where it is unknown."""
        number = int(self.classes[point])
        if 0 <= number < len(self.names):
            return self.names[number]
        return ""


@dataclass(frozen=True, kw_only=True)
class TokenGrids:
    """Features of the tokens of a few samples by their places (n, *grid, D), with pictures of the samples."""

    features: np.ndarray
    keys: Sequence[str]
    pictures: Sequence[Raster]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Points, and grids of tokens where they lie on one; else the reason why there are none."""

    points: Points | None = None
    grids: TokenGrids | None = None
    reason: str = ""


@torch.no_grad()
def encode_held_out(run: Run) -> Encoded:
    """Encodes held-out samples by the run's newest weights; always the same ones."""
    if run.checkpoint is None:
        return Encoded(reason="There is no checkpoint yet.")
    try:
        return _encode(run)
    except UserError as error:
        return Encoded(reason=f"Not drawn: {error}")


def _encode(run: Run) -> Encoded:
    config = deepcopy(run.config)
    reader, source = open_source(config)
    method = open_method(run.path, config)
    device = choose_device(None)
    encoder = SavedEncoder(method.tokenizer, method.encoder, {"view": reader.view}).to(device).eval()
    pictures = _pictures(config)

    items, _ = held_out(source)
    order = torch.randperm(len(items), generator=seeding.generator(0))[:SAMPLES].tolist()
    sample = [items[i] for i in order]
    if len(items) == 1 or _class_labels(reader, items[0]) is not None:
        return Encoded(points=_points_of_tokens(encoder, reader, sample, device))

    label = next(iter(source.classes), "")
    by_key = {item.key: item for item in sample}
    features, classes, keys, thumbnails, grids = [], [], [], [], None
    for batch in evaluation_batches(sample, reader, BATCH_SIZE, workers=0):
        encoded = encoder(batch.to(device).views[reader.view])
        features.append(encoded.pooled.float().cpu())
        for key in batch.keys:
            number = by_key[key].labels.get(label, -1)
            if not isinstance(number, int):
                number = -1
            classes.append(number)
        keys += batch.keys
        if pictures:
            thumbnails += pictures.thumbnails(batch, THUMBNAIL)

        if grids is None and encoded.grid is not None and encoded.tokens.shape[1] == np.prod(encoded.grid):
            tokens = encoded.tokens[:GRIDS].float().cpu().unflatten(1, encoded.grid)
            large = []
            if pictures:
                large = pictures.thumbnails(batch, LARGE)[:GRIDS]
            grids = TokenGrids(features=tokens.numpy(), keys=batch.keys[:GRIDS], pictures=large)

    note = f"Pooled features of {len(classes)} test samples"
    if label:
        note += f", coloured by {label}"
    note += "."
    if thumbnails:
        note += " Hover over a point to see its sample."
    if len(thumbnails) != len(keys):
        thumbnails = []
    points = Points(
        torch.cat(features).numpy(),
        np.array(classes),
        names=source.classes.get(label, []),
        note=note,
        keys=keys,
        thumbnails=thumbnails,
    )
    return Encoded(points=points, grids=grids)


def _pictures(config: dict) -> Pictures | None:
    node = config["modality"].get("pictures")
    if node is None:
        return None
    return build(node, key="modality.pictures")


def _points_of_tokens(
    encoder: SavedEncoder,
    reader: Reader,
    items: Sequence[Item],
    device: torch.device,
) -> Points:
    """Features of tokens, sample after sample until there are enough, thinned at random."""
    by_key = {item.key: item for item in items}
    features, classes, names = [], [], []
    count = 0
    for batch in evaluation_batches(items, reader, 1, workers=0):
        tokens = encoder(batch.to(device).views[reader.view]).tokens.flatten(0, 1).float().cpu()
        features.append(tokens)
        count += len(tokens)

        labels = _class_labels(reader, by_key[batch.keys[0]])
        if labels is None:
            classes.append(torch.full((len(tokens),), -1))
        else:
            classes.append(labels.classes)
            names = labels.names

        if count >= TOKENS:
            break

    x, y = torch.cat(features), torch.cat(classes)
    rows = torch.randperm(len(x), generator=seeding.generator(0))[:TOKENS]
    if not names:
        names = [str(number) for number in range(int(y.max()) + 1)]
    note = f"Features of {len(rows)} tokens out of {len(x)}"
    if names:
        note += ", coloured by their labels"
    note += "."
    return Points(x[rows].numpy(), y[rows].numpy(), names=names, note=note)


def _class_labels(reader: Reader, item: Item) -> TokenLabels | None:
    """Labels of a sample's tokens where each has one class; None without labels, or with several tasks'."""
    labels = reader.token_labels(item)
    if labels is None or labels.classes.dim() != 1:
        return None
    return labels
