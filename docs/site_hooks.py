"""What the site adds to the pages: the README as its home, the code that pages link to, and a map for language models.

Pages link to files beside `docs/`, so that they can be followed in the repository. Here each such file becomes a page
of its own below `code/`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "examples/*.py", "tests/integrations/*.py")
LANGUAGES = {".py": "python", ".cff": "yaml"}
LINK = re.compile(r"\]\((?!\w+:)(?P<path>[^)#\s]+)(?P<rest>#[^)\s]*)?\)")

_map: list[str] = []


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the home page, and a page for every file outside of `docs/` that pages link to."""
    files.append(File.generated(config, "index.md", content=_moved("README.md", "index.md")))
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            file = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, _page_of(file), content=_shown(file)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links that leave `docs/` lead to the pages of what they name."""
    here = PurePosixPath(page.file.src_uri).parent

    def led(path: str) -> str:
        file = os.path.normpath("docs" / here / path)
        return path if file.startswith("docs/") else os.path.relpath(_page_of(file), here)

    return _relinked(markdown, led)


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> Navigation:
    """Remember the pages in the order of the navigation."""
    _map.clear()
    section = ""
    for page in nav.pages:
        above = page.ancestors[-1].title if page.ancestors else "First"
        if above != section:
            _map.extend(["", f"## {above}", ""])
            section = above
        _map.append(f"- [{page.title or above}]({page.file.dest_uri}): {_first_sentence(page.file.content_string)}")
    return nav


def on_post_build(config: MkDocsConfig, **_: Any) -> None:
    """Write llms.txt: what the project is, and its pages with a sentence each."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", *_map]
    (Path(config.site_dir) / "llms.txt").write_text("\n".join(lines) + "\n")


def _page_of(file: str) -> str:
    """The page of a file outside of `docs/`, as seen from there."""
    return f"code/{Path(file).with_suffix('.md')}"


def _shown(file: str) -> str:
    if file.endswith(".md"):
        return _moved(file, _page_of(file))
    return f"# {file}\n\n```{LANGUAGES[Path(file).suffix]}\n{(ROOT / file).read_text()}```\n"


def _moved(file: str, page: str) -> str:
    """The text of a file, its links as seen from its page."""
    place = os.path.dirname(f"docs/{page}")
    return _relinked((ROOT / file).read_text(), lambda path: os.path.relpath(path, place))


def _relinked(markdown: str, led: Callable[[str], str]) -> str:
    return LINK.sub(lambda link: f"]({led(link['path'])}{link['rest'] or ''})", markdown)


def _first_sentence(markdown: str) -> str:
    """Of the first paragraph below the title, without its links."""
    for paragraph in re.sub(r"```.*?```", "", markdown, flags=re.DOTALL).split("\n\n"):
        if re.match(r"[\w`*]", paragraph):
            text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", " ".join(paragraph.split()))
            return re.split(r"(?<=\.)\s", text)[0].rstrip(":")
    return ""
