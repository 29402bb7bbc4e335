"""The page of the label report: one offline HTML file to look at the labels that are probably wrong, and to decide.

It holds the most suspicious rows of the table with their samples, and what is counted over the whole table. Vega draws
the charts in the browser; nothing is fetched. Texts of strangers (labels, ids, samples) reach the page as JSON and are
set as text, never as HTML.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignprune._checks import integer
from alignprune._files import replace_file
from alignprune.audit.page import content
from alignprune.audit.page.content import Trajectories, shown
from alignprune.audit.page.samples import Image, Sample, Text, Values
from alignprune.errors import ExistingFile, MissingFile

if TYPE_CHECKING:
    import pandas as pd


def write(
    path: str | os.PathLike[str],
    table: pd.DataFrame,
    summary: dict[str, Any],
    *,
    show: Callable[[int], Sample] | None = None,
    trajectories: Trajectories | None = None,
    rows: int = 2000,
    title: str | None = None,
) -> None:
    """Write the page, whole or not at all.

    Args:
        path: the HTML file to write; its folder must exist, the file must not.
        table: the label report, a row a training sample, all samples of the data set in any order.
        summary: what was counted over the whole table, as JSON has it.
        show: index of a sample -> the sample; None = the page has rows without samples.
        trajectories: losses of the rows that are shown, in the order of `shown(table, rows)`; None = without.
        rows: how many of the most suspicious rows the page holds at most, >= 1.
        title: heading of the page, None = the name in the summary.

    Raises:
        ExistingFile: if the file is there.
        MissingFile: if its folder is not.
        ValueMistake: if table, summary and trajectories do not fit each other.

    Warns:
        UserWarning: how many images could not be read; the page says so at each of them.
    """
    target = Path(path)
    if target.exists():
        raise ExistingFile(f"path={os.fspath(path)!r} is there, expected a new file: remove it, or choose another name")
    if not target.parent.is_dir():
        raise MissingFile(f"path={os.fspath(path)!r} is in no folder, expected an existing one: make the folder first")
    rows = integer("rows", rows, at_least=1, remedy="how many of the most suspicious rows the page holds")
    content.check(table, summary)
    page = _html(title or summary["name"], summary, content.embedded(table, summary, show, trajectories, rows))
    replace_file(target, lambda file: file.write(page.encode("utf-8", "replace")))


def _html(title: str, summary: dict[str, Any], embedded: dict[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    parts = files(__package__)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"count": "{:,}".format, "percent": lambda share: f"{share:.1%}"}
    return environment.from_string((parts / "report.html.jinja").read_text("utf-8")).render(
        title=title,
        summary=summary,
        page=embedded,
        style=Markup((parts / "report.css").read_text("utf-8")),
        vega=Markup(_vega()),
        script=Markup((parts / "report.js").read_text("utf-8")),
        data=Markup(_script_json(embedded)),
    )


@cache
def _vega() -> str:
    """Vega and what draws with it, as one script."""
    from vl_convert import javascript_bundle

    return javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")


def _script_json(value: object) -> str:
    """JSON that may stand in a script element: ASCII, and without the characters that HTML could end it by."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


__all__ = ["Image", "Sample", "Text", "Trajectories", "Values", "shown", "write"]
