"""The documentation says what the code does: generated parts are current, its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from statistics import median
from types import ModuleType

import pytest

import alignprune

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def test_generated_tables_are_current() -> None:
    check = subprocess.run([sys.executable, ROOT / "docs/generate.py", "--check"], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout + check.stderr


def test_links_lead_to_files() -> None:
    broken = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text())
        if not target.startswith("http") and not (page.parent / target).is_file()
    ]
    assert broken == []


def test_every_public_name_is_in_the_reference() -> None:
    shown = {
        name
        for page in (ROOT / "docs" / "reference").glob("*.md")
        for name in re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE)
    }
    values = {name: getattr(alignprune, name) for name in alignprune.__all__}
    homes = {
        name: value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", "alignprune.presets")
        for name, value in values.items()
    }
    absent = {
        name
        for name, home in homes.items()
        if not shown & {home, f"{home}.{name}", f"alignprune.{name}", home.rpartition(".")[0]} - {"alignprune"}
    }
    assert absent == set()


def test_the_map_of_the_site_has_every_page() -> None:
    pages = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]))
    parts = re.compile(r"results/(beyond|label-issues)-")
    written = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").glob("**/*.md")}
    assert {page for page in written if not parts.match(page)} == pages - {"index.md", "code/CHANGELOG.md"}


def sentences(page: Path) -> list[str]:
    """The sentences of a page's prose: without code, tables, headings, generated parts and addresses of links."""
    text = page.read_text()
    for part in (r"<!-- (include|source) .*?<!-- /\1 -->", r"<!-- (\w+): written .*?<!-- /\1 -->", r"```.*?```"):
        text = re.sub(part, "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->|!\[[^]]*\]\([^)]*\)", "", text, flags=re.DOTALL)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "code", text).replace("*", "")
    text = re.sub(r"^( *\||#|:::| {4}options:| {6}).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*(- |\d+\. )", "\n\n", text, flags=re.MULTILINE)
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return [said for paragraph in paragraphs if paragraph for said in re.split(r"(?<=[.!?:])\s+(?=[\w'(])", paragraph)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_sentences_are_short(page: Path) -> None:
    said = [(len(sentence.split()), sentence) for sentence in sentences(page)]
    assert [sentence for words, sentence in said if words > 40] == []
    if said:
        assert median(words for words, _ in said) <= 18


def test_half_of_all_sentences_have_sixteen_words_at_most() -> None:
    assert median(len(sentence.split()) for page in PAGES for sentence in sentences(page)) <= 16


def test_pictures_are_described() -> None:
    pictures = [
        (page.name, alternative, page.parent / path)
        for page in PAGES
        for alternative, path in re.findall(r"!\[([^]]*)\]\(([^)]+)\)", page.read_text())
    ]
    assert pictures
    assert [found for found in pictures if len(found[1].split()) < 5 or not found[2].exists()] == []
