"""The charts of the page: Vega-Lite by Altair, compiled to Vega for either theme; the page brings the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CLASSES = 25  # more cells could not be told apart
_BINS = 50

# As in report.css.
_COLOURS = {
    "light": {"ink": "#1f2126", "muted": "#5c606a", "line": "#e3e2de", "faint": "#f1f0ec", "accent": "#b8430e"},
    "dark": {"ink": "#e9e7e3", "muted": "#a3a6ae", "line": "#33363d", "faint": "#26282d", "accent": "#ff9b62"},
}


def flips(suspected: Sequence[dict[str, Any]], classes: Sequence[str]) -> dict[str, Any]:
    """The part of the suspected flips that the heat map shows: those among the classes of the most frequent.

    Args:
        suspected: records with given, suggested, count and expected.
        classes: names of all classes.

    Returns:
        JSON: the cells, the classes of the axes, and how many suspected flips are shown of how many.
    """
    most: set[str] = set()
    for flip in sorted(suspected, key=lambda flip: -flip["count"]):
        if len(pair := most | {flip["given"], flip["suggested"]}) <= _CLASSES:
            most = pair
    cells = [flip for flip in suspected if flip["given"] in most and flip["suggested"] in most]
    return {
        "cells": cells,
        "classes": [name for name in classes if name in most],
        "shown": sum(flip["count"] for flip in cells),
        "total": sum(flip["count"] for flip in suspected),
    }


def histogram(p_wrong: NDArray[np.float64]) -> list[dict[str, float]]:
    """How many samples of the whole table lie in each of 50 bins of p_wrong; NaN in none."""
    counts, edges = np.histogram(p_wrong[~np.isnan(p_wrong)], bins=_BINS, range=(0, 1))
    bounds = [round(edge, 2) for edge in edges.tolist()]
    return [
        {"low": low, "high": high, "count": count}
        for low, high, count in zip(bounds[:-1], bounds[1:], counts.tolist(), strict=True)
    ]


def specs(classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Vega specifications without data, by theme and name: flips, histogram and curves."""
    return {
        theme: {
            "flips": _vega(_flips(classes, colours), colours),
            "histogram": _vega(_histogram(colours), colours),
            "curves": _vega(_curves(colours), colours),
        }
        for theme, colours in _COLOURS.items()
    }


def _flips(classes: Sequence[str], colours: dict[str, str]) -> Any:
    import altair as alt

    side = alt.Step(30 if len(classes) <= 12 else 15)
    axis = alt.Scale(domain=list(classes), paddingInner=0.06)
    return (
        alt.Chart(alt.NamedData("cells"))
        .mark_rect(cursor="pointer", cornerRadius=2)
        .encode(
            x=alt.X("suggested:N", scale=axis, title=None, axis=alt.Axis(orient="top", labelAngle=-60, labelLimit=110)),
            y=alt.Y("given:N", scale=axis, title=None, axis=alt.Axis(labelLimit=110)),
            color=alt.Color(
                "count:Q",
                scale=alt.Scale(range=[colours["faint"], colours["accent"]], interpolate="rgb", zero=True),
                legend=None,
            ),
            tooltip=["given:N", "suggested:N", "count:Q", "expected:Q"],
        )
        .properties(width=side, height=side)
    )


def _histogram(colours: dict[str, str]) -> Any:
    import altair as alt

    return (
        alt.Chart(alt.NamedData("bins"))
        .mark_bar(binSpacing=1)
        .encode(
            x=alt.X("low:Q", bin="binned", scale=alt.Scale(domain=[0, 1]), axis=None),
            x2="high:Q",
            # Most samples lie near 0: on a linear axis the others could not be seen.
            y=alt.Y("count:Q", scale=alt.Scale(type="sqrt"), axis=None),
            color=alt.condition("datum.high > threshold", alt.value(colours["accent"]), alt.value(colours["line"])),
            tooltip=[alt.Tooltip("low:Q", title="p_wrong from"), alt.Tooltip("high:Q", title="to"), "count:Q"],
        )
        .add_params(alt.param(name="threshold", value=0))
        # The thumb of the slider below is 16 pixels wide, and its middle is what counts.
        .properties(width="container", height=64, padding={"left": 8, "right": 8, "top": 2, "bottom": 0})
    )


def _curves(colours: dict[str, str]) -> Any:
    import altair as alt

    lines = ["given", "suggested", "sample"]
    base = alt.Chart(alt.NamedData("points")).encode(
        x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(grid=False, tickMinStep=1, format="d", tickCount=6)),
        y=alt.Y("loss:Q", title="loss", axis=alt.Axis(tickCount=4)),
        color=alt.Color(
            "line:N",
            scale=alt.Scale(domain=lines, range=[colours["muted"], colours["ink"], colours["accent"]]),
            legend=None,
        ),
    )
    line = base.mark_line(strokeWidth=2, invalid="break-paths-show-domains").encode(
        strokeDash=alt.StrokeDash("line:N", scale=alt.Scale(domain=lines, range=[[1, 0], [5, 4], [1, 0]]), legend=None)
    )
    points = base.transform_filter("datum.line === 'sample'").mark_point(filled=True, size=14, opacity=1)
    return (line + points.encode(tooltip=["epoch:Q", "loss:Q"])).properties(width="container", height=150)


def _vega(chart: Any, colours: dict[str, str]) -> dict[str, Any]:
    from vl_convert import vegalite_to_vega

    font = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
    axis = {
        "labelColor": colours["muted"],
        "titleColor": colours["muted"],
        "labelFont": font,
        "titleFont": font,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
        "titlePadding": 10,
        "gridColor": colours["line"],
    }
    themed = chart.configure(background="transparent", axis=axis, view={"stroke": None})
    spec: dict[str, Any] = vegalite_to_vega(themed.to_dict())
    return spec
