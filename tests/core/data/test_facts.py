"""Facts of a data set from some of its samples."""

from core.data.facts import DataFacts, SampleFacts, look_at, spread
from core.data.sources import Item
from core.errors import BadSample


def items(count: int) -> list[Item]:
    return [Item(f"{number:04d}", "") for number in range(count)]


def facts(*channels: int) -> DataFacts:
    return DataFacts.of([SampleFacts(channels=count, size=(4, 5)) for count in channels])


def test_channels_that_hold_everything():
    assert facts(1, 1).channels == 1 and facts(3).channels == 3 and facts(13, 13).channels == 13
    assert facts(1, 3, 1).channels == 3
    assert facts(3, 4).channels is None and facts().channels is None


def test_samples_are_spread_over_the_data():
    assert [item.key for item in spread(items(10), 4)] == ["0000", "0002", "0005", "0007"]
    assert spread(items(3), 64) == items(3) and spread([], 64) == []


def test_bad_samples_are_named_and_notes_counted():
    def measure(item):
        if item.key == "0002":
            raise BadSample("torn")
        return SampleFacts(channels=1, size=(int(item.key), 1), notes=("dark",) if item.key < "0002" else ())

    result = look_at(measure, items(4))
    assert result.samples == 3 and result.sizes == [(0, 1), (1, 1), (3, 1)]
    assert result.bad == [("0002", "torn")] and result.notes == {"dark": 2}
    assert result.sentences() == ["2 of 3 samples looked at: dark."]


def test_modalities_without_a_measure_have_no_facts():
    assert look_at(lambda item: None, items(4)) == DataFacts(samples=0, channels=None)
