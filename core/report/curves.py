"""Curves as inline SVG: no script, a few kilobytes each, colours from the page's style."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import ceil, floor, isfinite, log10

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 520, 210, 58, 10, 8, 24
BINS = 160  # points drawn of a line
WIDE = 30.0  # see `chart`


@dataclass(frozen=True)
class Point:
    """Part of a line: where it ends, and mean, least and greatest value of what it stands for."""

    x: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Axis:
    """From values to pixels."""

    low: float
    high: float
    start: float  # in pixels
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        low, high, value = (log10(v) if self.is_log else v for v in (self.low, self.high, value))
        return round(self.start + (value - low) / ((high - low) or 1) * (self.end - self.start), 1)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the axis."""
        if self.is_log:
            decades = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
            multiples = (1,) if self.high > 300 * self.low else (1, 2, 5)
            found = [m * 10.0**d for d in decades for m in multiples if self.low <= m * 10.0**d <= self.high]
            return found[:: max(1, ceil(len(found) / 6))]
        raw = ((self.high - self.low) or 1) / count
        power = 10.0 ** floor(log10(raw))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
        first = ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, floor(self.high / step + 1e-9) + 1)]


def chart(
    title: str, x: Sequence[float], lines: Mapping[str, Sequence[float | None]], unit: str = "", logs: bool = False
) -> str:
    """A figure with one or more lines over steps. Values that are None or not finite are left out.

    Long lines are drawn as means of neighbouring log lines, over a band from the least to the greatest of them. `logs`:
    on a logarithmic axis where values differ by a factor above `WIDE`.
    """
    drawn = {name: thin(x, ys) for name, ys in lines.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return ""
    across, up = _axes(drawn, logs)
    shapes = [_grid(across, up, unit)]
    for number, points in enumerate(drawn.values()):
        shapes.append(_line(points, across, up, number % 6))
    shapes.append(_readings(drawn, across, unit))
    says = "; ".join(f"{name} from {show(p[0].mean)} to {show(p[-1].mean)}" for name, p in drawn.items())
    label = f"{title}: {says} {unit}, steps {show(across.low)} to {show(across.high)}"
    return (
        f'<figure class="chart"><figcaption>{escape(title)}{_legend(drawn)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(shapes)}</svg></figure>'
    )


def thin(x: Sequence[float], y: Sequence[float | None], bins: int = BINS) -> list[Point]:
    """At most `bins` points of a line."""
    known = [(a, b) for a, b in zip(x, y, strict=True) if b is not None and isfinite(b)]
    size = max(1, ceil(len(known) / bins))
    parts = [known[start : start + size] for start in range(0, len(known), size)]
    return [
        Point(part[-1][0], sum(b for _, b in part) / len(part), min(b for _, b in part), max(b for _, b in part))
        for part in parts
    ]


def show(value: float) -> str:
    """A figure with as many digits as a reader needs."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.3g}"


def _axes(drawn: Mapping[str, Sequence[Point]], logs: bool) -> tuple[Axis, Axis]:
    points = [point for line in drawn.values() for point in line]
    low, high = min(p.low for p in points), max(p.high for p in points)
    is_log = logs and low > 0 and high > WIDE * low
    if not is_log:
        margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
        low, high = (0.0 if 0 <= low < 0.3 * high else low - margin), high + margin
    across = Axis(min(p.x for p in points), max(p.x for p in points), LEFT, WIDTH - RIGHT)
    return across, Axis(low, high, HEIGHT - BOTTOM, TOP, is_log)


def _grid(across: Axis, up: Axis, unit: str) -> str:
    out = []
    for tick in up.ticks():
        y = up.at(tick)
        out.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{escape(show(tick) + unit)}</text>')
    for tick in across.ticks():
        anchor = "end" if across.at(tick) > WIDTH - RIGHT - 20 else "middle"
        out.append(f'<text x="{across.at(tick)}" y="{HEIGHT - 6}" text-anchor="{anchor}">{show(tick)}</text>')
    out.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    return "".join(out)


def _line(points: Sequence[Point], across: Axis, up: Axis, colour: int) -> str:
    path = " ".join(f"{across.at(p.x)},{up.at(p.mean)}" for p in points)
    out = ""
    if any(p.low < p.high for p in points):
        edge = [f"{across.at(p.x)},{up.at(p.high)}" for p in points]
        edge += [f"{across.at(p.x)},{up.at(p.low)}" for p in reversed(points)]
        out = f'<polygon class="band c{colour}" points="{" ".join(edge)}"/>'
    if len(points) == 1:
        return out + f'<circle class="dot c{colour}" cx="{path.split(",")[0]}" cy="{path.split(",")[1]}" r="3"/>'
    return out + f'<polyline class="line c{colour}" points="{path}"/>'


def _readings(drawn: Mapping[str, Sequence[Point]], across: Axis, unit: str) -> str:
    """Invisible columns that show the values on hovering."""
    first = next(iter(drawn.values()))
    edges = [LEFT, *(round((across.at(a.x) + across.at(b.x)) / 2, 1) for a, b in pairwise(first)), WIDTH - RIGHT]
    values = {name: {point.x: point.mean for point in line} for name, line in drawn.items()}
    out = []
    for point, (start, end) in zip(first, pairwise(edges), strict=True):
        read = ", ".join(f"{name} {show(at[point.x])}{unit}" for name, at in values.items() if point.x in at)
        text = escape(f"step {show(point.x)}: {read}")
        place = f'x="{start}" y="{TOP}" width="{round(end - start, 1)}" height="{HEIGHT - BOTTOM - TOP}"'
        out.append(f'<rect class="reading" {place}><title>{text}</title></rect>')
    return "".join(out)


def _legend(drawn: Mapping[str, Sequence[Point]]) -> str:
    if len(drawn) == 1:
        return ""
    return "".join(f' <span class="key c{n % 6}">{escape(name)}</span>' for n, name in enumerate(drawn))
