"""Charts as inline SVG, readable without a script or a font of their own."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

COLOURS = ("#2a6f97", "#e07a1f", "#4f8a3c", "#8a4f9e")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 268, 48, 24, 24, 40


def line_chart(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], across: str, up: str) -> str:
    """Lines by name -> (x values, y values), each of at least one point. `across`, `up`: the axes' names."""
    xs = np.concatenate([np.asarray(x, float) for x, _ in series.values()])
    ys = np.concatenate([np.asarray(y, float) for _, y in series.values()])
    x_ticks, y_ticks = ticks(xs.min(), xs.max()), ticks(min(0.0, ys.min()), ys.max())

    def place(x: float, y: float) -> tuple[float, float]:
        x_share = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        y_share = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + x_share * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y_share * (HEIGHT - TOP - BOTTOM)

    parts = []
    for y in y_ticks:
        _, height = place(x_ticks[0], y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in x_ticks:
        parts.append(f'<text x="{place(x, 0)[0]:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x:g}</text>')
    for colour, (x_values, y_values) in zip(COLOURS, series.values(), strict=False):
        points = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in zip(x_values, y_values, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(across)}</text>')
    parts.append(f'<text x="4" y="{TOP - 11}">{escape(up)}</text>')
    return _svg(parts, HEIGHT, key(series))


def bar_chart(labels: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> str:
    """Horizontal bars in percent, a group for each label: series name -> a value 0..100 for each, or None."""
    thick, name_width = 9, 104
    group = thick * len(series) + 8
    height, parts = TOP + group * len(labels), []
    scale = (WIDTH - name_width - 44) / 100
    for row, label in enumerate(labels):
        top = TOP + row * group
        middle = top + (group - 8) / 2 + 4
        parts.append(f'<text x="{name_width - 6}" y="{middle}" text-anchor="end">{escape(label)}</text>')
        for place, (colour, values) in enumerate(zip(COLOURS, series.values(), strict=False)):
            value, y = values[row], top + place * thick
            if value is None:
                continue
            length = value * scale
            parts.append(f'<rect x="{name_width}" y="{y}" width="{length:.1f}" height="{thick - 1}" fill="{colour}"/>')
            parts.append(
                f'<text class="small" x="{name_width + length + 4:.1f}" y="{y + thick - 1}">{value:.1f}</text>'
            )
    return _svg(parts, height, key(series))


def key(names: Sequence[str] | Mapping[str, object]) -> str:
    """What colour is what, as HTML."""
    swatch = '<span class="key"><i style="background:{}"></i>{}</span>'
    return " ".join(swatch.format(colour, escape(name)) for colour, name in zip(COLOURS, names, strict=False))


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers that span `low` .. `high`."""
    span = max(high - low, 1e-9)
    step = 10.0 ** np.floor(np.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (factor * step) <= 5)
    first, last = np.floor(low / step), np.ceil(high / step)
    return [round(float(number * step), 10) for number in np.arange(first, max(last, first + 1) + 1)]


def _svg(parts: Sequence[str], height: float, caption: str) -> str:
    svg = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img">{"".join(parts)}</svg>'
    return f"{svg}<figcaption>{caption}</figcaption>"
