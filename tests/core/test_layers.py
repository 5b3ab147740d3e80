"""Layers: inside `core` a file imports only files of lines above its own; `core` never imports a modality."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Top to bottom as values flow: each line may import the lines above it, and its own.
LAYERS = """
errors renames plugins
files seeding annotations trees inert_pickle
checkpoint_files
settings tokens
config saved catalogue
cli
tokenizers maskers embeddings encoder decoders teachers targets losses objectives sparse
methods
data
world
engine
interop huggingface export
initial_weights
encoding
runs
reconstruction evaluation
defaults
training
report
train evaluate compare encode reconstruct convert explain
"""

ORDER = {name: number for number, line in enumerate(LAYERS.split("\n")) for name in line.split()}


def imports(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    return modules


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def files(package: str) -> dict[str, Path]:
    return {module_of(path): path for path in sorted((ROOT / package).rglob("*.py"))}


def test_every_file_of_core_has_a_layer():
    names = {module.split(".")[1] for module in files("core") if module != "core"}
    assert names == set(ORDER)


def test_layers_import_downwards_only():
    wrong = []
    for module, path in files("core").items():
        if module == "core":
            continue
        for target in imports(path):
            parts = target.split(".")
            if parts[0] == "core" and len(parts) > 1 and ORDER.get(parts[1], 0) > ORDER[module.split(".")[1]]:
                wrong.append(f"{module} imports {target}")
    assert not wrong


def test_core_knows_no_modality():
    wrong = [module for module, path in files("core").items() if any(m.startswith("modalities") for m in imports(path))]
    assert not wrong


def test_no_files_import_each_other_in_a_circle():
    known = files("core") | files("modalities")
    graph = defaultdict(set)
    for module, path in known.items():
        graph[module] = {target for target in imports(path) if target in known and target != module}
        # A package's own file is a façade: importing a file of the package goes through it, and is no circle.
        graph[module] = {t for t in graph[module] if known[t].name != "__init__.py"}

    assert not circle(graph)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of some circle, or none."""
    done: set[str] = set()

    def walk(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return trail[trail.index(module) :]
        if module in done:
            return []
        for target in sorted(graph[module]):
            if found := walk(target, [*trail, module]):
                return found
        done.add(module)
        return []

    for module in sorted(graph):
        if found := walk(module, []):
            return found
    return []


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
