"""Faults that are tests of their own, such as parsers that are given nonsense: each test that ran is a try."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from faults.outcome import Outcome
from faults.processes import Stem, environment

_ROOT = Path(__file__).parents[2]


def campaign(
    count: int, folder: Path, fault: str, tests: tuple[str, ...], *, stem: Stem | None = None, seed: int = 0
) -> Outcome:
    """Run tests, and count them.

    Args:
        count: without a meaning here: the tests say how many they are.
        folder: for the record of the run; made if absent.
        fault: what they do.
        tests: files below ``tests``, or tests in them, as pytest names them.
        stem: without a meaning here.
        seed: without a meaning here.
    """
    folder.mkdir(parents=True)
    record = (folder / "tests.xml").resolve()
    words = ["-m", "pytest", "-n", "0", "-p", "no:cacheprovider", f"--junitxml={record}"]
    subprocess.run(
        [sys.executable, *words, *(f"tests/{name}" for name in tests)], cwd=_ROOT, env=environment(), stdout=2
    )
    cases = [case for case in ElementTree.parse(record).iter("testcase") if case.find("skipped") is None]
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    notes = tuple(f"{case.get('classname')}::{case.get('name')} fails" for case in failed)
    return Outcome(fault, len(cases), len(cases) - len(failed), len(failed), notes)
