"""Opens data sets of odd and damaged files as the commands do, and sorts the outcome of every file.

    python -m benchmarks.reliability [count=5000] [seed=0] [modality=image] [layout=tar] [out=docs/reliability.md]
    python -m benchmarks.reliability set=17 [seed=0] [modality=image] [layout=tar] [keep=folder]

Sets of three to eight samples (`reliability_files`) combine formats, damage, names and layouts. Each is opened in this
process: `open_source`, all items, the account, and the reader over every item, within a time limit. A file is

- exact: read, with the values that an independent decoder gives;
- decoded: damaged, and read all the same;
- skipped: refused by the reader with a reason (BadSample);
- passed over: counted in the account;
- refused: the whole set is, in one message (UserError);
- lost: in a list or archive that is missing, or is damaged and whole by itself, as a tar cut between members;
- a fault: a crash, a time limit that passes, wrong values, label or split of an undamaged file or a refusal of it, a
  file that is in no count, a reason that holds an address in memory.

Writes the counts and the faults. `set=` repeats one set, whose number a fault has, and `keep=` leaves its files there.
"""

import re
import shutil
import sys
import tarfile
import tempfile
import traceback
import unicodedata
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import reliability_files as made
from benchmarks.reliability_files import NONE, File, Layout
from benchmarks.reliability_graphs import COLLECTIONS, SINGLE
from core.config import compose
from core.config.build import build
from core.data.opening import open_source
from core.data.reader import Reader
from core.data.sources import Item, Source
from core.errors import BadSample, UserError
from modalities.graph.graphs import to_dense
from tests.waiting import limit

SECONDS = 20  # for a set
LEAST, MOST = 3, 8  # samples of a set
EXACT, DECODED, SKIPPED, PASSED_OVER = "exact", "decoded", "skipped", "passed over"
REFUSED, LOST, FAULT = "refused", "lost", "fault"
ADDRESS = re.compile(" at 0x[0-9a-f]+", re.IGNORECASE)
OUTCOMES = (EXACT, DECODED, SKIPPED, PASSED_OVER, REFUSED, LOST, FAULT)
SETTINGS = {
    "image": [f"modality.size=[{made.SIDE},{made.SIDE}]"],
    "video": [f"modality.size=[{made.FRAMES},{made.SIDE},{made.SIDE}]"],
    "graph": [],
}


@dataclass(frozen=True)
class Outcome:
    """The outcome of one file of a set; `detail`: the fault, and the place in the code where there is one."""

    kind: str
    _: KW_ONLY
    number: int  # of the set
    modality: str
    layout: str
    damage: str
    name: str
    detail: str = ""


def main(argv: Sequence[str] | None = None) -> list[Outcome]:
    words = dict(word.split("=", 1) for word in (sys.argv[1:] if argv is None else argv))
    seed = int(words.get("seed", 0))
    modalities = [words["modality"]] if "modality" in words else list(made.MAKERS)
    if "set" in words:
        outcomes = run_set(int(words["set"]), seed, modalities, layout=words.get("layout"), keep=words.get("keep"))
        for outcome in outcomes:
            print(outcome)
        return outcomes

    outcomes = run(int(words.get("count", 5000)), seed, modalities, words.get("layout"))
    command = f"python -m benchmarks.reliability {' '.join(f'{key}={value}' for key, value in words.items())}".strip()
    text = render(outcomes, command)
    Path(words.get("out", Path(__file__).parent.parent / "docs" / "reliability.md")).write_text(text)
    print(text)
    return outcomes


def run(count: int, seed: int, modalities: Sequence[str], layout: str | None = None) -> list[Outcome]:
    """Outcomes of at least `count` files; `layout`: of all sets, None: drawn."""
    outcomes: list[Outcome] = []
    number = 0
    while len(outcomes) < count:
        outcomes += run_set(number, seed, modalities, layout=layout)
        number += 1
    return outcomes


def run_set(
    number: int, seed: int, modalities: Sequence[str], *, layout: str | None = None, keep: str | None = None
) -> list[Outcome]:
    """Makes one set, a function of seed and number, and opens it."""
    rng = np.random.default_rng([seed, number])
    modality = modalities[number % len(modalities)]
    layouts = made.layouts(modality)
    name = layout or str(rng.choice(list(layouts)))
    if modality == "graph":
        layouts = {**layouts, **COLLECTIONS}
        if layout is None and rng.random() < 0.5:
            name = str(rng.choice(list(COLLECTIONS)))
    count = int(rng.integers(LEAST, MOST + 1))
    if name in SINGLE:
        count = 1
    files = made.draw_files(modality, count, rng, name)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(keep or temporary) / "set"
        folder.mkdir(parents=True)
        data = layouts[name](folder, files, rng)
        made.add_others(folder, data, rng)
        container_damage = NONE
        if data.containers and rng.random() < 0.3:
            container_damage = made.damage_containers(data, rng)

        kinds = sort_files(modality, data, files, container_damage)
        shutil.rmtree(folder) if not keep else None

    outcomes = []
    for file, (kind, detail) in zip(files, kinds, strict=True):
        damage = file.damage if container_damage == NONE else f"container: {container_damage}"
        outcomes.append(
            Outcome(
                kind,
                number=number,
                modality=modality,
                layout=name,
                damage=damage,
                name=file.name,
                detail=detail,
            )
        )
    return outcomes


def sort_files(modality: str, layout: Layout, files: Sequence[File], container_damage: str) -> list[tuple[str, str]]:
    """Kind of outcome and detail for each file."""
    is_whole = container_damage == NONE
    composed(modality)
    try:
        with limit(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader, source = open_set(modality, layout.root)
            by_split = items_by_split(source)
            items = list(chain.from_iterable(by_split.values()))
            account = source.account()
            results = {place_of(item): read(reader, item) for item in items}
    except UserError as error:
        is_readable = any(file.damage == NONE and made.is_utf8(file.name) for file in files)
        if is_whole and is_readable:
            return [(FAULT, f"refused though undamaged: {error}")] * len(files)
        if not str(error).strip() or "Traceback" in str(error):
            return [(FAULT, f"a message of no use: {error}")] * len(files)
        if ADDRESS.search(str(error)):
            return [(FAULT, f"an address in a message: {error}")] * len(files)
        return [(REFUSED, "")] * len(files)
    except Exception as error:
        return [(FAULT, described(error))] * len(files)

    # Every file is an item or in the account's counts. Damaged containers may have lost some, if they say so.
    missing = [file for file in files if key_of(file.place) not in results]
    count = sum(group.count for group in account.passed_over)
    is_said = count >= len(missing) + layout.others if is_whole else count > 0 or bool(account.notes)
    absence = (FAULT, f"missing in silence: {count} passed over, {len(missing)} missing, {layout.others} other files")
    if is_said:
        absence = (PASSED_OVER, "")
    elif container_damage == made.MISSING or (
        not is_whole
        # Under a name that the damage changed, it is one of the items.
        and (is_list(layout.root) or are_whole(layout.containers, len(items)) or len(items) >= len(files))
    ):
        absence = (LOST, "")

    if is_whole and not is_said and not missing:
        return [(FAULT, f"in no count: {count} passed over of {layout.others} other files")] * len(files)

    outcomes = []
    for file in files:
        result = results.get(key_of(file.place))
        outcomes.append(absence if result is None else sort_result(result, file, is_whole))
    if is_whole:
        return with_marks(outcomes, files, layout, by_split)
    return outcomes


def with_marks(
    outcomes: list[tuple[str, str]], files: Sequence[File], layout: Layout, by_split: Mapping[str, Sequence[Item]]
) -> list[tuple[str, str]]:
    """The same; faults where labels or splits of the items divide the files otherwise than the layout does."""
    marks = {}
    for split, items in by_split.items():
        for item in items:
            marks[place_of(item)] = split, item.labels.get("label")

    names = ["split"] * layout.tells_split + ["label"] * layout.tells_label
    for name in names:
        pairs = set()
        for file in files:
            mark = marks.get(key_of(file.place))
            if mark is not None:
                pairs.add((getattr(file, name), mark[name == "label"]))

        # With one of the classes or splits alone, others may be drawn or none given.
        expected, actual = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
        if len(expected) > 1 and not len(expected) == len(actual) == len(pairs):
            detail = f"another {name}: {sorted(pairs, key=str)}"
            outcomes = [(FAULT, detail) if kind == EXACT else (kind, text) for kind, text in outcomes]
    return outcomes


def is_list(root: str) -> bool:
    """Whether a list alone is given: files that it does not name are no part of the data set."""
    return root.endswith((".csv", ".txt"))


def are_whole(containers: Sequence[Path], count: int) -> bool:
    """Whether Python's own reader finds no fault in tars, and no more than `count` samples."""
    samples = 0
    for path in containers:
        try:
            with tarfile.open(path) as archive:
                samples += sum(not name.endswith(".cls") for name in archive.getnames())
        except (tarfile.TarError, OSError, EOFError):
            return False
    return samples <= count


def sort_result(result: np.ndarray | Exception, file: File, is_whole: bool) -> tuple[str, str]:
    """Kind of outcome and detail of a file that is an item."""
    is_undamaged = is_whole and file.damage == NONE
    if isinstance(result, BadSample):
        if is_undamaged:
            return FAULT, f"skipped though undamaged: {result}"
        if ADDRESS.search(str(result)):
            return FAULT, f"an address in a reason: {result}"
        return SKIPPED, ""
    if isinstance(result, Exception):
        return FAULT, described(result)

    values = file.original.values
    if result.shape == values.shape and np.array_equal(result, values):
        return EXACT, ""
    if is_undamaged:
        return FAULT, f"other values than the file's: {difference(result, values)}"
    return DECODED, ""


def open_set(modality: str, root: str) -> tuple[Reader, Source]:
    config = deepcopy(composed(modality))
    config["data"]["root"] = root
    return open_source(config)


def composed(modality: str) -> dict:
    """The modality's config; imports its reader, so that the first set has no less time than others."""
    if modality not in _configs:
        _configs[modality] = compose([f"modality={modality}", "data=folder", "data.root=.", *SETTINGS[modality]])
        build(_configs[modality]["modality"]["reader"])
    return _configs[modality]


_configs: dict[str, dict] = {}


def items_by_split(source: Source) -> dict[str, Sequence[Item]]:
    """The items of every split, each once; those of small sets of one split too. Raises: UserError without any."""
    items: dict[str, Sequence[Item]] = {}
    errors = []
    for split in ("train", "test", "validation"):
        try:
            items[split] = source.items(split)
        except UserError as error:
            errors.append(error)
    if not items:
        raise errors[0]
    return items


def read(reader: Reader, item: Item) -> np.ndarray | Exception:
    """The values of a sample, or the error that reading it raises."""
    try:
        return values_of(reader.read(item, train=False))
    except TimeoutError:
        raise
    except Exception as error:
        return error


def values_of(raw: object) -> np.ndarray:
    """Pixels (3, …) of the only view, or the features of nodes beside their edges."""
    if isinstance(raw, Tensor):
        return raw[0].numpy()

    x = to_dense(raw.x, raw.features) if raw.is_sparse else raw.x
    counts = torch.zeros(len(x), len(x))
    counts.index_put_(tuple(raw.edge_index), torch.ones(raw.edge_index.shape[1]), accumulate=True)
    return torch.cat([x, counts], 1).numpy()


def place_of(item: Item) -> tuple[str, str | None]:
    return key_of((item.path, item.member))


def key_of(place: tuple[str, str | None]) -> tuple[str, str | None]:
    """A place with one spelling; of archives the member alone, as the copy of a compressed one lies elsewhere."""
    path, member = place
    if member is None:
        return unicodedata.normalize("NFC", str(path)), None
    return "", unicodedata.normalize("NFC", member)


def difference(result: np.ndarray, values: np.ndarray) -> str:
    if result.shape != values.shape:
        return f"shape {result.shape}, not {values.shape}"
    return f"up to {np.abs(result.astype(float) - values).max():g} away"


def described(error: BaseException) -> str:
    """The error, and the last line of this project's code that it passed."""
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    place = ""
    for frame in places:
        if "/core/" in frame.filename or "/modalities/" in frame.filename:
            place = f" at {'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno}"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}{place}"


def render(outcomes: Sequence[Outcome], command: str) -> str:
    """The summary as markdown."""
    sets = len({outcome.number for outcome in outcomes})
    lines = [
        "# Reliability",
        "",
        f"{len(outcomes)} files in {sets} data sets, made by combination (formats, names, layouts) and by mutation",
        "(damage), each opened as the commands open data. Written by:",
        "",
        "```bash",
        command,
        "```",
        "",
        "*exact*: read, with the values of an independent decoder; *decoded*: damaged, and read all the same;",
        "*skipped*: by the reader, with a reason; *passed over*: counted in the account; *refused*: the whole data",
        "set, in one message; *lost*: in a list or archive that is missing, or damaged and whole by itself;",
        f"*fault*: a crash, more than {SECONDS} s, another value, label or split, or a file that is in no count.",
        "",
    ]
    for title, attribute in (("modality", "modality"), ("damage", "damage"), ("layout", "layout")):
        lines += [*table(title, outcomes, attribute), ""]

    faults = Counter()
    examples: dict[tuple, Outcome] = {}
    for outcome in outcomes:
        if outcome.kind == FAULT:
            key = (outcome.modality, outcome.layout, outcome.damage, outcome.detail)
            faults[key] += 1
            examples.setdefault(key, outcome)
    lines += ["## Faults", ""]
    if not faults:
        lines.append("None.")
    for key, count in faults.most_common():
        modality, layout, damage, detail = key
        where = f"{modality}, {layout}, damage: {damage}, name {examples[key].name!r}, set={examples[key].number}"
        lines.append(f"- {count} × {detail} ({where})")
    return "\n".join(lines).rstrip() + "\n"


def table(title: str, outcomes: Sequence[Outcome], attribute: str) -> list[str]:
    counts: Mapping[str, Counter] = {}
    for outcome in outcomes:
        counts.setdefault(getattr(outcome, attribute), Counter())[outcome.kind] += 1

    lines = [f"| {title} | files | {' | '.join(OUTCOMES)} |", f"|---|{'---:|' * (1 + len(OUTCOMES))}"]
    for name, row in sorted(counts.items()):
        lines.append(f"| {name} | {row.total()} | {' | '.join(str(row[kind]) for kind in OUTCOMES)} |")
    return lines


if __name__ == "__main__":
    main()
