"""Scenes that turn: figures of plotly, drawn by the page's only script, which its policy allows by a hash."""

import json
from base64 import b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from html import escape
from importlib.util import find_spec
from typing import Any

import numpy as np

from core.reconstruction.pictures import PointSet, Scene
from core.reconstruction.splats import directions
from core.report.samples import Samples

PACKAGE, EXTRA = "plotly", "figures"
STILL = f"These pictures stand still: figures that turn need plotly, pip install 'lacuna-ssl[{EXTRA}]'."
DOT = 3  # pixels of a point's diameter
ZOOM = 1.8  # by which a figure is as large as its still
AXES = "xyz"

# Figures are made when their panel is opened and removed when it is closed: each one has a WebGL context, of
# which browsers allow few at a time. One panel is open; its figures turn together.
START = """
(() => {
  const buttons = [["zoom3d", "pan3d", "tableRotation", "resetCameraDefault3d"]];
  const config = { displayModeBar: "hover", displaylogo: false, responsive: true, scrollZoom: false,
    modeBarButtons: buttons };
  const panels = [...document.querySelectorAll("details.scenes")];
  const places = (panel) => [...panel.querySelectorAll(".scene")];

  async function draw(panel) {
    for (const place of places(panel)) {
      if (!panel.open) return;
      const { data, layout } = JSON.parse(place.dataset.figure);
      await Plotly.newPlot(place, data, layout, config);
      place.on("plotly_relayouting", (change) => turn(panel, place, change["scene.camera"]));
      place.on("plotly_relayout", (change) => turn(panel, place, change["scene.camera"]));
    }
  }

  function turn(panel, source, camera) {
    if (!camera || source.follows) return;
    panel.camera = structuredClone(camera);
    for (const place of places(panel)) if (place !== source && !place.follows) follow(panel, place);
  }

  async function follow(panel, place) {
    place.follows = true;
    let camera = null;
    while (place.data && camera !== panel.camera) {
      camera = panel.camera;
      await Plotly.relayout(place, { "scene.camera": camera });
    }
    place.follows = false;
  }

  function toggle(panel) {
    if (!panel.open) return places(panel).forEach((place) => Plotly.purge(place));
    for (const other of panels) if (other !== panel) other.open = false;
    draw(panel);
  }

  for (const panel of panels) panel.addEventListener("toggle", () => toggle(panel));
  if (panels.length) panels[0].open = true;
})();
"""


def script(content: Iterable[Samples]) -> str:
    """The script of a page with these pictures: empty where none can turn, or plotly is not installed."""
    galleries = [samples.gallery for samples in content if samples.gallery is not None]
    panels = [panel for gallery in galleries for panel in (*gallery.masks, *gallery.reconstructions)]
    if not any(panel.scenes for panel in panels) or not is_installed():
        return ""

    from plotly.offline import get_plotlyjs

    text = get_plotlyjs() + START
    assert "</script" not in text.lower(), "it would end the page's element"
    return text


def is_installed() -> bool:
    """Whether plotly is there."""
    return find_spec(PACKAGE) is not None


def allowance(text: str) -> str:
    """The directive of a Content-Security-Policy that allows this script and no other."""
    digest = b64encode(sha256(text.encode()).digest()).decode()
    return f"script-src 'sha256-{digest}'"


def scenes(content: Sequence[Scene]) -> str:
    """Places for a panel's figures, side by side and closed; the script fills them when they are opened."""
    places = ""
    for scene in content:
        data = escape(json.dumps(figure(scene), separators=(",", ":")))
        label = f'<span class="name">{escape(scene.label)}</span>'
        places += f'<div><div class="scene" role="img" aria-label="{escape(scene.alt)}" data-figure="{data}">'
        places += f"</div>{label}</div>"

    summary = "<summary>To be turned: drag one, and all turn together</summary>"
    return f'<details class="scenes">{summary}<div class="columns">{places}</div></details>'


def figure(scene: Scene) -> dict[str, Any]:
    """The scene as data and layout of a Plotly figure, seen as in its still.

    Plotly's third axis is the vertical one, so axes are rolled.
    """
    order = np.roll(np.arange(3), 2 - scene.up)
    data = [_markers(part, order) for part in scene.sets]

    layout = {}
    for name, axis in zip(AXES, order, strict=True):
        middle = float(scene.centre[axis])
        layout[f"{name}axis"] = {"range": [middle - scene.radius, middle + scene.radius], "visible": False}

    eye = np.round(2 * directions(2)[2], 4)
    camera = {"eye": dict(zip(AXES, eye.tolist(), strict=True)), "projection": {"type": "orthographic"}}
    layout |= {
        "aspectmode": "manual",
        "aspectratio": dict.fromkeys(AXES, ZOOM),
        "dragmode": "turntable",
        "camera": camera,
    }

    margins = dict.fromkeys("lrtb", 0)
    ground = "rgba(0,0,0,0)"
    return {
        "data": data,
        "layout": {"scene": layout, "margin": margins, "showlegend": False, "paper_bgcolor": ground},
    }


def _markers(part: PointSet, order: np.ndarray) -> dict[str, Any]:
    """One trace: the points of a set."""
    colours = ["#{:02x}{:02x}{:02x}".format(*row) for row in np.round(255 * part.colours).astype(int)]
    marker = {"size": DOT, "color": colours}
    if len(set(colours)) == 1:
        marker["color"] = colours[0]

    trace = {"type": "scatter3d", "mode": "markers", "name": part.name, "marker": marker}
    hover = {}
    for name, axis in zip(AXES, order.tolist(), strict=True):
        trace[name] = _values(part.positions[:, axis])
        hover[AXES[axis]] = f"{AXES[axis]} %{{{name}:.3g}}"
    text = "<br>".join(hover[name] for name in AXES)
    return trace | {"hovertemplate": f"{text}<extra>{escape(part.name)}</extra>"}


def _values(column: np.ndarray) -> dict[str, str]:
    """A column (n,) as plotly takes arrays inside JSON: four bytes a value."""
    return {"dtype": "f4", "bdata": b64encode(column.astype("<f4").tobytes()).decode()}
