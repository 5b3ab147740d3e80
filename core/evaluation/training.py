"""Training an encoder with a linear head on labels, end to end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.data.dataset import Samples
from core.data.loader import Loader, evaluation_batches
from core.data.sources import Item
from core.engine.clock import Clock
from core.engine.optim import AdamW
from core.engine.precision import Precision, autocast
from core.engine.randomness import deterministic, mix
from core.evaluation.features import Pool, Reading, pooled
from core.evaluation.tokens import TokenItems
from core.export import SavedEncoder
from core.tokens import Batch, Progress

RECIPE = {"betas": (0.9, 0.999), "weight_decay": 0.05, "warmup_share": 0.1, "clip": 1.0}
SMOOTHING = 0.1  # of labels
LOOKS = 5  # at the validation part, evenly over a training; the best of them is kept


@dataclass(frozen=True)
class Output:
    """What training reads of a forward."""

    loss: Tensor


class Classifier(nn.Module):
    """An encoder, its pooled features normalised, and a linear layer: raw data of its view -> logits (B, classes).

    `tokens`: where they carry the labels; logits are then (N, classes) of all tokens.
    Source: the head of facebookresearch/mae's fine-tuning (a norm of the mean token, small weights, no bias).
    """

    def __init__(self, encoder: SavedEncoder, label: str, classes: int, pool: Pool, tokens: TokenItems | None = None):
        super().__init__()
        self.encoder, self.label, self.pool, self.tokens = encoder, label, pool, tokens
        self.targets: Mapping[str, Tensor] = {}  # by sample, of its tokens: what `ask` was told last
        self.norm = nn.LayerNorm(encoder.embed_dim, eps=1e-6)
        self.head = nn.Linear(encoder.embed_dim, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def logits(self, data: Any) -> Tensor:
        return self.head(self.norm(pooled(self.encoder(data), self.pool)))

    def forward(
        self, batch: Batch, progress: Progress | None = None, generator: torch.Generator | None = None
    ) -> Output:
        """The loss of a labelled batch; called as methods are, so that the engine can count it."""
        logits = self.logits(batch.views[self.encoder.view])
        if self.tokens is not None:
            y = torch.cat([self.targets[key] for key in batch.keys]).to(logits.device)
            return Output(F.cross_entropy(logits, y, ignore_index=-1, label_smoothing=SMOOTHING))
        y = batch.labels[self.label]
        y = y.repeat_interleave(len(logits) // len(y))  # several views of a sample stand side by side
        return Output(F.cross_entropy(logits, y, label_smoothing=SMOOTHING))

    def ask(self, items: Sequence[Item]) -> Sequence[Item]:
        """The samples to read for these items; where they are tokens, `forward` asks about them from now on."""
        if self.tokens is None:
            return items
        samples, self.targets = self.tokens.asked(items)
        return samples

    def no_weight_decay(self) -> set[str]:
        return set()


def fit(
    network: Classifier,
    items: Sequence[Item],
    held: Sequence[Item],
    rate: float,
    samples: float,
    reading: Reading,
    seed: int,
) -> float | None:
    """Trains in place on `samples` augmented samples; returns the best accuracy on `held`, whose weights are kept.

    `items`, `held`: samples, or tokens. Without `held` the last weights stay and None is returned. AdamW, linear
    warm-up, half a cosine to 0; what comes out depends on the network, the items and the seed alone.
    """
    fitted = network.ask(items)
    device, size = torch.device(reading.device), min(reading.batch_size, len(fitted))
    stream = Loader(Samples(fitted, reading.reader, seed), size, seed, reading.workers)
    recipe = AdamW(lr=rate, **RECIPE)
    clock = Clock(max(1, round(samples / size)), stream.steps_per_epoch)
    looks = {round(clock.steps * (i + 1) / LOOKS) - 1 for i in range(LOOKS)} if held else set()
    optimizer, best, kept = recipe.optimizer(network.to(device)), None, None
    with torch.random.fork_rng([device] if device.type == "cuda" else []), deterministic(True):
        torch.manual_seed(mix("fit", seed))  # dropout
        for step, batch in zip(range(clock.steps), stream, strict=False):
            network.train()
            recipe.set(optimizer, clock.at(step), size)
            with autocast(_precision(device), device):
                loss = network(batch.to(device)).loss
            loss.backward()
            recipe.clip_gradients(optimizer)
            optimizer.step()
            optimizer.zero_grad()
            if step in looks:
                right = float((predict(network, held, reading) == classes(held, network.label)).mean())
                if best is None or right >= best:
                    best, kept = right, {name: value.clone() for name, value in network.state_dict().items()}
    if kept is not None:
        network.load_state_dict(kept)
    return best


@torch.no_grad()  # not inference mode: what modules keep from it could not be trained through
def predict(network: Classifier, items: Sequence[Item], reading: Reading) -> np.ndarray:
    """Class numbers (S,) of items that can all be read; of tokens, in the order of their samples."""
    network.eval()
    device, found, samples, asked = torch.device(reading.device), [], items, None
    if network.tokens is not None:
        samples, asked = network.tokens.asked(items)
    for batch in evaluation_batches(samples, reading.reader, reading.batch_size, reading.workers):
        with autocast(_precision(device), device):
            found.append(network.logits(batch.to(device).views[reading.reader.view]).argmax(1).cpu())
    answer = torch.cat(found)
    return (answer if asked is None else answer[torch.cat(list(asked.values())) >= 0]).numpy()


def classes(items: Sequence[Item], label: str) -> np.ndarray:
    return np.array([item.labels[label] for item in items])


def _precision(device: torch.device) -> Precision:
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if native else "fp32"
