"""Which things a config may name: those defined in Lacuna and plug-ins, and layers of torch and timm.

A config can come from a stranger. Names are checked before anything is imported; then the thing itself must be
defined in an allowed package, so that a module that an allowed one happens to import is out of reach.
"""

import inspect
import warnings
from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, get_type_hints

from core.errors import UserError, suggestion
from core.plugins import plugins
from core.trees import paths

LAYERS = (
    "torch.nn.", "torch.optim.", "torchvision.transforms.v2.", "timm.layers.", "timm.models.",
    # Not all of torch_geometric.nn: it has modules that fetch language models, and some that run text.
    "torch_geometric.nn.conv.", "torch_geometric.nn.models.basic_gnn.", "torch_geometric.nn.norm.",
)  # fmt: skip


def checked_targets(tree: Any, key: str = "") -> None:
    """Raises UserError if any `_target_` names something outside the allowed packages. Imports nothing."""
    for path, value in paths(tree, key):
        if path.split(".")[-1] == "_target_":
            _check_name(value, f"{path}: ")


def load_target(name: str, key: str = "") -> Any:
    """The class, function or object of a dotted name; UserError where it does not exist or is not allowed.

    `key`: the config node that names it, for messages.
    """
    place = f"{key}: " if key else ""
    _check_name(name, place)

    path, _, attribute = name.rpartition(".")
    things = vars(_load_module(path, name, place))
    public = {n: thing for n, thing in things.items() if not n.startswith("_") and is_allowed(_home(thing))}

    if attribute in public:
        return public[attribute]
    if attribute in things:
        raise UserError(f"{place}{name} is not defined in a package that a config may name.")
    raise UserError(f"{place}{path} has no {attribute}.{suggestion(attribute, public, name)}")


def load_part(name: str, key: str = "", *, is_partial: bool = False) -> Callable:
    """The class or function of this dotted name. `is_partial`: it is handed over, not called.

    A function that is called must have an annotation by which it returns a part: a stranger's config calls no
    others. Of torch and timm there are the classes, and `torch.nn.functional` to be handed over.
    """
    part = load_target(name, key)
    if inspect.isclass(part):
        return part

    place = f"{key}: " if key else ""
    is_functional = is_partial and _home(part) == "torch.nn.functional"
    if not inspect.isfunction(part) or not (is_own(_home(part)) or is_functional):
        raise UserError(f"{place}{name} is no class or function that a config may name.")

    returned = get_type_hints(part).get("return") if is_own(_home(part)) else None
    if not is_partial and not (inspect.isclass(returned) and is_allowed(returned.__module__)):
        remedy = "Write _partial_: true beside _target_ to hand over the function itself."
        raise UserError(f"{place}{name} is a function whose annotation names no returned part. {remedy}")
    return part


def is_allowed(module: str) -> bool:
    return is_own(module) or f"{module}.".startswith(LAYERS)


def is_own(module: str) -> bool:
    """Defined in Lacuna or a plug-in."""
    return f"{module}.".startswith(_own())


def _own() -> tuple[str, ...]:
    return ("core.", "modalities.", *(f"{package}." for package in plugins().values()))


def _home(thing: Any) -> str:
    """The module that defines a class, function or (by its class) an object; "" for modules and the like."""
    return str(getattr(thing, "__module__", ""))


def _check_name(name: Any, place: str) -> None:
    parts = name.split(".") if isinstance(name, str) else [""]
    if not all(part.isidentifier() for part in parts):
        raise UserError(f"{place}{name!r} is no dotted name of a class or function.")
    if not is_allowed(".".join(parts[:-1])) or any(part.startswith("__") for part in parts):
        packages = ", ".join(package.removesuffix(".") for package in (*_own(), *LAYERS))
        raise UserError(
            f"{place}a config may not name {name}. Allowed is what is defined in {packages}, and in plug-ins: packages "
            "that are installed with an entry point of the group lacuna.plugins (docs/add-a-modality.md)."
        )


def _load_module(path: str, name: str, place: str) -> Any:
    import torch  # late: a typing error is reported without it

    try:
        # Parts may be built on another device (meta); a module's own tensors stay for good.
        with warnings.catch_warnings(), torch.device("cpu"):
            if not is_own(path):
                warnings.simplefilter("ignore")  # libraries' own warnings at import
            return import_module(path)
    except ModuleNotFoundError as error:
        if error.name and not f"{path}.".startswith(f"{error.name}."):
            message = f"{place}{path} needs the package {error.name}, which is not installed."
            raise UserError(message) from error

    # The parent is allowed too, or the name itself is a package that is always there.
    parent, _, child = path.rpartition(".")
    folder = getattr(_load_module(parent, name, place), "__path__", []) if parent else []
    siblings = [module.name for module in iter_modules(folder)]
    raise UserError(f"{place}there is no module {path}.{suggestion(child, siblings, name)}")
