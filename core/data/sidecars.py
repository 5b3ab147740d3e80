"""Labels of an archive's samples in files beside them, as webdataset has them: 12.jpg with 12.cls, .json or .txt."""

import json
import posixpath
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from core.data import columns, tables
from core.data.archives import Member
from core.data.columns import UNKNOWN, Name

ENDINGS = (".cls", ".json", ".txt")  # the first that a sample has counts
JSON_LABELS = (*tables.LABELS, "cls", "y", "labels", "class_name", "class_id")
MOST_CHARACTERS = 60  # of a class name; more is a caption
MOST_EXAMPLES = 3  # that a note names


class Sidecars(NamedTuple):
    """Names by label for samples by path; the paths of the files that were read for it; and notes on them.

    `sources`: labels, with the kind of file that each comes from.
    """

    names: Mapping[str, Mapping[str, Name]]
    used: set[str]
    sources: list[tuple[str, str]]
    notes: list[str]


def read_labels(members: Mapping[str, Member], samples: Sequence[str]) -> Sidecars:
    """Labels of the samples (paths among `members`) out of files of the same stem.

    .cls: a class number or name. .json: a number, a name or a list of 0 and 1, alone or under one of
    `JSON_LABELS`. .txt: a class name where no more than half of them differ, else they are captions. A file
    that cannot be read as a label leaves it unknown, with a note.
    """
    paths = _by_sample(members, samples)
    names: dict[str, Mapping[str, Name]] = {}
    used: set[str] = set()
    unknown: dict[str, list[str]] = defaultdict(list)
    sources: list[tuple[str, str]] = []
    notes = []
    for ending in ENDINGS:
        labels = {}
        for sample, path in paths[ending].items():
            used.add(path)
            label = _read(members[path], ending)
            if label is None:
                unknown[ending].append(path)
            elif sample not in names:
                labels[sample] = label

        if ending == ".txt" and _are_captions(labels):
            reason = "are captions, no labels: most of them differ"
            notes.append(f"{len(labels)} texts beside samples (.txt) {reason}")
            continue
        for label in dict.fromkeys(chain.from_iterable(labels.values())):
            sources.append((label, f"{ending} files"))
        names |= labels

    for ending, examples in unknown.items():
        text = ", ".join(examples[:MOST_EXAMPLES])
        fault = "hold no label that can be read; it stays unknown"
        notes.append(f"{len(examples)} {ending} files {fault}: {text}")
    return Sidecars(names, used, sources, notes)


def _by_sample(members: Mapping[str, Member], samples: Sequence[str]) -> dict[str, dict[str, str]]:
    """By ending, the path of each sample's file: of the same stem, or of the stem up to its first dot."""
    paths: dict[str, dict[str, str]] = {ending: {} for ending in ENDINGS}
    for sample in samples:
        folder, name = posixpath.split(sample)
        stems = dict.fromkeys((posixpath.splitext(name)[0], name.split(".")[0]))
        for ending in ENDINGS:
            for stem in stems:
                path = posixpath.join(folder, stem + ending)
                if path in members:
                    paths[ending].setdefault(sample, path)
    return paths


def _read(member: Member, ending: str) -> Mapping[str, Name] | None:
    """Names by label out of one file; None where it holds none."""
    try:
        text = member.read().decode("utf-8-sig").strip()
    except Exception:  # binary, or damaged; an archive raises many kinds
        return None

    if ending == ".json":
        return _from_json(text)
    if not text.isprintable() or not text or text == UNKNOWN or len(text) > MOST_CHARACTERS:
        return None
    return {"label": text}


def _from_json(text: str) -> Mapping[str, Name] | None:
    try:
        value: Any = json.loads(text)
    except ValueError:
        return None

    if isinstance(value, dict):
        keys = [key for key in JSON_LABELS if key in value]
        if not keys:
            return None
        value = value[keys[0]]

    if isinstance(value, bool | int | float | str | list):
        try:
            labels = columns.read_labels("label", np.array([value]), 1)
        except ValueError:  # a list of lists
            return None
        return labels.names[0] if labels.names and labels.names[0] else None
    return None


def _are_captions(labels: Mapping[str, Mapping[str, Name]]) -> bool:
    """Whether more than half of the texts differ, and they are no numbers."""
    texts = {str(label["label"]) for label in labels.values()}
    return 2 * len(texts) > len(labels) and not all(text.isdecimal() for text in texts)
