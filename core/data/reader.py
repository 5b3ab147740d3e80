"""How an item becomes a raw sample: the contract that every modality fills in."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch import Tensor

from core.data.facts import LOOKED_AT, DataFacts, SampleFacts, look_at
from core.data.sources import Item, Part, Setting

PIXELS = "pixels"  # uint8, or floats in [0, 1]


@dataclass(frozen=True)
class TokenLabels:
    """Classes of a sample's tokens."""

    classes: Tensor  # (N,) class numbers, -1 unknown; or (N, L) of L labels: 1 yes, 0 no, -1 unknown
    splits: Mapping[str, Tensor] = field(default_factory=dict)  # (N,) bool, by "train" and "test"
    _: KW_ONLY
    names: Sequence[str] = ()  # of the classes or labels, the same for every sample; empty: their numbers


class Reader(ABC):
    """Reads one item. The config node `modality.reader`.

    Written for one view (a modality, a crop, a frame of a sample); readers that make several
    override `read_views`. All randomness comes from torch's global CPU generator, which the dataset
    seeds for every sample.
    """

    view: str  # the sample's own view: "image", "video", …; evaluations read it alone
    extensions: tuple[str, ...]  # of the files it reads; lower case, with dot
    values: str | None = None  # kind of its raw data, where a saved encoder can check it: PIXELS
    sample_axes: int | None = None  # axes of one sample in an array file, channels apart; None: any number
    frame_extensions: tuple[str, ...] = ()  # of pictures: a folder of numbered ones is one sample, where any is
    reads_parts: bool = False  # whether it cuts a sample to `Item.part`; else lists of parts are refused

    @abstractmethod
    def read(self, item: Item, train: bool) -> Any:
        """Raw data of one item, uint8 where there is a choice.

        Shapes: images (R, C, H, W), videos (R, C, T, H, W); R counts views of the one sample (repeated
        augmentation), 1 when not `train`.
        Raises: BadSample with the reason.
        """

    def collate(self, samples: list[Any]) -> Any:
        """One view of many samples as one batch: joined along R."""
        return torch.cat(samples)

    def read_views(self, item: Item, train: bool) -> dict[str, Any]:
        """Raw data of one item by view. Raises: BadSample with the reason."""
        return {self.view: self.read(item, train)}

    @property
    def views(self) -> tuple[str, ...] | None:
        """The views that it makes: its own; None for a reader that makes several."""
        if type(self).read_views in (Reader.read_views, WholeReader.read_views):
            return (self.view,)
        return None

    def collate_views(self, samples: list[Mapping[str, Any]]) -> dict[str, Any]:
        """Many samples, all with the same views, as one batch by view."""
        return {view: self.collate([sample[view] for sample in samples]) for view in samples[0]}

    def measure(self, item: Item) -> SampleFacts | None:
        """Channels and size of one item as its file holds it; None for modalities without.

        Raises: BadSample.
        """
        return None

    def peek(self, items: Sequence[Item], count: int = LOOKED_AT) -> DataFacts:
        """Facts of the data from at most `count` of the items, spread evenly.

        A function of the items alone.
        """
        return look_at(self.measure, items, count)

    def defaults(self, facts: DataFacts) -> Sequence[Setting]:
        """Settings that follow from the data's facts, for runs whose user gives others no value."""
        return ()

    def objects(self, item: Item) -> Tensor | None:
        """Object pixels, bool, aligned with `read(item, train=False)[0]` without channels; None: unknown."""
        return None

    def token_labels(self, item: Item) -> TokenLabels | None:
        """Labels of the item's tokens; None where tokens have none. Raises: BadSample."""
        return None

    def raw_features(self, data: Any, by_token: bool) -> Tensor | None:
        """Raw values, one row (P,) per sample or token, for the PCA baseline; None where shapes differ."""
        if by_token or not isinstance(data, Tensor):
            return None
        return data.flatten(1)

    def descriptors(self, data: Any) -> dict[str, Tensor]:
        """Raw descriptors of samples by name, (B, P) each, for further baselines; none unless a reader has some."""
        return {}


class WholeReader(Reader):
    """A reader that first decodes the whole sample, always alike, and then draws views of it.

    The results of `decode` may be kept in memory: `CachedReader`.
    """

    @abstractmethod
    def decode(self, item: Item) -> Any:
        """The whole sample; deterministic. Raises: BadSample with the reason."""

    @abstractmethod
    def augment(self, raw: Any, train: bool) -> Any:
        """The result of `read`, drawn from a decoded sample, which stays unchanged."""

    @property
    def views(self) -> tuple[str, ...] | None:
        if type(self).augment_views is WholeReader.augment_views:
            return super().views
        return None

    def augment_views(self, raw: Any, train: bool) -> dict[str, Any]:
        """The result of `read_views`; readers that make several views override it."""
        return {self.view: self.augment(raw, train)}

    def read(self, item: Item, train: bool) -> Any:
        return self.augment(self.decode(item), train)

    def read_views(self, item: Item, train: bool) -> dict[str, Any]:
        return self.augment_views(self.decode(item), train)


class CachedReader(Reader):
    """Keeps samples that `reader` has decoded in memory, up to `megabytes`; samples are the same as without.

    The first samples read stay, none is evicted: an epoch visits each once, so that eviction would only
    churn. Every worker process has its own cache, so the memory used is `megabytes` times the number of
    workers.
    """

    def __init__(self, reader: WholeReader, megabytes: float):
        self.reader, self.free_bytes = reader, int(megabytes * 2**20)
        self.view, self.extensions, self.reads_parts = reader.view, reader.extensions, reader.reads_parts
        self.frame_extensions = reader.frame_extensions
        self.cache: dict[tuple[str, str | None, Part | None], Any] = {}

    def read(self, item: Item, train: bool) -> Any:
        return self.read_views(item, train)[self.view]

    @property
    def views(self) -> tuple[str, ...] | None:
        return self.reader.views

    def read_views(self, item: Item, train: bool) -> dict[str, Any]:
        key = (item.path, item.member, item.part)
        raw = self.cache.get(key)
        if raw is None and not self.free_bytes:
            return self.reader.read_views(item, train)  # decodes no more than it needs

        if raw is None:
            raw = self.reader.decode(item)
            if size(raw) <= self.free_bytes:
                self.cache[key] = raw
                self.free_bytes -= size(raw)
            else:
                self.free_bytes = 0  # full: smaller samples are not tried
        return self.reader.augment_views(raw, train)

    def collate(self, samples: list[Any]) -> Any:
        return self.reader.collate(samples)

    def collate_views(self, samples: list[Mapping[str, Any]]) -> dict[str, Any]:
        return self.reader.collate_views(samples)

    def defaults(self, facts: DataFacts) -> Sequence[Setting]:
        return self.reader.defaults(facts)

    def objects(self, item: Item) -> Tensor | None:
        return self.reader.objects(item)

    def token_labels(self, item: Item) -> TokenLabels | None:
        return self.reader.token_labels(item)

    def raw_features(self, data: Any, by_token: bool) -> Tensor | None:
        return self.reader.raw_features(data, by_token)

    def descriptors(self, data: Any) -> dict[str, Tensor]:
        return self.reader.descriptors(data)


def size(raw: Any) -> int:
    """Bytes in the tensors and arrays of a decoded sample."""
    if isinstance(raw, dict):
        return sum(map(size, raw.values()))
    if isinstance(raw, list | tuple):
        return sum(map(size, raw))
    return raw.nbytes
