"""Everything that can be chosen, as the config files say it: by group, and which of it goes together."""

from core.config.files import GROUPS, SearchPath, choices, layers, picks, read
from core.errors import IncompatibleError, UserError


def describe_choices(searchpath: SearchPath = ()) -> dict[str, dict[str, str]]:
    """The files of each group: name -> first comment line."""
    described = {}
    for group in GROUPS:
        described[group] = {}
        for name, file in sorted(choices(group, searchpath).items()):
            comment = file.read_text(encoding="utf-8").partition("#")[2]
            described[group][name] = comment.partition("\n")[0].strip()
    return described


def official_names(searchpath: SearchPath = ()) -> dict[str, str]:
    """Readers of official checkpoints, name -> dotted target, which methods' files list under `official`."""
    names: dict[str, str] = {}
    for file in choices("method", searchpath).values():
        names |= read(file).get("official") or {}
    return names


def experiments(method: str, searchpath: SearchPath = ()) -> list[str]:
    """The experiments that choose a method, as one types them."""
    names = []
    for name in sorted(choices("experiment", searchpath)):
        if picks("experiment", name).get("method") == method:
            names.append(f"experiment={name}")
    return names


def origin(experiment: str | None, searchpath: SearchPath = ()) -> str:
    """A sentence on where the data of an experiment are to be had; empty where its file does not say."""
    if experiment not in choices("experiment", searchpath):
        return ""
    contents = layers("experiment", experiment, searchpath)
    places = [content["origin"] for content in contents if "origin" in content]
    return f" The data of experiment={experiment} are to be had from {places[-1]}." if places else ""


def fits(modality: str, name: str, searchpath: SearchPath = (), *, group: str = "method") -> bool:
    """Whether a method, or data, takes a modality: it lists it or has no list, or the modality's file lists it."""
    modalities, methods = None, []
    try:
        for content in layers(group, name, searchpath):
            modalities = content.get("modalities", modalities)
        for content in layers("modality", modality, searchpath):
            methods = content.get("methods", methods)
    except UserError:  # a broken file, which fits nothing
        return False
    return modalities is None or modality in modalities or name in methods


def refusal(
    modality: str, name: str, reason: str, searchpath: SearchPath = (), *, group: str = "method"
) -> IncompatibleError:
    """The error that a method, or data, does not take a modality, with all that go together."""
    modalities, names = sorted(choices("modality", searchpath)), sorted(choices(group, searchpath))
    takers = "|".join(other for other in modalities if fits(other, name, searchpath, group=group))
    fitting = "|".join(other for other in names if fits(modality, other, searchpath, group=group))
    remedy = f"{group}={name} takes modality={takers}; modality={modality} goes with {group}={fitting}."
    return IncompatibleError(f"{group}={name} cannot take modality={modality}{reason}\n{remedy}")
