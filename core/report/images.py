"""Pictures inside the page: as data of an <img>."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape

from core.reconstruction.pictures import LOSSLESS, Panel, Raster
from core.report.scenes import STILL, is_installed, scenes


def panels(content: Sequence[Panel], small: bool = False) -> str:
    """Panels below each other or in columns. A note comes first where scenes can only be shown as stills."""
    has_scenes = any(panel.scenes for panel in content)
    kind = " small" if small else ""
    if has_scenes or (content and content[0].arranged == "rows"):
        kind = " films"

    note = ""
    if has_scenes and not is_installed():
        note = f'<p class="notes">{escape(STILL)}</p>'
    return f'{note}<div class="samples{kind}">{"".join(_panel(panel) for panel in content)}</div>'


def image(raster: Raster) -> str:
    """An <img> with its data inside; small pictures are doubled, pixel for pixel."""
    width, height = raster.size
    style = ""
    if height <= LOSSLESS:
        style = ' class="exact"'
        width, height = 2 * width, 2 * height

    size = f'width="{width}" height="{height}"'
    return f'<img{style} {size} loading="lazy" alt="{escape(raster.alt)}" src="{data_uri(raster)}">'


def data_uri(raster: Raster) -> str:
    return f"data:{raster.mime};base64,{b64encode(raster.data).decode()}"


def _panel(panel: Panel) -> str:
    """A sample's pictures: in rows the label comes first, in columns below the picture."""
    pictures = ""
    for raster in panel.rasters:
        label = f'<span class="name">{escape(raster.label)}</span>'
        if panel.arranged == "rows":
            pictures += f"{label}{image(raster)}"
        else:
            pictures += f"<div>{image(raster)}{label}</div>"

    figures = ""
    if panel.scenes and is_installed():
        figures = scenes(panel.scenes)

    return (
        f'<figure class="sample"><figcaption>{escape(panel.title)}</figcaption>'
        f'<div class="{panel.arranged}">{pictures}</div>{figures}</figure>'
    )
