"""How an item becomes a raw sample: the contract that every modality fills in."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from core.data.sources import Item


@dataclass(frozen=True)
class TokenLabels:
    """What is known of a sample's tokens: classes (N,), -1 unknown; `splits`: (N,) bool by "train" and "test".

    Or answers (N, L) to several questions: 1 yes, 0 no, -1 unknown. `names` of the classes or questions, the same for
    every sample; their numbers where there are none.
    """

    classes: Tensor
    splits: Mapping[str, Tensor] = field(default_factory=dict)
    names: Sequence[str] = ()


class Reader(ABC):
    """Reads one item. The config node `modality.reader`.

    All randomness comes from torch's global CPU generator, which the dataset seeds for every sample.
    """

    view: ClassVar[str]  # name of the view it makes: "image", "video", ...
    extensions: ClassVar[tuple[str, ...]]  # of the files it reads; lower case, with dot

    @abstractmethod
    def read(self, item: Item, train: bool) -> Any:
        """Raw data of one item, uint8 where there is a choice; images (R, C, H, W), videos (R, C, T, H, W).

        R counts views of the one sample (repeated augmentation); 1 when not `train`. Raises BadSample with the reason.
        """

    def collate(self, samples: list[Any]) -> Any:
        """Many read samples as one batch: joined along R."""
        return torch.cat(samples)

    def objects(self, item: Item) -> Tensor | None:
        """Object pixels, bool, aligned with `read(item, train=False)[0]` without channels; None where not known."""
        return None

    def token_labels(self, item: Item) -> TokenLabels | None:
        """None where tokens have no labels of their own. Raises BadSample."""
        return None

    def raw(self, data: Any, by_token: bool) -> Tensor | None:
        """What a batch says before anything is learned: a row (P,) per sample, or per token; None: not of one shape."""
        return data.flatten(1) if isinstance(data, Tensor) and not by_token else None


class WholeReader(Reader):
    """A reader that first decodes the whole sample, always alike, and then draws views of it.

    What `decode` returns may be kept in memory: `CachedReader`.
    """

    @abstractmethod
    def decode(self, item: Item) -> Any:
        """The whole sample; deterministic. Raises BadSample with the reason."""

    @abstractmethod
    def augment(self, raw: Any, train: bool) -> Any:
        """What `read` returns, drawn from a decoded sample, which stays unchanged."""

    def read(self, item: Item, train: bool) -> Any:
        return self.augment(self.decode(item), train)


class CachedReader(Reader):
    """Keeps what `reader` decodes in memory, up to `megabytes`; samples are the same as without.

    The first samples read stay, none is evicted: an epoch visits each once, so that eviction would only churn. Every
    worker process keeps its own, so the memory used is `megabytes` times the number of workers.
    """

    def __init__(self, reader: WholeReader, megabytes: float):
        self.reader, self.left = reader, int(megabytes * 2**20)
        self.view, self.extensions = reader.view, reader.extensions
        self.kept: dict[tuple[str, str | None], Any] = {}

    def read(self, item: Item, train: bool) -> Any:
        place = (item.path, item.member)
        raw = self.kept.get(place)
        if raw is None and not self.left:
            return self.reader.read(item, train)  # decodes no more than it needs
        if raw is None:
            raw = self.reader.decode(item)
            if size(raw) <= self.left:
                self.kept[place] = raw
                self.left -= size(raw)
            else:
                self.left = 0
        return self.reader.augment(raw, train)

    def collate(self, samples: list[Any]) -> Any:
        return self.reader.collate(samples)

    def objects(self, item: Item) -> Tensor | None:
        return self.reader.objects(item)

    def token_labels(self, item: Item) -> TokenLabels | None:
        return self.reader.token_labels(item)

    def raw(self, data: Any, by_token: bool) -> Tensor | None:
        return self.reader.raw(data, by_token)


def size(raw: Any) -> int:
    """Bytes in the tensors and arrays of a decoded sample."""
    if isinstance(raw, dict):
        return sum(map(size, raw.values()))
    return sum(map(size, raw)) if isinstance(raw, list | tuple) else raw.nbytes
