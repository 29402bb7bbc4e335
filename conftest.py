"""Every block of Python in README.md and docs/ is a test: a page runs as pasted, block by block, from its first line.

The blocks of a page share a namespace and a folder of their own. What a block prints has to stand on its page.
"""

import os

# Before torch is imported: tests work on small tensors, on which threads cost more than they give.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before huggingface_hub is imported: no test needs a network.
os.environ["HF_HUB_OFFLINE"] = "1"

import builtins
import math
import re
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from unittest import mock

import pytest
from sybil import Document, Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
CODE = re.compile(r"^```python$.*?^```$", re.MULTILINE | re.DOTALL)

# What the blocks of some pages need beside the package, and what installs it.
OPTIONAL = {
    "accelerate": "'alignprune[accelerate]'",
    "cleanlab": "'alignprune[rivals]'",
    "datasets": "'alignprune[bench]'",
    "lightning": "'alignprune[lightning]'",
    "pandas": "'alignprune[bench]'",
    "skorch": "skorch",
    "sklearn": "'alignprune[bench]'",
    "timm": "'alignprune[bench]'",
    "transformers": "'alignprune[transformers]'",
    "trl": "'alignprune[trl]'",
    "webdataset": "webdataset",
}


class Block(PythonEvaluator):
    """Runs a block; where one cannot run, the blocks below it on its page are skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: dict[Document, str] = {}

    def __call__(self, example: Example) -> None:
        page = example.document
        if page in self.ended:
            pytest.skip(self.ended[page])
        example.namespace.update(__name__="__main__", print=partial(print_what_stands_on, CODE.sub("", page.text)))
        self.ended[page] = f"the block of line {example.line} failed"
        try:
            super().__call__(example)
        except ModuleNotFoundError as missing:
            if missing.name not in OPTIONAL:
                raise
            self.ended[page] = f"needs {missing.name}: pip install {OPTIONAL[missing.name]}"
            pytest.skip(self.ended[page])
        del self.ended[page]


def print_what_stands_on(page: str, *values: object) -> None:
    """Print, and refuse a line that the page does not show."""
    builtins.print(*values)
    for line in " ".join(map(str, values)).splitlines():
        assert is_shown(line, page), f"the page does not show what its block prints: {line}"


def is_shown(line: str, page: str) -> bool:
    """Whether a page holds a line, its numbers up to 5 %: another processor rounds otherwise."""
    pattern = r"(\d[\d,.]*)".join(map(re.escape, NUMBER.split(line)))
    printed = [number(found) for found in NUMBER.findall(line)]
    return any(
        all(math.isclose(number(said), real, rel_tol=0.05) for said, real in zip(match.groups(), printed, strict=True))
        for match in re.finditer(pattern, page)
    )


def number(text: str) -> float:
    return float(text.replace(",", "").rstrip("."))


@pytest.fixture(scope="module")
def _a_folder_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a page writes, draws and registers ends with it."""
    pytest.importorskip("tyro", reason="the extra cli is not installed")
    import torch

    from alignprune import presets
    from alignprune.bench.results import rankings
    from alignprune.bench.run import trackers

    with ExitStack() as page:
        for registry in (presets._STORE, rankings.RANKERS, trackers._STORE):
            page.enter_context(mock.patch.dict(registry))
        page.enter_context(torch.random.fork_rng(devices=[]))
        torch.manual_seed(0)
        page.enter_context(pytest.MonkeyPatch.context()).chdir(tmp_path_factory.mktemp("page"))
        yield


pytest_collect_file = Sybil(
    parsers=[CodeBlockParser("python", Block()), SkipParser()],
    patterns=["README.md", "docs/*.md", "docs/*/*.md"],
    fixtures=["_a_folder_of_its_own"],
).pytest()
