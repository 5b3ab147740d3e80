"""Collections of graphs in one place for `benchmarks.reliability`: TU, Planetoid, and tables of nodes and edges.

Each layout writes the graphs of its files anew and sets the values that reading them gives.
"""

import csv
import io
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from benchmarks.reliability_files import CLASSES, NONE, File, Layout, Rng, graph_parts, graph_values

MEMBER = "u:auto:{}"  # of an item, by the number of its graph
ENDS = (("source", "target"), ("src", "dst"), ("from", "to"), ("Source", "Target"), ("u", "v"), ("head", "tail"))
WORDS = ("alice", "bob", "carol", "dan", "eve", "frank", "grace", "heidi", "ivan", "judy")


def tu_folder(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    paths = []
    for name, text in tu_texts(folder, files, rng).items():
        path = folder / name
        path.write_text(text)
        paths.append(path)
    return Layout(str(folder), containers=paths, tells_label=True)


def tu_zip(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    """As they are distributed: the texts in a folder, and a README in Latin-1."""
    path = folder / "MUTANTS.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("MUTANTS/README.txt", "Kasteleyn and Größe\n".encode("latin-1"))
        for name, text in tu_texts(path, files, rng).items():
            archive.writestr(f"MUTANTS/{name}", text)
    return Layout(str(path), containers=[path], tells_label=True)


def tu_texts(root: Path, files: Sequence[File], rng: Rng) -> dict[str, str]:
    """The texts of a TU data set: nodes and graphs are numbered from 1, and edges listed in both directions."""
    kinds = str(rng.choice(["labels", "attributes", "both", "none"]))
    edges, indicator, attributes, labels, degrees = [], [], [], [], []
    start = 1
    for number, file in enumerate(files, 1):
        x, links = graph_parts(file.original.values)
        edges.append(links + start)
        indicator += [number] * len(x)
        attributes.append(x)
        labels.append(rng.choice([1, 4, 7], len(x)))
        degrees.append(np.bincount(links[1], minlength=len(x)))
        start += len(x)

    texts = {
        "A": "".join(f"{source}, {target}\n" for source, target in np.concatenate(edges, 1).T),
        "graph_indicator": as_lines(indicator),
        "graph_labels": as_lines([2 * CLASSES.index(file.label) - 1 for file in files]),
    }
    features = [np.eye(max(map(max, degrees)) + 1)[degree] for degree in degrees]
    if kinds in ("attributes", "both"):
        features = attributes
        texts["node_attributes"] = "".join(", ".join(map(str, row)) + "\n" for row in np.concatenate(attributes))
    if kinds in ("labels", "both"):
        values = np.unique(np.concatenate(labels))
        features = [np.equal.outer(label, values) for label in labels]
        texts["node_labels"] = as_lines(np.concatenate(labels))

    for number, (file, x) in enumerate(zip(files, features, strict=True)):
        place_graph(file, root, x, links=graph_parts(file.original.values)[1], member=MEMBER.format(number))
    return {f"MUTANTS_{name}.txt": text for name, text in texts.items()}


def planetoid(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    """One graph: words of 0 and 1 are scaled to a sum of 1; the last nodes are for testing, in any order."""
    file = files[0]
    _, links = graph_parts(file.original.values)
    count = file.original.values.shape[0]
    words = rng.integers(0, 2, (count, 6)).astype(np.float32)
    words[:, 0] = 1
    classes = np.eye(2, dtype=np.int32)[np.arange(count) % 2]

    test = rng.permutation(np.arange(count - 2, count))
    parts = {
        "x": csr_matrix(words[:2]),
        "tx": csr_matrix(words[test]),
        "allx": csr_matrix(words[:-2]),
        "y": classes[:2],
        "ty": classes[test],
        "ally": classes[:-2],
        "graph": {node: links[1, links[0] == node].tolist() for node in range(count)},
    }
    protocol = int(rng.choice([0, 2, 4, 5]))
    contents = {"test.index": as_lines(test).encode()}
    for part, values in parts.items():
        contents[part] = pickle.dumps(values, protocol=protocol)

    paths = []
    for part, content in contents.items():
        paths.append(folder / f"ind.papers.{part}")
        paths[-1].write_bytes(content)
    scaled = words / words.sum(1, keepdims=True)
    place_graph(file, folder, scaled, links=links, member=MEMBER.format(0))
    return Layout(str(folder), containers=paths)


def node_and_edge_tables(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    """One graph: named columns, features joined by ids that are words, or whole numbers of any size."""
    file = files[0]
    x, links = graph_parts(file.original.values)
    ids = node_ids(len(x), rng)
    nodes = [["id", "f0", "f1", "f2", "label", "split"]]
    for node, row in enumerate(x):
        nodes.append([ids[node], *map(str, row), CLASSES[node % 2], ("train", "test")[node % 2]])
    if rng.random() < 0.5:  # columns in another order
        x, nodes = x[:, ::-1], [row[::-1] for row in nodes]

    header = [*ENDS[int(rng.integers(len(ENDS)))]]
    edges = []
    for source, target in rng.permutation(links[:, links[0] < links[1]].T):
        edges.append([ids[source], ids[target]])
    if rng.random() < 0.5:  # a number of each row, and a weight
        header = ["id", *header, "weight"]
        edges = [[str(number), *row, f"{rng.random():.3f}"] for number, row in enumerate(edges)]

    delimiter, suffix = ((",", ".csv"), ("\t", ".tsv"), (";", ".csv"))[int(rng.integers(3))]
    paths = [folder / f"nodes{suffix}", folder / f"edges{suffix}"]
    paths[0].write_text(as_table(nodes, delimiter))
    paths[1].write_text(as_table([header, *edges], delimiter))
    place_graph(file, folder, x, links=links, member=MEMBER.format(0))
    return Layout(str(folder), containers=paths)


def edge_list(folder: Path, files: Sequence[File], rng: Rng) -> Layout:
    """One graph of pairs of ids in one file; nodes are numbered in the order of their ids, features are in-degrees."""
    file = files[0]
    _, links = graph_parts(file.original.values)
    count = file.original.values.shape[0]
    links = rng.permutation(links[:, links[0] < links[1]].T).T
    flips = rng.random(links.shape[1]) < 0.5
    links[:, flips] = links[::-1, flips]
    ids = sorted(node_ids(count, rng), key=lambda name: (0, int(name)) if name.isdecimal() else (1, name))

    suffix, mark = ((".edgelist", " "), (".txt", " "), (".csv", ","), (".tsv", "\t"), (".edges", " "))[rng.integers(5)]
    remark = "# pairs of nodes\n" if rng.random() < 0.5 else ""
    path = folder / f"links{suffix}"
    path.write_text(remark + "".join(f"{ids[source]}{mark}{ids[target]}\n" for source, target in links.T))

    degree = np.bincount(links[1], minlength=count)
    both_ways = np.concatenate([links, links[::-1]], 1)
    root = path if rng.random() < 0.5 else folder
    place_graph(file, root, np.eye(degree.max() + 1)[degree], links=both_ways, member=MEMBER.format(0))
    return Layout(str(root), containers=[path])


def node_ids(count: int, rng: Rng) -> list[str]:
    """Ids of nodes by number: the numbers, words, or whole numbers of up to 64 bits."""
    kind = rng.integers(3)
    if kind == 0:
        return list(map(str, range(count)))
    if kind == 1:
        return rng.permutation(WORDS)[:count].tolist()
    return list(map(str, rng.choice(2**62, count, replace=False)))


def place_graph(file: File, root: Path, x: np.ndarray, *, links: np.ndarray, member: str) -> None:
    """Sets the values that reading the file's graph gives, and its place; damage is that of the place alone."""
    file.original = replace(file.original, values=graph_values(x.astype(np.float32), links))
    file.damage, file.place = NONE, (str(root), member)


def as_lines(values: Sequence[int] | np.ndarray) -> str:
    return "".join(f"{value}\n" for value in values)


def as_table(rows: Sequence[Sequence[str]], delimiter: str) -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return stream.getvalue()


COLLECTIONS: Mapping = {
    "TU folder": tu_folder,
    "TU zip": tu_zip,
    "Planetoid": planetoid,
    "node and edge tables": node_and_edge_tables,
    "edge list": edge_list,
}
SINGLE = ("Planetoid", "node and edge tables", "edge list")  # of one graph
