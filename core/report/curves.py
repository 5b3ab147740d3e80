"""Curves as inline SVG: no script, a few kilobytes each, colours from the page's style."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import ceil, floor, isfinite, log10

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 520, 210, 58, 10, 8, 24
BINS = 160  # points of a line
WIDE = 30.0  # see `chart`
COLOURS, DASHES = 6, 4  # in the page's style; lines beyond the colours are dashed
LINES = COLOURS * DASHES  # that can be told apart


@dataclass(frozen=True, kw_only=True)
class Point:
    """One bin of a line: the step at its end, and mean, least and greatest of its values."""

    x: float
    mean: float
    low: float
    high: float


Lines = Mapping[str, Sequence[Point]]  # by name


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Maps values from `low` to `high` to pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = log10(low), log10(high), log10(value)
        share = (value - low) / ((high - low) or 1)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within the axis, about `count` of them."""
        if self.is_log:
            return self._log_ticks()

        raw_step = ((self.high - self.low) or 1) / count
        power = 10.0 ** floor(log10(raw_step))
        step = power
        for multiple in (2, 5, 10):
            if step < raw_step * 0.999:
                step = multiple * power

        start = ceil(self.low / step - 1e-9)
        stop = floor(self.high / step + 1e-9) + 1
        return [n * step for n in range(start, stop)]

    def _log_ticks(self) -> list[float]:
        """Powers of ten, with their double and fivefold where the axis is short; at most six."""
        multiples = (1,) if self.high > 300 * self.low else (1, 2, 5)
        ticks = []
        for decade in range(floor(log10(self.low)), ceil(log10(self.high)) + 1):
            for multiple in multiples:
                tick = multiple * 10.0**decade
                if self.low <= tick <= self.high:
                    ticks.append(tick)

        return ticks[:: max(1, ceil(len(ticks) / 6))]


def chart(
    title: str,
    x: Sequence[float],
    values: Mapping[str, Sequence[float | None]],
    unit: str = "",
    logs: bool = False,
) -> str:
    """A figure with one or more lines over steps. Values that are None or not finite are left out.

    Long lines are drawn as means of neighbouring log lines, over a band from the least to the greatest of
    them.
    `logs`: on a logarithmic axis where values differ by a factor above `WIDE`.
    """
    lines, summaries = {}, []
    for name, y in values.items():
        points = thin(x, y)
        if points:
            lines[name] = points
            summaries.append(f"{name} from {show(points[0].mean)} to {show(points[-1].mean)}")
    if not lines:
        return ""

    across, up = _axes(lines, logs)
    shapes = [_grid(across, up, unit)]
    for number, points in enumerate(lines.values()):
        shapes.append(_line(points, across, up, _look(number)))
    shapes.append(_readings(lines, across, unit))

    label = f"{title}: {'; '.join(summaries)} {unit}, steps {show(across.low)} to {show(across.high)}"
    return (
        f'<figure class="chart"><figcaption>{escape(title)}{_legend(lines)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(shapes)}</svg></figure>"
    )


def thin(x: Sequence[float], y: Sequence[float | None], bins: int = BINS) -> list[Point]:
    """A line as at most `bins` points; values that are None or not finite are left out."""
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if b is not None and isfinite(b)]
    size = max(1, ceil(len(pairs) / bins))

    points = []
    for start in range(0, len(pairs), size):
        part = pairs[start : start + size]
        values = [b for _, b in part]
        point = Point(x=part[-1][0], mean=sum(values) / len(part), low=min(values), high=max(values))
        points.append(point)
    return points


def show(value: float, digits: int = 3) -> str:
    """A figure with as many digits as a reader needs."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.{digits}g}"


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Figures with as many digits as tell neighbouring ticks apart: 910.2 and 910.4."""
    texts = list(map(show, ticks))
    for digits in range(4, 10):
        if len(set(texts)) < len(texts):
            texts = [show(tick, digits) for tick in ticks]
    return texts


def _axes(lines: Lines, logs: bool) -> tuple[Axis, Axis]:
    """The axis of steps and the axis of values."""
    steps, lows, highs = [], [], []
    for line in lines.values():
        for point in line:
            steps.append(point.x)
            lows.append(point.low)
            highs.append(point.high)

    low, high = min(lows), max(highs)
    is_log = logs and low > 0 and high > WIDE * low

    if not is_log:
        margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
        starts_at_zero = 0 <= low < 0.3 * high
        low = 0.0 if starts_at_zero else low - margin
        high += margin

    across = Axis(low=min(steps), high=max(steps), start=LEFT, end=WIDTH - RIGHT)
    up = Axis(low=low, high=high, start=HEIGHT - BOTTOM, end=TOP, is_log=is_log)
    return across, up


def _grid(across: Axis, up: Axis, unit: str) -> str:
    """Grid lines, ticks and axes."""
    shapes = []
    ticks = up.ticks()
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        y = up.at(tick)
        text = escape(label + unit)
        shapes.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        shapes.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{text}</text>')

    for tick in across.ticks():
        x = across.at(tick)
        anchor = "end" if x > WIDTH - RIGHT - 20 else "middle"
        shapes.append(f'<text x="{x}" y="{HEIGHT - 6}" text-anchor="{anchor}">{show(tick)}</text>')

    shapes.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    return "".join(shapes)


def _look(number: int) -> str:
    """The classes of a line by its number: its colour, and its dashes beyond the colours that there are."""
    return f"c{number % COLOURS} d{number // COLOURS % DASHES}"


def _line(points: Sequence[Point], across: Axis, up: Axis, look: str) -> str:
    """A line, or a dot for a single point, over the band from least to greatest values. `look`: its classes."""
    means, upper, lower = [], [], []
    for point in points:
        x = across.at(point.x)
        means.append(f"{x},{up.at(point.mean)}")
        upper.append(f"{x},{up.at(point.high)}")
        lower.append(f"{x},{up.at(point.low)}")

    band = ""
    if any(point.low < point.high for point in points):
        outline = " ".join([*upper, *reversed(lower)])
        band = f'<polygon class="band {look}" points="{outline}"/>'

    if len(points) == 1:
        x, y = means[0].split(",")
        return band + f'<circle class="dot {look}" cx="{x}" cy="{y}" r="3"/>'
    return band + f'<polyline class="line {look}" points="{" ".join(means)}"/>'


def _readings(lines: Lines, across: Axis, unit: str) -> str:
    """Invisible columns that show the values on hovering, one for each point of the first line."""
    points = next(iter(lines.values()))

    # Columns meet halfway between points.
    edges: list[float] = [LEFT]
    for a, b in pairwise(points):
        edges.append(round((across.at(a.x) + across.at(b.x)) / 2, 1))
    edges.append(WIDTH - RIGHT)

    # The values of all lines, by step.
    values = {}
    for name, line in lines.items():
        for point in line:
            values.setdefault(point.x, []).append(f"{name} {show(point.mean)}{unit}")

    columns = []
    for point, (start, end) in zip(points, pairwise(edges), strict=True):
        text = escape(f"step {show(point.x)}: {', '.join(values[point.x])}")
        box = f'x="{start}" y="{TOP}" width="{round(end - start, 1)}" height="{HEIGHT - BOTTOM - TOP}"'
        columns.append(f'<rect class="reading" {box}><title>{text}</title></rect>')
    return "".join(columns)


def _legend(lines: Lines) -> str:
    """The names of several lines in their colours."""
    if len(lines) == 1:
        return ""

    keys = ""
    for number, name in enumerate(lines):
        keys += f' <span class="key {_look(number)}">{escape(name)}</span>'
    return keys
