"""A queue of runs from a file of entries: by turns, the first seed of every entry before the second of any."""

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml


def queue(text: str, file: Path, runs: str) -> tuple[Path, Iterator[tuple[str, dict, int]]]:
    """The folder for runs, and (name, entry, seed) of what the command line asks for. `text`: for --help."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"entries of {file.name}; default all")
    parser.add_argument("--runs", type=Path, default=Path(runs))
    parser.add_argument("--seeds", type=int, help="at most so many")
    args = parser.parse_args()
    entries = yaml.safe_load(file.read_text())
    if unknown := set(args.names) - set(entries):
        parser.error(f"no such entry: {', '.join(sorted(unknown))}; there are {', '.join(entries)}")
    chosen = {name: entry for name, entry in entries.items() if not args.names or name in args.names}
    return args.runs, turns(chosen, args.seeds)


def keep(record: Mapping, file: Path, runs: Path, public: str) -> None:
    """Writes an entry's record, places of this machine under their public names (`public`: of `runs`)."""
    text = json.dumps(record, indent=1)
    places = {os.environ.get("DATA_DIR", ""): "$DATA_DIR", str(runs.resolve()): public, str(runs): public}
    for place, name in places.items():
        text = text.replace(place, name) if place else text
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


def turns(entries: Mapping[str, dict], most: int | None = None) -> Iterator[tuple[str, dict, int]]:
    counts = {name: min(entry["seeds"], most or entry["seeds"]) for name, entry in entries.items()}
    for seed in range(max(counts.values(), default=0)):
        for name, entry in entries.items():
            if seed < counts[name]:
                yield name, entry, seed
