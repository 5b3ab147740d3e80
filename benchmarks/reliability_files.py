"""Files for `benchmarks.reliability`: tiny samples of every format, damage, odd names and layouts of data sets."""

import gzip
import io
import json
import os
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cache
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from modalities.graph.formats.geometric import geometric

SIDE, FRAMES, CLASSES = 32, 8, ("cat", "dog")
PER_FORMAT = 4  # samples of a format, made once
Rng = np.random.Generator


@dataclass(frozen=True)
class Content:
    """A sample's bytes, and the values that reading them gives: uint8 (3, …) of pictures and films.

    Of graphs: features beside the adjacency, (N, C + N) (`graph_values`).
    """

    suffix: str
    content: bytes
    _: KW_ONLY
    values: np.ndarray


@dataclass
class File:
    """One sample of a data set: its name, its content before and after damage, and where it was written.

    `place`: path, and name inside the archive or row of an array file (None: a loose file).
    """

    name: str
    original: Content
    _: KW_ONLY
    content: bytes
    damage: str
    label: str
    split: str
    place: tuple[str, str | None] = ("", None)


@dataclass
class Layout:
    """A data set on disk. `root`: value of data.root; `containers`: lists, archives and arrays that hold the samples.

    `others`: number of files that are no samples. `tells_label`, `tells_split`: whether it has those of every file.
    """

    root: str
    _: KW_ONLY
    containers: list[Path] = field(default_factory=list)
    others: int = 0
    tells_label: bool = False
    tells_split: bool = False


# Content ---------------------------------------------------------------------------------------------------------


def picture(suffix: str, rng: Rng) -> Content:
    """A picture of smooth colours and noise, in colour or grey; its values are Pillow's."""
    ramp = np.linspace(0, 200, SIDE)[:, None, None] + rng.integers(0, 50, (SIDE, SIDE, 3))
    pixels = ramp.astype(np.uint8)
    if suffix in (".npy", ".npz"):
        return array_content(suffix, pixels, pixels.transpose(2, 0, 1))

    image = Image.fromarray(pixels)
    if rng.random() < 0.3 and suffix in (".png", ".jpg", ".tif"):
        image = image.convert("L")
    buffer = io.BytesIO()
    options = {"lossless": True} if suffix == ".webp" else {}
    image.save(buffer, Image.registered_extensions()[suffix], **options)

    with Image.open(io.BytesIO(buffer.getvalue())) as decoded:
        values = np.array(decoded.convert("RGB")).transpose(2, 0, 1)
    return Content(suffix, buffer.getvalue(), values=values)


def film(suffix: str, rng: Rng) -> Content:
    """A film of eight frames; its values are those of its frames decoded one after another."""
    frames = rng.integers(0, 50, (FRAMES, SIDE, SIDE, 3)) + np.arange(FRAMES)[:, None, None, None] * 25
    frames = frames.astype(np.uint8)
    if suffix in (".npy", ".npz"):
        return array_content(suffix, frames, frames.transpose(3, 0, 1, 2))

    codec, pixels = FILM_CODECS[suffix]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=FILM_FORMATS.get(suffix, suffix[1:])) as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, pixels
        stream.codec_context.thread_count = 1
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())

    with av.open(io.BytesIO(buffer.getvalue())) as file:
        decoded = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    return Content(suffix, buffer.getvalue(), values=np.stack(decoded).transpose(3, 0, 1, 2))


def graph(suffix: str, rng: Rng) -> Content:
    """A connected graph of five to nine nodes with three features each, its edges in both directions."""
    nodes = int(rng.integers(5, 10))
    x = rng.random((nodes, 3), dtype=np.float32)
    adjacency = rng.random((nodes, nodes)) < 0.15
    adjacency[np.arange(nodes), np.arange(nodes) - 1] = True
    edges = np.argwhere((adjacency | adjacency.T) & ~np.eye(nodes, dtype=bool)).T

    buffer = io.BytesIO()
    if suffix == ".npz":
        np.savez(buffer, x=x, edge_index=edges)
    else:
        torch.save(geometric().data.Data(x=torch.from_numpy(x), edge_index=torch.from_numpy(edges)), buffer)
    return Content(suffix, buffer.getvalue(), values=graph_values(x, edges))


def graph_values(x: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Features (N, C) beside the number of edges from each node to each, (N, C + N); every node has a loop."""
    counts = np.zeros((len(x), len(x)), np.float32)
    np.add.at(counts, tuple(edges[:, edges[0] != edges[1]]), 1)
    return np.concatenate([x, counts + np.eye(len(x), dtype=np.float32)], 1)


def graph_parts(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, C) and edges (2, E) without loops: the inverse of `graph_values`."""
    columns = values.shape[1] - len(values)
    counts = values[:, columns:] - np.eye(len(values))
    return values[:, :columns], np.argwhere(counts > 0).T


def array_content(suffix: str, stored: np.ndarray, values: np.ndarray) -> Content:
    buffer = io.BytesIO()
    if suffix == ".npy":
        np.save(buffer, stored)
    else:
        np.savez(buffer, stored)
    return Content(suffix, buffer.getvalue(), values=values)


FILM_CODECS = {
    ".mp4": ("libx264", "yuv420p"),
    ".mov": ("mpeg4", "yuv420p"),
    ".mkv": ("ffv1", "yuv444p"),
    ".avi": ("mjpeg", "yuvj420p"),
    ".webm": ("libvpx", "yuv420p"),
    ".ts": ("mpeg2video", "yuv420p"),
    ".gif": ("gif", "rgb8"),
}
FILM_FORMATS = {".mkv": "matroska", ".ts": "mpegts"}
PICTURE_SUFFIXES = (".png", ".jpg", ".bmp", ".tif", ".webp", ".gif", ".ppm", ".npy", ".npz")
MAKERS: Mapping[str, tuple[Callable[[str, Rng], Content], Sequence[str]]] = {
    "image": (picture, PICTURE_SUFFIXES),
    "video": (film, (*FILM_CODECS, ".npy", ".npz")),
    "graph": (graph, (".npz", ".pt")),
}


@cache
def contents(modality: str, suffix: str) -> list[Content]:
    maker, suffixes = MAKERS[modality]
    number = list(suffixes).index(suffix)
    return [maker(suffix, np.random.default_rng([number, index])) for index in range(PER_FORMAT)]


# Damage ----------------------------------------------------------------------------------------------------------


def truncated(content: bytes, rng: Rng) -> bytes:
    return content[: int(rng.integers(1, max(2, len(content))))]


def flipped(content: bytes, rng: Rng) -> bytes:
    """One to eight bits turned."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def zeroed(content: bytes, rng: Rng) -> bytes:
    """A stretch of up to a third set to zero."""
    start = int(rng.integers(len(content)))
    length = int(rng.integers(1, 2 + len(content) // 3))
    return content[:start] + bytes(len(content[start : start + length])) + content[start + length :]


def empty(content: bytes, rng: Rng) -> bytes:
    return b""


def appended(content: bytes, rng: Rng) -> bytes:
    return content + rng.bytes(int(rng.integers(1, 2000)))


def web_page(content: bytes, rng: Rng) -> bytes:
    return b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n"


DAMAGE: Mapping[str, Callable[[bytes, Rng], bytes]] = {
    "truncated": truncated,
    "bits flipped": flipped,
    "zeroed": zeroed,
    "empty": empty,
    "garbage appended": appended,
    "a web page": web_page,
}
OTHER_SUFFIX = "another extension"
MISSING = "missing"  # a container
NONE = "none"


# Names -----------------------------------------------------------------------------------------------------------

NAMES: Sequence[str] = (
    *("img_{}", "with space {}", "кот {}", unicodedata.normalize("NFC", "café {}"), "日本 {}", "😀{}", "a,b;{}"),
    *('quote"{}', "it's {}", "{}.final.v2", "-dash{}", "~tilde{}", "[{}]", "100%{}", "#{}", "x" * 150 + "{}"),
    *("{}=1", "a&b{}", "$HOME{}", "two  spaces{}", "{} ", "back\\slash{}", "line\nbreak{}", "train_or_test{}"),
)
DECOMPOSED = unicodedata.normalize("NFD", "café {}")
NOT_UTF8 = os.fsdecode(b"caf\xe9 ") + "{}"


def is_utf8(name: str) -> bool:
    """Whether a list can name the file."""
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def draw_files(modality: str, count: int, rng: Rng, layout: str) -> list[File]:
    """Samples of a data set: half of the sets with odd names, each third sample damaged."""
    suffixes = MAKERS[modality][1]
    patterns = [*NAMES, DECOMPOSED, NOT_UTF8]
    pattern = NAMES[0] if rng.random() < 0.5 else patterns[int(rng.integers(len(patterns)))]
    if layout == "text list":  # a name on one line
        pattern = pattern.replace("\n", " ")
    if layout in ("zip", "zip with folders"):
        pattern = pattern.encode("utf-8", "replace").decode()

    # Array files of more than one kind would be told apart by names, so that a set holds one format of them.
    format_of_set = str(rng.choice(suffixes))
    is_mixed = rng.random() < 0.3
    files = []
    for number in range(count):
        suffix = str(rng.choice(suffixes)) if is_mixed else format_of_set
        original = contents(modality, suffix)[int(rng.integers(PER_FORMAT))]
        damage = NONE if rng.random() < 0.65 else str(rng.choice([*DAMAGE, OTHER_SUFFIX]))
        content, name_suffix = original.content, suffix
        if damage == OTHER_SUFFIX:
            name_suffix = str(rng.choice(suffixes))
        elif damage != NONE:
            content = DAMAGE[damage](content, rng)
        if rng.random() < 0.1:
            name_suffix = name_suffix.upper()

        files.append(
            File(
                pattern.format(number) + name_suffix,
                original,
                content=content,
                damage=damage,
                label=CLASSES[number % 2],
                split="test" if number % 3 == 2 else "train",
            )
        )
    return files


# Layouts ---------------------------------------------------------------------------------------------------------


def write_loose(folder: Path, files: Sequence[File], *levels: str) -> Layout:
    """Files in folders named by these attributes of each."""
    for file in files:
        path = folder.joinpath(*[getattr(file, level) for level in levels], file.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        file.place = (str(path), None)
    return Layout(str(folder), tells_label="label" in levels, tells_split="split" in levels)


def flat(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    return write_loose(folder, files)


def class_folders(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    return write_loose(folder, files, "label")


def split_folders(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    return write_loose(folder, files, "split", "label")


def globbed(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    layout = write_loose(folder, files, "label")
    layout.root = str(folder / "**" / "*.*")
    return layout


def csv_list(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    """A list with a header, as pandas quotes it; the root is the folder or the list."""
    layout = write_loose(folder / "files", files)
    layout.tells_label = layout.tells_split = True
    lines = ["path,label,split"]
    for file in files:
        lines.append(as_csv([f"files/{file.name}", file.label, file.split]))
    return with_list(layout, folder, folder / "list.csv", lines, rng)


def text_list(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    """Lines of path and class number."""
    layout = write_loose(folder / "files", files)
    layout.tells_label = True
    lines = [f"files/{file.name} {CLASSES.index(file.label)}" for file in files]
    return with_list(layout, folder, folder / "list.txt", lines, rng)


def split_lists(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    """A list without a header for each split, in the root: path and class name as .csv, or number as .txt."""
    layout = write_loose(folder / "files", files)
    layout.tells_label = layout.tells_split = True
    suffix, test = str(rng.choice([".csv", ".txt"])), str(rng.choice(["test", "val"]))
    if any("\n" in file.name for file in files):
        suffix = ".csv"
    for split, stem in (("train", "train"), ("test", test)):
        lines = []
        for file in files:
            name = f"files/{file.name}"
            line = f"{name} {CLASSES.index(file.label)}"
            if suffix == ".csv":
                line = as_csv([name, file.label])
            if file.split == split:
                lines.append(line)
        layout.containers.append(write_list(folder / f"{stem}{suffix}", lines))
    layout.root = str(folder)
    return layout


def metadata(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    """Hugging Face's: a metadata.csv or .jsonl in the folder of each split, or of all files."""
    has_splits = bool(rng.random() < 0.5)
    levels = ["split"] if has_splits else []
    layout = write_loose(folder, files, *levels)
    layout.tells_label = True
    suffix = str(rng.choice([".csv", ".jsonl"]))

    by_folder: dict[Path, list[File]] = {}
    for file in files:
        by_folder.setdefault(Path(file.place[0]).parent, []).append(file)
    for place, part in by_folder.items():
        rows = [(file.name, file.label) for file in part]
        lines = ["file_name,label", *map(as_csv, rows)]
        if suffix == ".jsonl":
            lines = [json.dumps({"file_name": name, "label": label}) for name, label in rows]
        layout.containers.append(write_list(place / f"metadata{suffix}", lines))
    return layout


def as_csv(cells: Sequence[str]) -> str:
    """Quoted cells."""
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    return ",".join(quoted)


def write_list(path: Path, lines: Sequence[str]) -> Path:
    path.write_bytes("\n".join([*lines, ""]).encode("utf-8", "surrogateescape"))
    return path


def with_list(layout: Layout, folder: Path, path: Path, lines: Sequence[str], rng: Rng) -> Layout:
    layout.containers = [write_list(path, lines)]
    layout.root = str(path) if rng.random() < 0.5 or path.suffix == ".txt" else str(folder)
    return layout


def tar(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    return write_tars(folder, {"set.tar": files})


def compressed_tar(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    return write_tars(folder, {"set.tar.gz": files}, folders=True)


def tar_with_labels(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    return write_tars(folder, {"set.tar": files}, sidecars=True)


def shards(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    by_split = {}
    for split in ("train", "test"):
        by_split[f"{split}-000.tar"] = [file for file in files if file.split == split]
    layout = write_tars(folder, by_split, folders=True)
    layout.tells_split = True
    return layout


def write_tars(
    folder: Path, archives: Mapping[str, Sequence[File]], *, folders: bool = False, sidecars: bool = False
) -> Layout:
    paths = []
    for name, files in archives.items():
        path = folder / name
        members = {}
        for file in files:
            member = f"{file.label}/{file.name}" if folders else file.name
            members[member] = file.content
            if sidecars:
                members[f"{os.path.splitext(file.name)[0]}.cls"] = str(CLASSES.index(file.label)).encode()
            file.place = (str(path), member)
        path.write_bytes(tar_bytes(members, is_compressed=name.endswith(".gz")))
        paths.append(path)
    root = paths[0] if len(paths) == 1 else folder
    return Layout(str(root), containers=paths, tells_label=folders or sidecars)


def tar_bytes(members: Mapping[str, bytes], *, is_compressed: bool = False) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    if is_compressed:
        return gzip.compress(buffer.getvalue(), mtime=0)
    return buffer.getvalue()


def zip_file(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    return write_zip(folder, files, lambda file: file.name)


def zip_with_folders(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    layout = write_zip(folder, files, lambda file: f"{file.split}/{file.label}/{file.name}")
    layout.tells_label = layout.tells_split = True
    return layout


def write_zip(folder: Path, files: Sequence[File], name_of: Callable[[File], str]) -> Layout:
    path = folder / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.writestr(zipfile.ZipInfo(name_of(file)), file.content)
            file.place = (str(path), name_of(file))
    return Layout(str(path), containers=[path])


def stack(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    """A .npy of one row for each sample, channels last."""
    path = folder / "stack.npy"
    np.save(path, as_stack(files))
    place_rows(path, files)
    return Layout(str(path), containers=[path])


def labelled_stack(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    """A .npz of samples and labels of a random shape, among them shapes that fit nothing."""
    path = folder / "stack.npz"
    count = len(files)
    labels = [
        rng.integers(0, 2, count),
        rng.integers(0, 2, (count, 1)),
        rng.integers(0, 2, (count, 5)),
        np.eye(4)[rng.integers(0, 4, count)],
        rng.random(count),
        rng.random((3, 7)),
        np.array(5),
    ][int(rng.integers(7))]
    np.savez(path, images=as_stack(files), labels=labels)
    place_rows(path, files)
    return Layout(str(path), containers=[path])


def split_stacks(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    """A .npz with an array for each split, as MedMNIST has them."""
    path = folder / "set.npz"
    arrays = {}
    for split in ("train", "test"):
        part = [file for file in files if file.split == split]
        arrays |= {f"{split}_images": as_stack(part), f"{split}_labels": rng.integers(0, 2, (len(part), 14))}
        place_rows(path, part, f"{split}_images#")
    np.savez(path, **arrays)
    return Layout(str(path), containers=[path])


def as_stack(files: Sequence[File]) -> np.ndarray:
    """Values (N, …, 3); the rows are undamaged whatever the file's damage."""
    rows = [np.moveaxis(file.original.values, 0, -1) for file in files]
    return np.stack(rows)


def place_rows(path: Path, files: Sequence[File], prefix: str = "") -> None:
    for row, file in enumerate(files):
        file.damage, file.place = NONE, (str(path), f"{prefix}{row}")


LOOSE = {
    "flat": flat,
    "class folders": class_folders,
    "split folders": split_folders,
    "glob": globbed,
}
HELD = {
    "csv list": csv_list,
    "text list": text_list,
    "lists by split": split_lists,
    "metadata": metadata,
    "tar": tar,
    "compressed tar": compressed_tar,
    "tar with labels": tar_with_labels,
    "shards": shards,
    "zip": zip_file,
    "zip with folders": zip_with_folders,
}
STACKS = {"array": stack, "labelled arrays": labelled_stack, "arrays by split": split_stacks}


def layouts(modality: str) -> Mapping[str, Callable[[Path, Sequence[File], Rng], Layout]]:
    if modality == "graph":
        return {**LOOSE, **HELD}
    return {**LOOSE, **HELD, **STACKS}


def add_others(folder: Path, layout: Layout, rng: Rng) -> None:
    """Files that are no samples, as they lie about in people's folders."""
    for name, content in (("README.md", b"# Data\n"), ("Thumbs.db", b"\xd0\xcf\x11\xe0"), (".DS_Store", b"\0\0\0\1")):
        if rng.random() < 0.3:
            (folder / name).write_bytes(content)
            layout.others += layout.root == str(folder)


def damage_containers(layout: Layout, rng: Rng) -> str:
    """Damages one of the lists, archives, arrays or tables; returns the kind of damage."""
    damage = str(rng.choice([*DAMAGE, MISSING]))
    path = layout.containers[int(rng.integers(len(layout.containers)))]
    if damage == MISSING:
        path.unlink()
        return damage
    path.write_bytes(DAMAGE[damage](path.read_bytes(), rng))
    return damage
