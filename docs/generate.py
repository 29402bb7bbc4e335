"""Write the generated parts of the documentation anew: tables of the registries, stored results, code of the examples.

No number is copied by hand. Below a shown `alignprune table`, a block ``<!-- printed -->`` holds what it prints, of the
runs in docs/results/logs. Tables of runs that are not there were printed into files, which pages show in a block
``<!-- include FILE -->``. Code that the tests run is shown in a block ``<!-- source FILE NAME -->``: the class, the
function or the value of that name.

make docs                 rewrite
make docs ARGS=--check    only report which are not current (exit code 1 if any)
"""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import json
import os
import re
import shlex
import sys
from pathlib import Path

from alignprune import cli, coresets, losses, presets
from alignprune.bench import recipes

ROOT = Path(__file__).resolve().parent.parent


def generated() -> dict[Path, str]:
    """Every file with a generated part, as it should be."""
    parts = {
        "docs/methods.md": ("methods", _cards(presets.table())),
        "docs/coresets.md": ("coresets", _cards(coresets.table())),
        "docs/losses.md": ("losses", _cards(losses.table())),
        "docs/recipes.md": ("recipes", cli.markdown_table(recipes.table())),
        "README.md": ("headline", cli.markdown_table(_headline())),
    }
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
    texts = {page: page.read_text() for page in pages}
    for path, (name, part) in parts.items():
        texts[ROOT / path] = _between(texts[ROOT / path], name, part)
    return {page: _with_sources(page, _with_results(page, _with_tables(text))) for page, text in texts.items()}


_LOGS = "--runs docs/results/logs"
_HEADS = ("CIFAR-100N, a head on EfficientNet-Lite0", "NEWS, 20 groups, a head on MiniLM")
_HEADLINE_ROWS = {
    "everything": "Full-training",
    "stopped by a noisy hold-out": "stopped by a noisy hold-out",
    "`robust` with the loss ELR": "Robust, ELR",
    "oracle: right labels only": "Oracle",
}
_HEADLINE_COLUMNS = {
    "CIFAR-100, clean": (_HEADS[0], "clean"),
    "10 % wrong": (_HEADS[0], "sym_0.1"),
    "people, 40 % wrong": (_HEADS[0], "real"),
    "20 Newsgroups, 50 % wrong": (_HEADS[1], "sym_0.5"),
}


def _headline() -> list[dict[str, str]]:
    """The rows of README's table: accuracy, mean and half of the interval, and the share of forward passes."""
    table = "table evidence --protocol pretrained --measures accuracy forward_fraction"
    found = json.loads(_printed(f"{table} {_LOGS} --json"))
    entries = {(one["block"], one["row"], one["column"], one["measure"]): one for one in found}
    rows = []
    for name, row in _HEADLINE_ROWS.items():
        shown = {"trained on": name, "passes": f"{entries[_HEADS[0], row, 'real', 'forward_fraction']['mean']:.0f} %"}
        for column, (block, noise) in _HEADLINE_COLUMNS.items():
            entry = entries.get((block, row, noise, "accuracy"))
            shown[column] = "-" if entry is None else f"{entry['mean']:.1f} ± {entry['high'] - entry['mean']:.1f}"
        rows.append(shown)
    return rows


def _cards(rows: list[dict[str, str]]) -> str:
    """A card for each row: the first value is its heading."""
    return "\n\n".join(_card(*row.items()) for row in rows)


def _card(name: tuple[str, str], *facts: tuple[str, str]) -> str:
    lines = [f"- **{what}**: {f'`{said}`' if what == 'settings' else said}" for what, said in facts if said != "-"]
    return f"### {name[1]}\n\n" + "\n".join(lines)


def _between(text: str, name: str, part: str) -> str:
    start, end = f"<!-- {name}: written by `make docs` -->", f"<!-- /{name} -->"
    before, rest = text.split(start)
    return f"{before}{start}\n\n{part}\n\n{end}{rest.split(end)[1]}"


_PRINTED = re.compile(
    r"(^```bash\nalignprune (table (?:(?!^```).)*)```\n\n<!-- printed -->\n).*?(?=<!-- /printed -->)",
    flags=re.DOTALL | re.MULTILINE,
)


def _with_tables(text: str) -> str:
    """The page with what every command above a block ``<!-- printed -->`` prints."""
    shown = _PRINTED.sub(lambda block: block[1] + _printed(block[2].replace("\\\n", " ")), text)
    if len(_PRINTED.findall(text)) != text.count("<!-- printed -->"):
        raise LookupError("a block <!-- printed --> has no command of one line, alignprune table, right above it")
    return shown


@functools.cache
def _printed(command: str) -> str:
    printed = io.StringIO()
    os.chdir(ROOT)  # where it is typed
    with contextlib.redirect_stdout(printed):
        code = cli.main(shlex.split(command))
    if code:
        raise LookupError(f"{command} ends with {code}")
    return printed.getvalue().rstrip() + "\n"


def _with_results(page: Path, text: str) -> str:
    """The page with every file that it includes, paths relative to it."""

    def included(block: re.Match[str]) -> str:
        return f"<!-- include {block[1]} -->\n{(page.parent / block[1]).read_text().strip()}\n<!-- /include -->"

    return re.sub(r"<!-- include (\S+) -->\n.*?<!-- /include -->", included, text, flags=re.DOTALL)


def _with_sources(page: Path, text: str) -> str:
    """The page with every class, function or value of an example that it shows, paths relative to it."""

    def shown(block: re.Match[str]) -> str:
        code = _source_of((page.parent / block[1]).read_text(), block[2])
        return f"<!-- source {block[1]} {block[2]} -->\n```python\n{code}\n```\n<!-- /source -->"

    return re.sub(r"<!-- source (\S+) (\S+) -->\n.*?<!-- /source -->", shown, text, flags=re.DOTALL)


def _source_of(module: str, name: str) -> str:
    """The lines of a class or function, decorators included, or of the assignment of a value."""
    for node in ast.parse(module).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            first = node.lineno
        else:
            continue
        return "\n".join(module.splitlines()[first - 1 : node.end_lineno])
    raise LookupError(f"the example defines no {name}")


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
