"""Features of all samples, batch by batch: into memory, or into a file, which a kill leaves resumable."""

import csv
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from core.data.loader import evaluation_batches
from core.data.reader import Reader, TokenLabels
from core.data.sources import Item, Source
from core.errors import UserError, one_line
from core.export import Features, SavedEncoder
from core.files import explain_write_errors, open_atomic, read_json, write_atomic

ALL, BOTH = "all", "train and test"  # every split; the split of samples that are in several
KEY, SPLIT, TOKEN, FEATURES = "key", "split", "token", "features"  # columns beside those of labels
LABEL = "label"  # the column of labels that tokens carry
NINE_DIGITS = "{:.9g}"  # they give every float32 back
Columns = Mapping[str, Sequence[str | int | float | None]]


@dataclass(frozen=True)
class Chunk:
    """Features (R, D) of a batch's samples or tokens, their columns by name, and (key, reason) of bad
    samples.

    `samples`: how many of either sort the batch had.
    """

    features: np.ndarray
    columns: Columns
    _: KW_ONLY
    samples: int
    skipped: Sequence[tuple[str, str]]

    def column(self, name: str) -> Sequence[str | int | float | None]:
        """The values of a column, unknown where the batch lacks it."""
        return self.columns.get(name, [None] * len(self.features))


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Features (R, D) with a row for every sample, or for every token of them.

    `keys`, `splits` (R,): of the row's sample; `tokens` (R,): the token's number in it, None where rows are
    samples. `labels` (R,) by name: names of classes, "" unknown; of values and answers numbers, NaN
    unknown. `skipped`: (key, reason) of samples that could not be read.
    """

    features: np.ndarray
    keys: np.ndarray
    splits: np.ndarray
    labels: Mapping[str, np.ndarray]
    tokens: np.ndarray | None = None
    skipped: Sequence[tuple[str, str]] = ()

    def table(self) -> dict[str, np.ndarray]:
        """Columns of equal length, which `pandas.DataFrame` takes: key, split, labels, features f0, f1, …"""
        table = {KEY: self.keys, SPLIT: self.splits}
        if self.tokens is not None:
            table[TOKEN] = self.tokens
        return {**table, **self.labels, **dict(zip(_names(self.features), self.features.T, strict=True))}

    def __repr__(self) -> str:
        rows, width = self.features.shape
        labels = ", ".join(self.labels) or "none"
        skipped = f"{len(self.skipped)} samples skipped"
        return f"Encoded({rows} rows, {width} features, labels: {labels}, {skipped})"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The contents of a file of features; `splits`: rows by split, `skipped`: samples that are not in it."""

    rows: int
    width: int
    splits: Mapping[str, int]
    labels: Sequence[str]
    by_token: bool
    skipped: Sequence[tuple[str, str]]


class Encoding:
    """All samples of a split of `source`, each to be read once, in order, by `encoder`.

    `split`: "all", or the name of one. `tokens`: a row for every token of a sample, not for every sample;
    None: of a single packed sample, which is one graph, its nodes. `reader_node`: the reader's config.
    Raises: UserError where there are no samples.
    """

    def __init__(
        self,
        encoder: SavedEncoder,
        reader: Reader,
        source: Source,
        *,
        reader_node: Mapping[str, Any],
        split: str = ALL,
        tokens: bool | None = None,
        batch_size: int = 64,
        workers: int = 0,
        device: str | None = None,
    ):
        if batch_size < 1 or workers < 0:
            raise UserError(f"batch_size={batch_size} must be at least 1, workers={workers} at least 0.")
        self.device = choose_device(device)
        self.encoder = encoder.to(self.device).eval()
        self.reader, self.reader_node = reader, dict(reader_node)
        self.tokens, self.batch_size, self.workers = tokens, batch_size, workers

        self.items, self.splits = read_splits(source, split)
        self.labels = _label_columns(list(self.items.values()), source)

    def collect(self) -> Encoded:
        """All rows in memory."""
        return _join(list(self.chunks()))

    @torch.no_grad()
    def chunks(self, start: int = 0) -> Iterator[Chunk]:
        """Rows of every batch from the sample number `start` on.

        Raises: UserError where nothing can be read.
        """
        items = list(self.items.values())[start:]
        for batch in evaluation_batches(items, self.reader, self.batch_size, self.workers):
            features = self.encoder(batch.to(self.device).views[self.encoder.view])
            by_token = self.tokens
            if by_token is None:
                by_token = features.sample is not None and len(self.items) == 1

            values, owners, numbers = features.pooled, list(range(len(batch.keys))), None
            if by_token:
                values, owners, numbers = _token_rows(features)
            yield Chunk(
                values.float().cpu().numpy(),
                self._columns(batch.keys, owners, numbers),
                samples=len(batch.keys) + len(batch.skipped),
                skipped=list(batch.skipped),
            )

    def identity(self) -> dict[str, Any]:
        """Plain JSON that differs where other files, weights or settings would give other rows."""
        samples, weights = hashlib.sha256(), hashlib.sha256()
        for key, item in self.items.items():
            samples.update(f"{key}\0{self.splits[key]}\0{sorted(item.labels.items())}\n".encode())
        files = {item.path for item in self.items.values()}
        for path in sorted(files):
            if os.path.exists(path):
                state = os.stat(path)
                samples.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())

        for name, value in self.encoder.state_dict().items():
            weights.update(name.encode())
            weights.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return {
            "samples": samples.hexdigest(),
            "weights": weights.hexdigest(),
            "reader": self.reader_node,
            "tokens": self.tokens,
        }

    def _columns(self, keys: Sequence[str], owners: Sequence[int], numbers: Sequence[int] | None) -> Columns:
        """Columns of rows: the sample of each in the batch, and the number of its token there."""
        row_keys = [keys[owner] for owner in owners]
        columns: dict[str, list] = {KEY: row_keys, SPLIT: _pick(self.splits, row_keys)}
        if numbers is not None:
            columns[TOKEN] = list(numbers)
        for name, values in self.labels.items():
            columns[name] = _pick(values, row_keys)

        if numbers is not None and not self.labels:
            counts = np.bincount(np.array(owners, dtype=int), minlength=len(keys))
            self._label_tokens(columns, keys, counts.tolist())
        return columns

    def _label_tokens(self, columns: dict[str, list], keys: Sequence[str], counts: Sequence[int]) -> None:
        """Adds the tokens' own labels, and takes their own splits; `counts` by sample."""
        start = 0
        for key, count in zip(keys, counts, strict=True):
            rows, labels = slice(start, start + count), self.reader.token_labels(self.items[key])
            start += count
            if labels is None:
                continue

            numbers = torch.tensor(columns[TOKEN][rows])
            if labels.splits:
                columns[SPLIT][rows] = _token_splits(labels, numbers)
            for name, values in _token_values(labels, numbers).items():
                columns.setdefault(name, [None] * len(columns[KEY]))[rows] = values


def choose_device(name: str | None) -> torch.device:
    """The device of this name; None: the GPU, where there is one.

    Raises: UserError where `name` is none, or one that this machine or this torch does not have.
    """
    if name is None:
        name = "cpu"
        if torch.cuda.is_available():
            name = "cuda"
        return torch.device(name)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device={name} is no device: {one_line(error)}") from None

    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"device={name} cannot be used here ({one_line(error)}); leave device= out, or give device=cpu."
        ) from None
    return device


def read_splits(source: Source, split: str = ALL) -> tuple[dict[str, Item], dict[str, str]]:
    """The items of a split, or of all, by key; and the split of each.

    Raises: UserError where there are none.
    """
    names = [split]
    if split == ALL:
        names = [name for name, count in source.account().samples.items() if count]

    items: dict[str, Item] = {}
    splits: dict[str, str] = {}
    for name in names or ["train"]:
        for item in source.items(name):
            splits[item.key] = name
            if item.key in items:
                splits[item.key] = BOTH
            items[item.key] = item
    return items, splits


def write_encoded(path: Path, encoding: Encoding, progress: Callable[[int], None]) -> Summary:
    """Encodes all samples into a .npz, .csv or .parquet file, which appears at once and whole.

    Rows are appended to files in a hidden folder beside it; the same call goes on with them after a kill.
    `progress` is called with the number of samples done.
    Raises: UserError for other endings, without pyarrow for .parquet, and where the disk refuses.
    """
    write = _writer(path)
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _Rows.open(path.with_name(f".{path.name}.part"), encoding.identity()) as rows:
            progress(rows.samples)
            if rows.samples < len(encoding.items):
                for chunk in encoding.chunks(rows.samples):
                    rows.append(chunk)
                    progress(rows.samples)

            with open_atomic(path) as stream:
                write(stream, rows)
            summary = rows.summary()
        shutil.rmtree(rows.folder)
    return summary


class _Rows:
    """Rows on the disk: features one after another in one file, columns of a batch as a line of another."""

    def __init__(self, folder: Path, features: BinaryIO, lines: BinaryIO):
        self.folder, self._features, self._lines = folder, features, lines
        self.samples = self.width = self.count = 0  # samples include those that could not be read

    @classmethod
    @contextmanager
    def open(cls, folder: Path, identity: Mapping[str, Any]) -> Iterator["_Rows"]:
        """Opens the rows in `folder`, if they are of the same identity.

        Raises: UserError while another process writes them.
        """
        folder.mkdir(exist_ok=True)
        with open(folder / "features.f32", "a+b") as features, open(folder / "rows.jsonl", "a+b") as lines:
            try:
                fcntl.lockf(features, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                message = f"Another process writes to {folder}; wait for it or choose another out=."
                raise UserError(message) from None

            rows = cls(folder, features, lines)
            rows._resume(read_json(folder / "identity.json") == identity)
            write_atomic(folder / "identity.json", json.dumps(identity))
            yield rows

    def append(self, chunk: Chunk) -> None:
        """Features first: a line stands for features that are there."""
        count, width = chunk.features.shape
        self._features.write(chunk.features.astype("<f4").tobytes())
        self._features.flush()

        line = {"rows": count, "width": width, "columns": chunk.columns}
        line |= {"samples": chunk.samples, "skipped": chunk.skipped}
        self._lines.write(json.dumps(line).encode() + b"\n")
        self._lines.flush()
        self._add(line)

    def chunks(self) -> Iterator[Chunk]:
        start, features = 0, self.features()
        for line in map(json.loads, self._texts()):
            end = start + line["rows"]
            skipped = list(map(tuple, line["skipped"]))
            yield Chunk(features[start:end], line["columns"], samples=line["samples"], skipped=skipped)
            start = end

    def columns(self) -> Iterator[Columns]:
        for chunk in self.chunks():
            yield chunk.columns

    def features(self) -> np.ndarray:
        """(R, D), read from the disk where it is looked at."""
        if not self.count:  # an empty file has no map
            return np.zeros((0, self.width), "<f4")
        return np.memmap(self.folder / "features.f32", "<f4", mode="r", shape=(self.count, self.width))

    def summary(self) -> Summary:
        splits: Counter[str] = Counter()
        columns, skipped = {}, []
        for chunk in self.chunks():
            splits.update(map(str, chunk.columns[SPLIT]))
            columns |= chunk.columns
            skipped += chunk.skipped

        labels = dict(columns)
        for name in (KEY, SPLIT, TOKEN):
            labels.pop(name, None)
        return Summary(
            rows=self.count,
            width=self.width,
            splits=splits,
            labels=list(labels),
            by_token=TOKEN in columns,
            skipped=skipped,
        )

    def _texts(self) -> Iterator[bytes]:
        self._lines.seek(0)
        for text in self._lines:
            if text.endswith(b"\n"):  # else it was being written when the process was killed
                yield text

    def _resume(self, is_same: bool) -> None:
        """Counts the rows of an earlier call, and cuts off all after them; of other samples or weights none
        stay.

        The newest batch is encoded again: so there is a sample to be read, whichever of the rest are bad.
        """
        texts, size = [], 0
        available = -1
        if is_same:
            available = os.fstat(self._features.fileno()).st_size
        for text in self._texts():
            line = json.loads(text)
            size += 4 * line["rows"] * line["width"]
            if size <= available:
                texts.append(text)

        for text in texts[:-1]:
            self._add(json.loads(text))
        self._features.truncate(4 * self.count * self.width)
        self._lines.truncate(sum(map(len, texts[:-1])))

    def _add(self, line: Mapping[str, Any]) -> None:
        self.count += line["rows"]
        self.width = line["width"]
        self.samples += line["samples"]


def _writer(path: Path) -> Callable[[BinaryIO, _Rows], None]:
    """Raises: UserError for a file that cannot be written."""
    writers = {".npz": _write_npz, ".csv": _write_csv, ".parquet": _write_parquet}
    if path.suffix.lower() not in writers:
        raise UserError(f"out={path}: the ending says the format; choose .npz, .csv or .parquet.")
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            message = f"out={path} needs pyarrow: pip install 'lacuna-ssl[parquet]', or choose .npz or .csv."
            raise UserError(message) from None
    return writers[path.suffix.lower()]


def _write_npz(stream: BinaryIO, rows: _Rows) -> None:
    """Arrays `features` (R, D) and a column each (R,)."""
    columns = _join_columns(rows.columns())
    arrays = {FEATURES: rows.features(), **columns}
    np.savez(stream, **arrays)  # pyright: ignore[reportArgumentType]  # (allow_pickle)


def _write_csv(stream: BinaryIO, rows: _Rows) -> None:
    """A header, then a line a row."""
    # File names that are not UTF-8 keep their bytes.
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    writer, names = csv.writer(text), list(_kinds(rows.columns()))
    writer.writerow([*names, *_names(rows.features())])

    for chunk in rows.chunks():
        columns = [chunk.column(name) for name in names]
        for cells, row in zip(zip(*columns, strict=True), chunk.features.tolist(), strict=True):
            writer.writerow([*cells, *map(NINE_DIGITS.format, row)])
    text.flush()
    text.detach()


def _write_parquet(stream: BinaryIO, rows: _Rows) -> None:
    """A column for every label and every feature; a row group a batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow_types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    kinds = _kinds(rows.columns())
    fields = []
    for name, kind in kinds.items():
        fields.append((name, arrow_types[kind]))
    for name in _names(rows.features()):
        fields.append((name, pa.float32()))
    schema = pa.schema(fields)

    with pq.ParquetWriter(stream, schema) as writer:
        for chunk in rows.chunks():
            columns = []
            for name in kinds:
                columns.append(list(map(_as_utf8, chunk.column(name))))
            writer.write_table(pa.table([*columns, *np.ascontiguousarray(chunk.features.T)], schema=schema))


def _as_utf8(value: str | int | float | None) -> str | int | float | None:
    """Bytes of a file name that are not UTF-8 as escapes (\\udcff): Parquet takes no others."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def _join(chunks: Sequence[Chunk]) -> Encoded:
    features, parts, skipped = [], [], []
    for chunk in chunks:
        features.append(chunk.features)
        parts.append(chunk.columns)
        skipped += chunk.skipped

    columns = _join_columns(parts)
    return Encoded(
        features=np.concatenate(features),
        keys=columns.pop(KEY),
        splits=columns.pop(SPLIT),
        tokens=columns.pop(TOKEN, None),
        labels=columns,
        skipped=skipped,
    )


def _join_columns(parts: Iterable[Columns]) -> dict[str, np.ndarray]:
    """Arrays (R,) of text, whole numbers or floats; an unknown value is "" or NaN."""
    parts, arrays = list(parts), {}
    for name, kind in _kinds(parts).items():
        values = []
        for part in parts:
            values += part.get(name, [None] * len(part[KEY]))
        unknown = {str: "", int: 0, float: float("nan")}[kind]
        arrays[name] = np.array([unknown if value is None else value for value in values], dtype=kind)
    return arrays


def _kinds(parts: Iterable[Columns]) -> dict[str, type]:
    """Of every column text, whole numbers (tokens alone) or floats."""
    kinds: dict[str, type] = {}
    for part in parts:
        for name, values in part.items():
            kinds.setdefault(name, int if name == TOKEN else float)
            if any(isinstance(value, str) for value in values):
                kinds[name] = str
    return kinds


def _pick(values: Mapping[str, Any], keys: Sequence[str]) -> list:
    return [values[key] for key in keys]


def _names(features: np.ndarray) -> list[str]:
    return [f"f{number}" for number in range(features.shape[1])]


def _label_columns(items: Sequence[Item], source: Source) -> dict[str, dict[str, str | float | None]]:
    """Values by key of every label: class names; numbers, in a column for each of several. None: unknown."""
    columns: dict[str, dict] = {}
    for item in items:
        for name, value in item.labels.items():
            if isinstance(value, int):
                columns.setdefault(_free(name), {})[item.key] = _class_name(source.classes.get(name, []), value)
                continue

            parts = source.questions.get(name, list(map(str, range(len(value)))))
            for part, number in zip(parts, value, strict=True):
                column = name
                if len(value) > 1:
                    column = f"{name}.{part}"
                if name in source.questions and number < 0:
                    number = None
                columns.setdefault(_free(column), {})[item.key] = number

    for values in columns.values():
        for item in items:
            values.setdefault(item.key, None)
    return columns


def _free(name: str) -> str:
    """A label's column, apart from those that every table has, and from parameters of `numpy.savez`."""
    if name in (KEY, SPLIT, TOKEN, FEATURES, "file", "allow_pickle") or re.fullmatch(r"f\d+", name):
        return f"{LABEL}.{name}"
    return name


def _class_name(names: Sequence[str], number: int) -> str | None:
    """The name of a class, or its number where it has none; None for -1, which is unknown."""
    if number < 0:
        return None
    if number < len(names):
        return names[number]
    return str(number)


def _token_rows(features: Features) -> tuple[Tensor, list[int], list[int]]:
    """All valid tokens (R, D), the sample of each in the batch, and its number in the sample."""
    x = features.tokens
    if features.sample is not None:
        owners = features.sample.cpu()
        starts = torch.searchsorted(owners, owners)  # the first token of the same sample
        return x[0], owners.tolist(), (torch.arange(len(owners)) - starts).tolist()

    valid = features.valid
    if valid is None:
        valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    owners, numbers = valid.nonzero(as_tuple=True)
    return x[valid], owners.tolist(), numbers.tolist()


def _token_splits(labels: TokenLabels, numbers: Tensor) -> list[str]:
    """The split of each token, "" of those in none."""
    splits = [""] * len(numbers)
    for name, flags in labels.splits.items():
        for row in flags.cpu()[numbers].nonzero()[:, 0].tolist():
            splits[row] = name
    return splits


def _token_values(labels: TokenLabels, numbers: Tensor) -> dict[str, list[str | float | None]]:
    """Columns of the tokens' labels: names of classes, or a number for each of several; None: unknown."""
    classes = labels.classes.cpu()[numbers]
    if classes.dim() == 1:
        return {LABEL: [_class_name(labels.names, value) for value in classes.tolist()]}

    columns: dict[str, list[str | float | None]] = {}
    for number, values in enumerate(classes.T.tolist()):
        name = _class_name(labels.names, number)
        columns[f"{LABEL}.{name}"] = list(map(_answer, values))
    return columns


def _answer(value: float) -> float | None:
    """A number of a token's label; None for a negative one, which is unknown."""
    if value < 0:
        return None
    return float(value)
