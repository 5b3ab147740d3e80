from itertools import islice

import pytest
import torch

from core import seeding
from core.data.dataset import Samples
from core.data.loader import Loader, evaluation_batches
from core.data.reader import CachedReader
from core.data.sources import Item
from core.errors import UserError


@pytest.fixture
def items(write):
    folder = write([f"{i:02d}.num" for i in range(22)])
    return [Item(f"{i:02d}", str(folder / f"{i:02d}.num"), labels={"label": i % 3} if i % 2 else {}) for i in range(22)]


@pytest.fixture
def damaged(items, tmp_path):
    for name in ("03", "10", "11"):
        (tmp_path / f"{name}.num").write_text("" if name == "10" else "x")
    return items


@pytest.fixture
def batches(number_reader):
    """The first `count` batches of a loader over these items, as comparable values."""

    def batches(items, count, batch_size=4, seed=1, workers=0, reader=None, **settings):
        loader = Loader(Samples(items, reader or number_reader(), seed), batch_size, seed, workers, **settings)
        return [
            (batch.keys, batch.views["number"].tolist(), batch.labels["label"].tolist(), list(batch.skipped))
            for batch in islice(loader, count)
        ]

    return batches


def test_batch(items, number_reader):
    loader = Loader(Samples(items, number_reader(repeats=2), 1), 4, 1, 0)
    batch = next(iter(loader))
    assert loader.steps_per_epoch == 5 and batch.views["number"].shape == (8, 1)
    assert batch.labels["label"].dtype == torch.long and batch.skipped == []
    by_key = {item.key: item.labels.get("label", -1) for item in items}
    assert batch.labels["label"].tolist() == [by_key[key] for key in batch.keys]
    assert batch.views["number"][::2, 0].int().tolist() == [int(key) for key in batch.keys]


def test_epochs_visit_all_samples_in_new_orders(items, batches):
    first, second = [key for batch in batches(items, 11, batch_size=2) for key in batch[0]], []
    second = [key for batch in batches(items, 22, batch_size=2)[11:] for key in batch[0]]
    assert sorted(first) == sorted(second) == [item.key for item in items] and first != second
    assert batches(items, 3, seed=2) != batches(items, 3)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes:UserWarning")  # on a small machine
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_nothing(damaged, batches, workers):
    assert batches(damaged, 12, workers=workers) == batches(damaged, 12)


@pytest.mark.parametrize(("start", "workers"), [(1, 0), (4, 2), (5, 0), (7, 1), (11, 0)])
def test_resuming_anywhere(damaged, batches, start, workers):
    assert batches(damaged, 12)[start:] == batches(damaged, 12 - start, start=start, workers=workers)


def test_ranks_share_each_batch(damaged, batches):
    whole = batches(damaged, 8)
    parts = zip(*(batches(damaged, 8, rank=rank, world_size=2) for rank in range(2)), strict=True)
    for (keys, values, labels, skipped), (a, b) in zip(whole, parts, strict=True):
        assert (a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]) == (keys, values, labels, skipped)


def test_bad_samples_are_replaced_and_named(damaged, batches):
    bad = {"03": "is no number", "10": "the file is empty (0 bytes)", "11": "is no number"}
    seen = batches(damaged, 5)
    skipped = [entry for batch in seen for entry in batch[3]]
    assert skipped and all(bad[key] == reason for key, reason in skipped)
    assert all(len(batch[0]) == 4 and not bad.keys() & set(batch[0]) for batch in seen)


@pytest.mark.parametrize("workers", [0, 1])
def test_when_all_samples_are_bad_the_message_is_plain(write, number_reader, workers):
    folder = write({f"{i}.num": "x" for i in range(4)})
    items = [Item(f"{i}.num", str(folder / f"{i}.num")) for i in range(4)]
    with pytest.raises(
        UserError, match=r"(?s)^data.root: 10 samples in a row could not be used:\n  \d\.num: is no"
    ) as caught:
        next(iter(Loader(Samples(items, number_reader(), 1), 2, 1, workers)))
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 23}, "batch_size=23 does not fit the training set of 22 samples"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 5, "world_size": 2}, "batch_size=5 .* cannot be divided by 2"),
    ],
)
def test_batch_sizes_that_are_wrong(items, batches, settings, message):
    with pytest.raises(UserError, match=message):
        batches(items, 1, **settings)


def test_the_global_generator_is_left_alone(items, batches):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    batches(items, 3)
    batches(items, 3, workers=1)
    assert torch.equal(torch.rand(3), expected)


def test_cache_changes_nothing_and_is_bounded(damaged, batches, number_reader):
    class Counting(number_reader):
        decoded = 0

        def decode(self, item):
            self.decoded += 1
            return super().decode(item)

    plain, counting = batches(damaged, 20), Counting()
    reader = CachedReader(counting, megabytes=10 * 4 / 2**20)  # ten samples of one float
    assert batches(damaged, 20, reader=reader) == plain
    assert len(reader.cache) == 10 and reader.free_bytes == 0
    everything = CachedReader(Counting(), megabytes=1)
    assert batches(damaged, 20, reader=everything, workers=0) == plain
    assert everything.reader.decoded < counting.decoded < 80


def test_seeds_depend_on_every_number():
    assert len({seeding.mix(*numbers) for numbers in [(1, 2, 3), (1, 3, 2), (12, 3), (1, 23), (0, 1, 2, 3)]}) == 5
    with seeding.seeded(1, 2):
        inside = torch.rand(1)
    assert torch.equal(inside, torch.rand(1, generator=seeding.generator(1, 2)))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_reads_everything_once_in_order(damaged, number_reader, workers):
    seen = list(evaluation_batches(damaged, number_reader(), 5, workers))
    good = [item for item in damaged if item.key not in ("03", "10", "11")]
    assert [key for batch in seen for key in batch.keys] == [item.key for item in good]
    assert torch.cat([batch.views["number"] for batch in seen])[:, 0].tolist() == [float(item.key) for item in good]
    labels = torch.cat([batch.labels["label"] for batch in seen]).tolist()
    assert labels == [item.labels.get("label", -1) for item in good]
    assert [key for batch in seen for key, _ in batch.skipped] == ["03", "10", "11"]


@pytest.mark.parametrize("bad", [range(0, 3), range(3, 6), range(19, 22), [*range(0, 3), *range(18, 22)]])
def test_evaluation_batches_are_never_empty(items, tmp_path, number_reader, bad):
    for i in bad:
        (tmp_path / f"{i:02d}.num").write_text("x")
    seen = list(evaluation_batches(items, number_reader(), 3, 0))
    assert all(batch.keys for batch in seen)
    assert [key for batch in seen for key, _ in batch.skipped] == [f"{i:02d}" for i in bad]
    assert sum(len(batch.keys) for batch in seen) == 22 - len(bad)


def test_evaluation_of_nothing(items, tmp_path, number_reader):
    for i in range(22):
        (tmp_path / f"{i:02d}.num").write_text("x")
    with pytest.raises(UserError, match="22 samples in a row"):
        list(evaluation_batches(items, number_reader(), 5, 0))
    with pytest.raises(UserError, match="no sample to evaluate"):
        list(evaluation_batches([], number_reader(), 5, 0))


def test_what_is_left_over_may_be_a_batch_of_its_own(items, number_reader):
    samples = Samples(items, number_reader(), seed=0)
    loader = Loader(samples, batch_size=7, seed=0, workers=0, keep_last=True)
    sizes = [len(batch.keys) for batch in islice(loader, loader.steps_per_epoch)]
    assert sum(sizes) == len(items) and sizes[-1] == len(items) % 7
    with pytest.raises(UserError, match="keep_last"):
        Loader(samples, batch_size=6, seed=0, workers=0, world_size=2, keep_last=True)


def test_a_reader_may_make_several_views(items, number_reader):
    """Each view is collated by itself; cached samples give the same views as others."""

    class Twice(number_reader):
        def augment_views(self, raw, train):
            return {"number": self.augment(raw, train), "negative": -raw[None]}

    plain = next(iter(Loader(Samples(items, Twice(repeats=2), 1), 4, 1, 0)))
    cached = next(iter(Loader(Samples(items, CachedReader(Twice(repeats=2), 1.0), 1), 4, 1, 0)))
    assert plain.views["number"].shape == (8, 1) and plain.views["negative"].shape == (4, 1)
    assert torch.equal(plain.views["negative"], -plain.views["number"][::2].floor())
    for view in ("number", "negative"):
        assert torch.equal(plain.views[view], cached.views[view])
