"""Write the generated parts of the documentation anew, from the registry that the code runs by.

make docs             rewrite
make docs ARGS=--check    only tell whether they are current (exit code 1 if not)
"""

from __future__ import annotations

import sys
from pathlib import Path

from alignprune import coresets, presets
from alignprune.bench import recipes
from alignprune.cli import markdown_table

ROOT = Path(__file__).resolve().parent.parent


def generated() -> dict[Path, str]:
    """Every file with a generated part, as it should be."""
    rows = presets.table()
    short = [{name: row[name] for name in ("method", "what it does", "when", "reference", "cost")} for row in rows]
    full = [{name: row[name] for name in ("method", "settings", "source")} for row in rows]
    parts = {
        "README.md": ("methods", short),
        "docs/methods.md": ("methods", full),
        "docs/coresets.md": ("coresets", coresets.table()),
        "docs/recipes.md": ("recipes", recipes.table()),
    }
    return {ROOT / path: _between(ROOT / path, name, markdown_table(rows)) for path, (name, rows) in parts.items()}


def _between(path: Path, name: str, table: str) -> str:
    start, end = f"<!-- {name}: written by `make docs` -->", f"<!-- /{name} -->"
    before, rest = path.read_text().split(start)
    return f"{before}{start}\n{table}\n{end}{rest.split(end)[1]}"


def main() -> int:
    """Rewrite, or check."""
    stale = [path for path, text in generated().items() if path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not current: run make docs")
        return 1 if stale else 0
    for path, text in generated().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
