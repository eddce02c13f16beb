"""A bar chart for what people would rather look at than read: an SVG file, logarithmic, in light and in dark."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

WIDTH, LEFT, RIGHT, TOP, ROW = 860, 330, 90, 64, 38

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 } .title { font-size: 16px; font-weight: 600 }
.small { font-size: 11px; fill: #59636e } line { stroke: #d1d9e0 } .p50 { fill: #0969da } .p99 { fill: #9cc7f5 }
@media (prefers-color-scheme: dark) { text { fill: #f0f6fc } .small { fill: #9198a1 } line { stroke: #3d444d } .p99 { fill: #1f4d85 } }
""".strip()


def bars(target: Path, *, title: str, subtitle: str, values: Mapping[str, Sequence[float]]) -> None:
    """Draw two bars for each label, the median before the 99th percentile, and write the file.

    Args:
        target: the file.
        title: above it.
        subtitle: below the title: what the bars are, with their unit.
        values: median and 99th percentile by label, greater than 0.
    """
    every = [value for pair in values.values() for value in pair]
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))
    span = (WIDTH - LEFT - RIGHT) / max(high - low, 1)
    height = TOP + ROW * len(values) + 34
    bottom = height - 30
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="12" y="24">{escape(title)}</text>',
        f'<text class="small" x="12" y="44">{escape(subtitle)}</text>',
    ]
    for power in range(low, high + 1):
        x = LEFT + (power - low) * span
        drawn += [
            f'<line x1="{x:.0f}" y1="{TOP - 8}" x2="{x:.0f}" y2="{bottom}"/>',
            f'<text class="small" x="{x:.0f}" y="{bottom + 16}" text-anchor="middle">{10**power:,g}</text>',
        ]
    for number, (label, pair) in enumerate(values.items()):
        y = TOP + ROW * number
        drawn.append(f'<text x="{LEFT - 10}" y="{y + 19}" text-anchor="end">{escape(label)}</text>')
        for name, value, place in (("p50", pair[0], y + 3), ("p99", pair[1], y + 16)):
            length = max((math.log10(value) - low) * span, 1)
            drawn += [
                f'<rect class="{name}" x="{LEFT}" y="{place}" width="{length:.0f}" height="11" rx="2"/>',
                f'<text class="small" x="{LEFT + length + 5:.0f}" y="{place + 9}">{value:,.3g}</text>',
            ]
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join([*drawn, "</svg>", ""]))
