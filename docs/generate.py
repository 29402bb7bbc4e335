"""Write the generated parts of the documentation anew, from the registry that the code runs by.

make docs             rewrite
make docs ARGS=--check    only tell whether they are current (exit code 1 if not)
"""

from __future__ import annotations

import sys
from pathlib import Path

from alignprune import presets
from alignprune.cli import markdown_table

ROOT = Path(__file__).resolve().parent.parent


def generated() -> dict[Path, str]:
    """Every file with a generated part, as it should be."""
    rows = presets.table()
    short = [{name: row[name] for name in ("method", "what it does", "when", "reference", "cost")} for row in rows]
    full = [{name: row[name] for name in ("method", "settings", "source")} for row in rows]
    return {
        ROOT / "README.md": _between(ROOT / "README.md", markdown_table(short)),
        ROOT / "docs/methods.md": _between(ROOT / "docs/methods.md", markdown_table(full)),
    }


def _between(path: Path, table: str) -> str:
    text = path.read_text()
    before, rest = text.split("<!-- methods: written by `make docs` -->")
    after = rest.split("<!-- /methods -->")[1]
    return f"{before}<!-- methods: written by `make docs` -->\n{table}\n<!-- /methods -->{after}"


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
