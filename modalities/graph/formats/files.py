"""Opens graphs of any form: finds out which form the files at a place have, and reads them."""

from functools import lru_cache
from pathlib import Path
from typing import Literal

from core.errors import UserError
from modalities.graph.formats import npz_pt, planetoid, ppi, tables, tu
from modalities.graph.formats.collection import Collection

Form = Literal["planetoid", "tu", "ppi", "file", "tables"]
USUAL_SCALING = {"planetoid": "sum"}
FORMS = (
    "Graphs of one place may have these forms: ind.<name>.graph and so on (Planetoid), <name>_A.txt (TU, also "
    "in a zip), train_graph.json and so on (PPI), one .npz, a .pt, or edges.csv with features.csv."
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
    if path.suffix in npz_pt.SUFFIXES and path.is_file():
        return "file", path
    if tables.is_here(path):
        return "tables", path

    # A folder with a single array file, as Amazon's graphs are distributed.
    arrays = sorted(path.glob("raw/*.npz")) or sorted(path.glob("*.npz"))
    if len(arrays) == 1:
        return "file", arrays[0]
    return None


@lru_cache(maxsize=8)
def read(
    root: str,
    *,
    directed: bool = False,
    scaling: Literal["auto", "sum", "standard", "none"] = "auto",
    loop: tuple[int, ...] | None = None,
) -> Collection:
    """The graphs at `root`, in whatever form `find_form` finds.

    `directed`: False adds the reverse of every edge of tables and of npz files in CSR form.
    `scaling`: of features, see `collection.scale_features`; "auto": "sum" for Planetoid, "none" for the other
    forms.
    `loop`: edge attributes of self-loops.
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

    # Of TU data sets the features are one-hot, and only tables and CSR arrays list each edge once.
    if form == "planetoid":
        return planetoid.read(path, scaling)
    if form == "tu":
        return tu.read(path)
    if form == "ppi":
        return ppi.read(path, scaling)
    if form == "tables":
        return tables.read(path, directed, scaling)
    content = path.read_bytes()
    return npz_pt.parse(content, path.suffix, where=str(path), directed=directed, scaling=scaling, loop=loop)
