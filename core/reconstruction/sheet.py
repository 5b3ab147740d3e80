"""A sheet of pictures: a user's own samples, masked and reconstructed by one run or several."""

import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, replace
from html import escape
from itertools import filterfalse
from math import ceil
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from core.config.build import build
from core.data.loader import evaluation_batches
from core.data.opening import open_source
from core.encoding import choose_device, read_splits
from core.errors import UserError
from core.files import explain_write_errors, write_atomic
from core.reconstruction.baseline import baseline_of
from core.reconstruction.errors import context_of, token_errors
from core.reconstruction.pictures import Gallery, Panel, Pictures, Raster
from core.reconstruction.skill import REFERENCES, ErrorSums, skill
from core.runs import check_is_run, open_config, open_method, root_override
from core.tokens import Batch, levels

MOST = 8  # samples of a sheet, drawn at random where the files hold more
SVG = "image/svg+xml"
MARGIN, LINE, TEXT = 12, 22, 14  # pixels: between pictures, of a line of text, of its letters
LEAST = {"columns": 160, "rows": 64}  # height in pixels up to which pictures are enlarged by whole factors


@dataclass(frozen=True, kw_only=True)
class SampleSkill:
    """How well a run predicts the hidden tokens of one sample: 1 is perfect, 0 as good as the better
    trivial answer.

    `skill` and `error` are None where the method predicts no hidden tokens, `skill` also where a trivial
    answer has no error. `reference`: that answer, "baseline" (such as interpolation) or "zero".
    """

    run: str
    key: str
    objective: str
    skill: float | None
    error: float | None = None
    reference: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Panels of samples, the runs' skill at each, notes on the pictures, and (key, reason) of bad samples."""

    panels: Sequence[Panel]
    skills: Sequence[SampleSkill]
    notes: Sequence[str]
    skipped: Sequence[tuple[str, str]]

    @property
    def suffix(self) -> str:
        """Of a file with all panels: ".svg" for line drawings, else ".png"."""
        mimes = {raster.mime for raster in _rasters(self.panels)}
        if mimes == {SVG}:
            return ".svg"
        return ".png"

    def content(self) -> bytes:
        """All panels below each other, as a file's content."""
        if self.suffix == ".svg":
            return _join_svg(self.panels)
        return _join_png(self.panels)

    def save(self, path: str | Path) -> list[Path]:
        """Writes the sheet, and beside it each moving picture as .webp; returns the files.

        Raises: UserError for an ending that is not `suffix`.
        """
        path = Path(path)
        if path.suffix.lower() != self.suffix:
            raise UserError(f"out={path}: these pictures are written as {self.suffix}; choose such a name.")

        contents = {path: self.content()}
        for number, raster in enumerate(_moving(self.panels), start=1):
            contents[path.with_name(f"{path.stem}_{number}.webp")] = raster.data
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for name, content in contents.items():
                write_atomic(name, content)
        return list(contents)

    def _repr_png_(self) -> bytes | None:
        if self.suffix == ".png":
            return self.content()
        return None

    def _repr_svg_(self) -> str | None:
        if self.suffix == ".svg":
            return self.content().decode()
        return None


class Drawer:
    """A run's newest weights, and its modality's pictures. `ratio`: the share to hide, in place of the
    masker's own.

    Raises: UserError where the run has no checkpoint, its modality no pictures, or its masker no ratio.
    """

    def __init__(self, run: Path, *, ratio: float | None = None, device: str | None = None):
        check_is_run(run)
        config = open_config(run)
        nodes = config["modality"]
        if nodes.get("pictures") is None:
            raise UserError(f"run={run}: modality={nodes['name']} has no pictures (modality.pictures).")
        if ratio is not None:
            masker = config["method"]["masker"]
            if "ratio" not in masker:
                name = masker["_target_"]
                raise UserError(f"ratio={ratio:g}: the masker of run={run}, {name}, has no ratio.")
            masker["ratio"] = ratio

        self.run, self.modality, self.device = run, nodes["name"], choose_device(device)
        self.method = open_method(run, config).to(self.device).eval()
        self.pictures: Pictures = build(nodes["pictures"], key="modality.pictures")
        self.baseline = baseline_of(nodes)

    def read(self, files: Sequence[str | Path], seed: int) -> tuple[list[Batch], str | None]:
        """A batch of every sample in the files, as the run's reader gives it, at most `MOST`; and a note on
        those left.

        Raises: UserError where a file is missing, or nothing can be read.
        """
        items, reader = [], None
        for file in files:
            with _errors_of_file():
                reader, source = open_source(open_config(self.run, [root_override(file)]))
                samples = list(read_splits(source)[0].values())
            for item in samples:
                key = str(file)
                if len(samples) > 1:
                    key = f"{file}: {item.key}"
                items.append(replace(item, key=key))
        assert reader is not None, "the command refuses an empty list"

        note = None
        if len(items) > MOST:
            note = f"Drawn are {MOST} of {len(items)} samples, at random by seed={seed}."
            order = np.random.default_rng(seed).permutation(len(items))[:MOST]
            items = [items[number] for number in np.sort(order)]
        with _errors_of_file():
            return list(evaluation_batches(items, reader, 1, workers=0)), note

    @torch.no_grad()
    def draw(self, batch: Batch, seed: int) -> tuple[Gallery, list[SampleSkill]]:
        """Pictures of one sample under a mask drawn by `seed`, and the skill of every objective."""
        batch = batch.to(self.device)
        ctx = context_of(self.method, batch, torch.Generator(self.device).manual_seed(seed))
        ctx.masks.update(self.method.draw_mask(ctx))
        gallery = self.pictures.draw(self.method, batch, ctx.masks)

        sums = ErrorSums()
        for errors in token_errors(self.method, ctx, self.baseline):
            sums.add(errors, levels(ctx.tokens[errors.view])[errors.query.level].layout, None)
        skills = [self._skill(batch.keys[0], name, sums.of(name, "total")) for name in sums.objectives]
        return gallery, skills

    def _skill(self, key: str, objective: str, parts: Mapping[str, np.ndarray]) -> SampleSkill:
        """The skill by sums of errors at the sample's hidden tokens."""
        tokens = parts["tokens"].sum()
        references = np.stack([parts[name].sum() for name in REFERENCES])
        value = None
        if references.min() > 0:
            value = float(skill(parts["prediction"].sum(), references))
        return SampleSkill(
            run=str(self.run),
            key=key,
            objective=objective,
            skill=value,
            error=float(parts["prediction"].sum() / tokens),
            reference=REFERENCES[int(references.argmin())],
        )


@contextmanager
def _errors_of_file() -> Iterator[None]:
    """Errors of `data.root`, which is called `file` here."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("data.root", "file", 1)) from None


def draw_sheet(
    runs: Sequence[str | Path],
    files: Sequence[str | Path],
    *,
    seed: int = 0,
    ratio: float | None = None,
    device: str | None = None,
) -> Sheet:
    """Draws the samples of files, each by itself and under a random mask, by every run.

    `files`: whatever `data.root` takes. `seed`: of the masks, and of the samples where there are more than 8.
    Raises: UserError where a run cannot draw, runs are of several modalities, or no sample can be read.
    """
    drawers = [Drawer(Path(run), ratio=ratio, device=device) for run in runs]
    for drawer in drawers:
        if drawer.modality != drawers[0].modality:
            runs_text = f"{drawers[0].run} and {drawer.run}"
            modalities = f"{drawers[0].modality} and {drawer.modality}"
            raise UserError(f"runs {runs_text} are of {modalities}: one sheet takes runs of one modality.")

    # Notes and bad samples are those of any run, each once.
    rows: dict[str, list[list[Panel]]] = {}
    skills, notes, skipped = [], {}, {}
    for drawer in drawers:
        batches, note = drawer.read(files, seed)
        for batch in batches:
            gallery, sample_skills = drawer.draw(batch, seed)
            rows.setdefault(batch.keys[0], []).append(list(gallery.reconstructions))
            skills += sample_skills
            notes |= dict.fromkeys(gallery.notes)
            skipped |= dict(batch.skipped)
        if note:
            notes[note] = None

    names = {}
    for drawer, name in zip(drawers, _short_names(runs), strict=True):
        names[str(drawer.run)] = name

    panels = []
    for key, galleries in rows.items():
        text = _skill_text([part for part in skills if part.key == key], names)
        for panel in _merge(galleries, list(names.values())):
            panels.append(replace(panel, title=f"{panel.title}{text}"))
    return Sheet(panels=panels, skills=skills, notes=list(notes), skipped=list(skipped.items()))


def _short_names(runs: Sequence[str | Path]) -> list[str]:
    """The parts of the runs' paths that tell them apart."""
    paths = [Path(os.path.abspath(run)) for run in runs]
    if len(set(paths)) == 1:
        return [path.name for path in paths]
    common = os.path.commonpath(paths)
    return [os.path.relpath(path, common) for path in paths]


def _skill_text(skills: Sequence[SampleSkill], names: Mapping[str, str]) -> str:
    """The end of a sample's title: its skill by every run, of the run's first objective. `names`: of runs."""
    values: dict[str, str] = {}
    for part in skills:
        if part.skill is not None:
            values.setdefault(names[part.run], f"{part.skill:.3f}")
    if not values:
        return ""
    if len(names) == 1:
        return f" · skill {next(iter(values.values()))}"

    parts = [f"{name} {value}" for name, value in values.items()]
    return f" · skill: {', '.join(parts)}"


def _merge(galleries: Sequence[Sequence[Panel]], names: Sequence[str]) -> list[Panel]:
    """Panels of one sample by several runs as one each: equal pictures once, others with the run's name."""
    if len(galleries) == 1:
        return list(galleries[0])

    by_title: dict[str, list[tuple[str, Panel]]] = {}
    for name, panels in zip(names, galleries, strict=True):
        for panel in panels:
            by_title.setdefault(panel.title, []).append((name, panel))

    merged = []
    for title, members in by_title.items():
        counts = Counter(raster.data for raster in _rasters(panel for _, panel in members))
        rasters: dict[bytes, Raster] = {}
        for name, panel in members:
            for raster in panel.rasters:
                if counts[raster.data] < len(members):
                    raster = replace(raster, label=f"{raster.label}, {name}")
                rasters.setdefault(raster.data, raster)
        merged.append(Panel(title, list(rasters.values()), members[0][1].arranged))
    return merged


def _rasters(panels: Iterable[Panel]) -> Iterator[Raster]:
    for panel in panels:
        yield from panel.rasters


def _still(panel: Panel) -> list[Raster]:
    return list(filterfalse(_is_moving, panel.rasters))


def _moving(panels: Sequence[Panel]) -> list[Raster]:
    return list(filter(_is_moving, _rasters(panels)))


def _is_moving(raster: Raster) -> bool:
    if raster.mime == SVG:
        return False
    with Image.open(io.BytesIO(raster.data)) as picture:
        return getattr(picture, "n_frames", 1) > 1


@dataclass(frozen=True)
class _Box:
    """A picture with its label above, at (left, top) in pixels."""

    raster: Raster
    left: int
    _: KW_ONLY
    top: int
    scale: int

    @property
    def size(self) -> tuple[int, int]:
        return self.raster.size[0] * self.scale, self.raster.size[1] * self.scale


def _arrange(panels: Sequence[Panel]) -> tuple[list[tuple[str, int]], list[_Box], tuple[int, int]]:
    """Titles with their heights, the places of all still pictures, and the size of the whole."""
    titles, boxes, top, right = [], [], MARGIN, 0
    for panel in panels:
        titles.append((panel.title, top))
        right = max(right, MARGIN + _text_width(panel.title))
        top, left, bottom = top + LINE, MARGIN, top + LINE
        for raster in _still(panel):
            box = _Box(raster, left, top=top + LINE, scale=max(1, LEAST[panel.arranged] // raster.size[1]))
            boxes.append(box)
            right = max(right, left + max(box.size[0], _text_width(raster.label)))
            bottom = max(bottom, box.top + box.size[1])
            if panel.arranged == "columns":
                left += max(box.size[0], _text_width(raster.label)) + MARGIN
            else:
                top = bottom + MARGIN // 2
        top = bottom + 2 * MARGIN

    return titles, boxes, (right + MARGIN, top)


def _join_png(panels: Sequence[Panel]) -> bytes:
    titles, boxes, size = _arrange(panels)
    page = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(page), _font()

    for text, top in titles:
        pen.text((MARGIN, top), text, "black", font)
    for box in boxes:
        pen.text((box.left, box.top - LINE + 2), box.raster.label, "#444", font)
        with Image.open(io.BytesIO(box.raster.data)) as picture:
            picture = picture.convert("RGBA").resize(box.size, Image.Resampling.NEAREST)
        page.paste(picture, (box.left, box.top), picture)

    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()


def _join_svg(panels: Sequence[Panel]) -> bytes:
    titles, boxes, (width, height) = _arrange(panels)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="{TEXT}">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for text, top in titles:
        lines.append(f'<text x="{MARGIN}" y="{top + TEXT}">{escape(text)}</text>')
    for box in boxes:
        text, height = escape(box.raster.label), box.top - LINE + 2 + TEXT
        label = f'<text x="{box.left}" y="{height}" fill="#444">{text}</text>'
        drawing = box.raster.data.decode()
        lines += [label, f'<g transform="translate({box.left},{box.top}) scale({box.scale})">{drawing}</g>']
    return "\n".join([*lines, "</svg>"]).encode()


def _font():
    return ImageFont.load_default(TEXT)


def _text_width(text: str) -> int:
    return ceil(_font().getlength(text))
