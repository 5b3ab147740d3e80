"""Clouds in a report: input, visible groups, a baseline and the reconstruction, as stills and to be turned."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from core.methods.masked_autoencoder import MaskedAutoencoder, PredictionTask
from core.reconstruction.errors import context_of, hidden_rows
from core.reconstruction.pictures import SCORED, UNSCORED, Gallery, Panel, Pictures, PointSet, Raster, Scene
from core.reconstruction.splats import still
from core.tokens import Batch, Mask, Rows, Tokens, levels, view_of
from modalities.point.baseline import NearestGroup
from modalities.point.clouds import as_clouds
from modalities.point.targets import GroupPoints

SIDE = 360  # pixels of a still
MOST = 20_000  # points of a cloud that are drawn; of larger ones that many, drawn by a fixed seed
SIGHT = 1.15  # radius of the sphere in sight, in distances of the farthest centre or visible point
VISIBLE, UNGROUPED = (0.45, 0.52, 0.62), (0.74, 0.77, 0.80)
RAMP = ((0.0, 0.45, 0.70), (0.96, 0.80, 0.25), (0.80, 0.10, 0.15))  # of distances, from 0 to `GREATEST` means
GREATEST = 2.0
BASELINE, METHOD = "nearest visible group", "reconstruction"
ROUNDING = 1e-6  # of the largest coordinate: a member may lie that far from its point of the cloud


@dataclass(frozen=True, kw_only=True)
class Groups:
    """One sample: its cloud (n, 3), centres (G, 3) and members (G, S, 3) of groups, and answers at hidden ones.

    `visible` and `hidden` are (G,) bool; padding is neither. `rows` (M,): numbers of the predicted groups.
    `answers`: by name, points (M, P, 3) in place of those groups' members.
    """

    key: str
    cloud: np.ndarray
    centres: np.ndarray
    members: np.ndarray
    visible: np.ndarray
    hidden: np.ndarray
    rows: np.ndarray
    answers: Mapping[str, np.ndarray]

    def distances(self, name: str) -> np.ndarray:
        """(M, P) of an answer's points to the nearest true member of their group."""
        gaps = self.answers[name][:, :, None] - self.members[self.rows][:, None]
        return np.linalg.norm(gaps, axis=3).min(2)


class PointPictures(Pictures):
    """Draws clouds of points, each answer together with the visible groups.

    `colour`: answers in the colour of hidden places, or each point by its "distance" to the truth.
    `up`: the vertical axis.
    """

    def __init__(self, colour: Literal["hidden", "distance"] = "hidden", up: Literal["x", "y", "z"] = "y"):
        self.colour, self.up = colour, "xyz".index(up)

    @torch.no_grad()
    def draw(self, method: MaskedAutoencoder, batch: Batch, masks: Mapping[str, Mask]) -> Gallery:
        (view,) = {view_of(name) for name in masks}
        ctx = context_of(method, batch)
        name, level = None, len(levels(ctx.tokens[view])) - 1
        for task_name, task in method.prediction_tasks(masks).items():
            if name is None and predicts_points(task, masks, view):
                name, level = task_name, task.query.level

        prediction, rows = None, Rows.from_mask(hidden_rows(masks, view, level))
        if name is not None:
            rows = method.prediction_tasks(masks)[name].query.rows
            prediction = method.predict(ctx.tokens, masks, {name}, ctx)[1][name]

        hidden = [hidden_rows(masks, view, number) for number in range(len(levels(ctx.tokens[view])))]
        answers = answers_at(ctx.tokens[view], hidden, level, rows, prediction)
        tokens, clouds = levels(ctx.tokens[view])[level], as_clouds(batch.views[view])
        return self.gallery(split(tokens, hidden[level], rows, answers, batch.keys, clouds))

    def gallery(self, samples: Sequence[Groups]) -> Gallery:
        """Panels of samples, and notes."""
        greatest = GREATEST * _mean_distance(samples, BASELINE)
        masks, panels, outside = [], [], 0
        for sample in samples:
            scenes = self._scenes(sample, greatest)
            outside += sum(map(_out_of_sight, scenes))
            stills = [still(scene, SIDE) for scene in scenes]
            mask = replace(stills[0], label="mask", alt=f"mask of {sample.key}")
            masks.append(Panel(sample.key, [mask]))
            panels.append(Panel(sample.key, stills, scenes=scenes))

        notes = self._notes(samples, greatest)
        if outside:
            notes.append(f"Points left out, too far from visible points and centres: {outside}.")
        return Gallery(masks, panels, notes)

    def thumbnails(self, batch: Batch, side: int) -> Sequence[Raster]:
        rasters = []
        for key, cloud in zip(batch.keys, as_clouds(batch.views["point"]), strict=True):
            points = _thinned(_array(cloud))
            part = _one_colour("points", points, VISIBLE)
            centre, radius = _sight(points)
            scene = Scene("cloud", f"picture of {key}", sets=[part], centre=centre, radius=radius, up=self.up)
            rasters.append(still(scene, side))
        return rasters

    def _scenes(self, sample: Groups, greatest: float) -> list[Scene]:
        """Input, visible groups and answers, in one frame that depends on nothing hidden but the centres."""
        visible = sample.members[sample.visible].reshape(-1, 3)
        centre, radius = _sight(np.concatenate([sample.centres, visible]))
        background = _one_colour("visible", visible, VISIBLE)

        sets = {"input": cloud_sets(sample), "visible groups": [background]}
        for name, points in sample.answers.items():
            part = _one_colour(name, points.reshape(-1, 3), SCORED)
            label = name
            if self.colour == "distance" and points.size:
                distances = sample.distances(name)
                label = f"{name}: {distances.mean():.3g} from the truth"
                part = PointSet(name, part.positions, colours=ramp(distances.ravel() / greatest))
            sets[label] = [background, part]

        scenes = []
        for label, parts in sets.items():
            alt = f"{label} of {sample.key}"
            scenes.append(Scene(label, alt, sets=parts, centre=centre, radius=radius, up=self.up))
        return scenes

    def _notes(self, samples: Sequence[Groups], greatest: float) -> list[str]:
        notes = [
            "Grey: points of visible groups. Orange: points of hidden groups alone, or predicted for them. Blue: of "
            "groups that are hidden and not predicted. Pale: points of the cloud in no group.",
            "Groups overlap, so that a reconstruction has more points than its cloud: those of the visible groups and "
            "those predicted, both in full. Near points are opaque, far ones pale.",
            f"{BASELINE.capitalize()}: {NearestGroup.name}.",
        ]
        if self.colour == "distance":
            notes.append(
                "Colours of answers: the distance to the nearest true point of the same group, blue for 0, red from "
                f"{greatest:.3g} on (twice the mean of the {BASELINE})."
            )
        if not any(METHOD in sample.answers for sample in samples):
            notes.append("This method predicts no points, so there is no reconstruction to show.")
        if any(len(sample.cloud) > MOST for sample in samples):
            notes.append(f"Of clouds above {MOST:,} points that many are drawn, at random.")
        return notes


def predicts_points(task: PredictionTask, masks: Mapping[str, Mask], view: str) -> bool:
    """Whether a task predicts the points of some hidden groups of this view."""
    rows = task.query.rows
    if task.view != view or rows is None or not isinstance(task.objective.target, GroupPoints):
        return False
    return bool(rows.gather(hidden_rows(masks, view, task.query.level)).any())


def answers_at(
    tokens: Tokens, hidden: Sequence[Tensor], level: int, rows: Rows, prediction: Tensor | None
) -> dict[str, Tensor]:
    """By name, points (B, M, P, 3) round the centres of the groups `rows` of a level: baseline and prediction.

    `hidden`: (B, G) bool of every level; `prediction` (B, M, 3P) or None.
    """
    baseline = levels(NearestGroup().predict_tokens(tokens, hidden))[level]
    answers = {BASELINE: rows.gather(baseline.content)[..., :3]}
    if prediction is not None:
        answers[METHOD] = prediction.unflatten(2, (-1, 3))
    return answers


def split(
    tokens: Tokens,
    hidden: Tensor,
    rows: Rows,
    answers: Mapping[str, Tensor],
    keys: Sequence[str],
    clouds: Iterable[Tensor],
) -> list[Groups]:
    """A batch as its samples.

    `hidden` (B, G) bool; `answers`: by name, points (B, M, P, 3) round the centres of the groups `rows`.
    """
    centres, members = tokens.layout.coords, tokens.content[..., :3]
    assert centres is not None, "groups have centres"
    visible = ~hidden
    if tokens.layout.valid is not None:
        visible &= tokens.layout.valid

    samples = []
    for number, (key, cloud) in enumerate(zip(keys, clouds, strict=True)):
        # Rows of hidden groups alone.
        scored = hidden[number, rows.index[number]]
        if rows.valid is not None:
            scored &= rows.valid[number]
        index = rows.index[number, scored]

        placed = {}
        for name, points in answers.items():
            placed[name] = _array(points[number, scored] + centres[number, index, None])

        samples.append(
            Groups(
                key=key,
                cloud=_array(cloud),
                centres=_array(centres[number]),
                members=_array(members[number] + centres[number, :, None]),
                visible=visible[number].cpu().numpy(),
                hidden=hidden[number].cpu().numpy(),
                rows=index.cpu().numpy(),
                answers=placed,
            )
        )
    return samples


def cloud_sets(sample: Groups) -> list[PointSet]:
    """The points of a cloud by kind: in some visible group, in hidden ones alone (predicted or not), in none."""
    left_out = sample.hidden.copy()
    left_out[sample.rows] = False
    kinds = [
        ("visible", sample.visible, VISIBLE),
        ("hidden", sample.rows, SCORED),
        ("hidden, not predicted", left_out, UNSCORED),
    ]

    tolerance = ROUNDING * float(np.abs(sample.cloud).max(initial=1e-30))
    rest, sets = _thinned(sample.cloud), []
    for name, groups, colour in kinds:
        is_member = _near(rest, sample.members[groups].reshape(-1, 3), tolerance)
        sets.append(_one_colour(name, rest[is_member], colour))
        rest = rest[~is_member]
    return [*sets, _one_colour("in no group", rest, UNGROUPED)]


def ramp(shares: np.ndarray) -> np.ndarray:
    """Colours (n, 3) of shares (n,) of the greatest distance; those above 1 have the last colour."""
    stops = np.linspace(0, 1, len(RAMP))
    return np.stack([np.interp(shares, stops, channel) for channel in zip(*RAMP, strict=True)], axis=1)


def _one_colour(name: str, positions: np.ndarray, colour: Sequence[float]) -> PointSet:
    return PointSet(name, positions, colours=np.tile(colour, (len(positions), 1)))


def _sight(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre (3,) and radius of the sphere in sight, round the middle of these points."""
    centre = (points.min(0) + points.max(0)) / 2
    radius = SIGHT * float(np.linalg.norm(points - centre, axis=1).max())
    return centre, radius or 1.0


def _out_of_sight(scene: Scene) -> int:
    """The number of points that its pictures leave out."""
    positions = np.concatenate([part.positions for part in scene.sets])
    return int((np.linalg.norm(positions - scene.centre, axis=1) > scene.radius).sum())


def _near(points: np.ndarray, others: np.ndarray, tolerance: float) -> np.ndarray:
    """(n,) bool: whether any of the others lies within the tolerance of a point."""
    if not len(points) or not len(others):
        return np.zeros(len(points), dtype=bool)
    return cKDTree(others).query(points)[0] <= tolerance


def _mean_distance(samples: Sequence[Groups], name: str) -> float:
    """Over the points of all samples; 1 without any."""
    parts = [sample.distances(name).ravel() for sample in samples if name in sample.answers]
    values = np.concatenate([np.zeros(0), *parts])
    return float(values.mean()) if values.size and values.any() else 1.0


def _thinned(cloud: np.ndarray) -> np.ndarray:
    """At most `MOST` of the points."""
    if len(cloud) <= MOST:
        return cloud
    rows = np.random.Generator(np.random.PCG64(0)).permutation(len(cloud))[:MOST]
    return cloud[np.sort(rows)]


def _array(points: Tensor) -> np.ndarray:
    return points[..., :3].double().cpu().numpy()
