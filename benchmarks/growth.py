"""The picture of growth: how long the end of an epoch takes, over the number of samples.

    python benchmarks/growth.py

Draws docs/results/images/growth.png from what `speed.py` kept in benchmarks/results.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignprune.bench.results import charts
from speed import RESULTS

PICTURE = Path(__file__).parent.parent / "docs" / "results" / "images" / "growth.png"
_HEADING = "seconds of end_epoch"


def seconds_by_method(results: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    """Of every line that grows, what it measured and the seconds by number of samples."""
    growing = (line for line in results["lines"] if "seconds" in line)
    return {line["method"]: {int(size): seconds for size, seconds in line["seconds"].items()} for line in growing}


def title_of(methods: Mapping[str, Mapping[int, float]]) -> str:
    """What is seen: by how much samples and seconds grow, the smallest size aside, of which fixed costs are most."""
    spans = [sorted(seconds)[1:] for seconds in methods.values()]
    grown = [seconds[span[-1]] / seconds[span[0]] for seconds, span in zip(methods.values(), spans, strict=True)]
    least, most = f"{min(grown):,.0f}", f"{max(grown):,.0f}"
    times = least if least == most else f"{least} to {most}"
    return f"{spans[0][-1] / spans[0][0]:,.0f} times the samples take {times} times as long at the end of an epoch"


def draw(methods: Mapping[str, Mapping[int, float]]) -> Figure:
    """A line a method, both axes logarithmic, and how what grows as the samples do would run."""
    points = [
        charts.Point(method, str(size), value, value, value, math.nan)
        for method, seconds in methods.items()
        for size, value in seconds.items()
    ]
    sizes = sorted(next(iter(methods.values())))
    start = min(seconds[sizes[-1]] for seconds in methods.values()) / 2

    def paint(axes: Axes) -> None:
        charts.paint_lines(axes, points, list(methods), _HEADING)
        axes.plot(sizes, [start * size / sizes[-1] for size in sizes], ":", color="grey", label="as the samples")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.set_yscale("log")
        axes.grid(axis="y", alpha=0.3)

    return charts.lay_out([charts.Panel("", paint, "samples")], 1, title_of(methods), scale=0.8)


def main() -> None:
    """Draw the picture anew."""
    charts.save(draw(seconds_by_method(json.loads(RESULTS.read_text()))), PICTURE)


if __name__ == "__main__":
    main()
