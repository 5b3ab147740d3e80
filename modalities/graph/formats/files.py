"""Opens graphs of any form: finds out which form the files at a place have, and reads them."""

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal

from core.data.account import Leftovers, PassedOver
from core.errors import UserError
from modalities.graph.formats import attributed, npz_pt, ogb, planetoid, ppi, tables, tu
from modalities.graph.formats.collection import Collection, drop_empty
from modalities.graph.formats.tu import NodeFeatures

Form = Literal["planetoid", "tu", "ppi", "ogb", "file", "tables"]
USUAL_SCALING = {"planetoid": "sum"}
SUFFIXES = (*npz_pt.SUFFIXES, *attributed.SUFFIXES)
UNREAD = "no file that graphs of this form are read from"
NOT_DATA = ("pre_filter", "pre_transform")  # torch_geometric's notes beside its processed files
FORMS = (
    "Graphs of one place may have these forms: ind.<name>.graph and so on (Planetoid), <name>_A.txt (TU, also "
    "in a zip), train_graph.json and so on (PPI), num-node-list.csv.gz and so on (OGB), one .npz, .pt, .graphml, .gml, "
    ".gexf or .json, or edges.csv with features.csv."
)


def find_form(root: str | Path) -> tuple[Form, Path] | None:
    """The form of the graphs at `root`, and the file or folder that holds them; None where there are none."""
    path = Path(root)
    if planetoid.is_here(path):
        return "planetoid", path
    if tu.is_here(path):
        return "tu", path
    if ppi.is_here(path):
        return "ppi", path
    if ogb.is_here(path):
        return "ogb", path
    if path.suffix in SUFFIXES and path.is_file():
        return "file", path

    # A folder with a single file of graphs, as Amazon's are distributed and torch_geometric's processed.
    if path.is_dir():
        graphs = graph_files(path)
        if len(graphs) == 1:
            return "file", graphs[0]
        if graphs:
            return None
    if tables.edge_file(path) is not None:
        return "tables", path
    return None


def graph_files(folder: Path) -> list[Path]:
    """The files of graphs in a folder, in its `processed` or in its `raw`: those of the first that has some."""
    for place in (folder / "processed", folder, folder / "raw"):
        paths = []
        for path in sorted(place.glob("*")):
            is_data = path.suffix in SUFFIXES and path.stem not in NOT_DATA
            if is_data and (path.suffix != ".json" or attributed.is_graph(path.read_bytes())):
                paths.append(path)
        if paths:
            return paths
    return []


@lru_cache(maxsize=16)
def read(
    root: str,
    *,
    directed: bool = False,
    scaling: Literal["auto", "sum", "standard", "none"] = "auto",
    loop: tuple[int, ...] | None = None,
    features: NodeFeatures = "auto",
    degrees: int | None = None,
) -> Collection:
    """The graphs at `root`, in whatever form `find_form` finds; those without a node are left out and named.

    `directed`: False adds the reverse of every edge of tables, of JSON, GraphML, GML and GEXF, of OGB's and
    of npz files in CSR form.
    `scaling`: of features, see `collection.scale_features`; "auto": "sum" for Planetoid, "none" for the other
    forms.
    `loop`: edge attributes of self-loops.
    `features`: of nodes of TU data sets, see `tu.read`.
    `degrees`: columns of one-hot degrees where nodes have no features; None: as many as the data need.
    Raises: UserError naming the file and its fault.
    """
    if not Path(root).exists():
        raise UserError(f"data.root: {root} does not exist.")
    place = find_form(root)
    if place is None:
        raise UserError(f"data.root: {root} holds no graphs of a known form. {FORMS}")

    form, path = place
    if scaling == "auto":
        scaling = USUAL_SCALING.get(form, "none")
    if features != "auto" and form != "tu":
        raise UserError(f"data.source.features={features} is for TU data sets, and {root} is none.")

    # Of TU data sets and files of torch_geometric, both directions are listed.
    if form == "planetoid":
        data = planetoid.read(path, scaling)
    elif form == "tu":
        data = tu.read(path, features, scaling)
    elif form == "ppi":
        data = ppi.read(path, scaling)
    elif form == "ogb":
        data = ogb.read(path, directed, scaling)
    elif form == "tables":
        data = tables.read(path, directed, scaling)
    else:
        options = {"directed": directed, "scaling": scaling, "loop": loop, "degrees": degrees}
        data = parse(path.read_bytes(), path.suffix, where=str(path), **options)
        data = replace(data, provenance=replace(data.provenance, files=[path.name]))

    unread = _unread_files(Path(root), data.provenance.files)
    provenance = replace(data.provenance, passed_over=[*data.provenance.passed_over, *unread])
    try:
        return drop_empty(replace(data, provenance=provenance))
    except UserError as error:
        raise UserError(f"data.root: {root}: {error}") from None


def _unread_files(root: Path, files: Sequence[str]) -> list[PassedOver]:
    """Files in a folder or zip beside those of these names, by their endings."""
    names: list[str] = []
    if root.is_dir():
        names = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file()]
    elif root.suffix == ".zip":
        with zipfile.ZipFile(root) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]

    leftovers = Leftovers()
    endings = tuple(map("/{}".format, files))
    for name in names:
        if not f"/{name}".endswith(endings):
            leftovers.add(UNREAD, PurePosixPath(name).suffix.lower() or PurePosixPath(name).name, name)
    return leftovers.groups()


def parse(
    content: bytes,
    suffix: str,
    *,
    where: str,
    directed: bool = False,
    scaling: Literal["sum", "standard", "none"] = "none",
    loop: Sequence[int] | None = None,
    degrees: int | None = None,
) -> Collection:
    """The graphs in a file of this content and suffix; the other arguments are those of `read`.

    Raises: UserError naming `where`.
    """
    if suffix in attributed.SUFFIXES:
        return attributed.parse(content, suffix, where=where, directed=directed, scaling=scaling, degrees=degrees)
    return npz_pt.parse(content, suffix, where=where, directed=directed, scaling=scaling, loop=loop, degrees=degrees)
