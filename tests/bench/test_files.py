"""Files that other programs can read."""

from __future__ import annotations

import json
from pathlib import Path

from alignprune.bench.files import write_json


def test_json_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": float("nan"), "b": [1.0, float("inf")]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [1.0, None]}
