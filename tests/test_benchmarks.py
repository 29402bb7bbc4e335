"""The benchmark measures what it says, judges by its goals, keeps what it found, and its picture shows that."""

from __future__ import annotations

import importlib
import json
import mmap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm", reason="the extra bench is not installed")

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"

with pytest.MonkeyPatch.context() as _patch:
    _patch.syspath_prepend(BENCHMARKS)
    speed, growth = importlib.import_module("speed"), importlib.import_module("growth")
    line, process = importlib.import_module("lines.line"), importlib.import_module("lines.process")

MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def _benchmarks_are_found_by_processes() -> Iterator[None]:
    """As they are where `speed.py` is the program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts lines in the place of the benchmark's, each by its name and what it is said to find; all have the goal 2."""

    def put(**found: float | Exception) -> None:
        def measure(value: float | Exception) -> Callable[[object], object]:
            def found_by(sizes: object) -> object:
                if isinstance(value, Exception):
                    raise value
                return line.Found(value, samples=7)

            return found_by

        every = tuple(line.Line(what, "a unit", 2.0, measure(value)) for what, value in found.items())
        monkeypatch.setattr(speed, "EVERY", every)

    return put


def kept_in(path: Path) -> dict[str, tuple[float | None, bool]]:
    """Ratio and judgement by line."""
    return {one["what"]: (one["ratio"], one["met"]) for one in json.loads(path.read_text())["lines"]}


# -- measuring -----------------------------------------------------------------------------------------------


def test_a_ratio_is_the_median_over_turns_after_one_that_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(line.time, "perf_counter", lambda: clock[0])
    works, units = iter([100.0, 3.0, 8.0, 1.0]), iter([1.0, 1.0, 2.0, 2.0])

    def takes(seconds: Iterator[float]) -> Callable[[], None]:
        def run() -> None:
            clock[0] += next(seconds)

        return run

    found = line.in_turns(takes(works), takes(units), samples=5, repeats=3, prepare=takes(iter([50.0] * 4)))
    assert (found.ratio, found.milliseconds, found.samples, found.repeats) == (3.0, 3_000.0, 5, 3)


def test_the_peak_of_anonymous_memory_knows_what_was_let_go_and_leaves_out_mapped_files(tmp_path: Path) -> None:
    file = tmp_path / "mapped"
    file.write_bytes(bytes(96 * MIB))
    with process.AnonymousPeak() as peak:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert np.frombuffer(mapped, np.uint8).sum() == 0
            wait_for_a_look(peak)
        kept = np.full(64 * MIB, 1, np.uint8)
        wait_for_a_look(peak)
        del kept
        wait_for_a_look(peak)
    assert peak.bytes == pytest.approx(64 * MIB, abs=16 * MIB)


def wait_for_a_look(peak: Any) -> None:
    """Wait until the memory has been looked at as it is now, however busy the machine is."""
    before = peak.looks
    while peak.looks < before + 2:  # the first of them may have begun before
        time.sleep(0.001)


def test_a_process_of_its_own_holds_nothing_of_this_one() -> None:
    before = process.alone(process.held, "VmHWM")
    kept = np.full(400 * MIB, 1, np.uint8)
    assert process.held("VmRSS") > kept.nbytes
    assert process.alone(process.held, "VmHWM") == pytest.approx(before, abs=32 * MIB)


@pytest.mark.parametrize("one", speed.EVERY, ids=lambda one: f"{one.what}, {one.against}")
def test_every_line_is_measured(one: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(speed, "EVERY", (one,))
    assert speed.main(["--quick", "--out", str(tmp_path / "found.json")]) == 0
    (kept,) = json.loads((tmp_path / "found.json").read_text())["lines"]
    assert kept["samples"] > 0
    assert np.isfinite(kept["ratio"])


# -- judging and keeping -------------------------------------------------------------------------------------


def test_a_missed_goal_fails_the_run_and_is_marked(
    lines: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines(good=2.0, bad=2.1)
    assert speed.main(["--out", str(tmp_path / "found.json")]) == 1
    assert kept_in(tmp_path / "found.json") == {"good": (2.0, True), "bad": (2.1, False)}
    good, bad = capsys.readouterr().out.splitlines()[-2:]
    assert "MISSED" not in good
    assert bad.endswith("MISSED")
    lines(good=2.0)
    assert speed.main(["--out", str(tmp_path / "found.json")]) == 0


def test_a_line_that_fails_costs_no_other_and_meets_no_goal(
    lines: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines(broken=RuntimeError("no room"), good=1.0)
    for words in (["--out", str(tmp_path / "found.json")], ["--quick", "--out", str(tmp_path / "found.json")]):
        assert speed.main(words) == 1
        assert kept_in(tmp_path / "found.json") == {"broken": (None, False), "good": (1.0, True)}
        assert "RuntimeError: no room" in capsys.readouterr().out


def test_small_sizes_judge_no_goal_and_are_kept_only_where_it_is_said(
    lines: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speed, "RESULTS", tmp_path / "results.json")
    lines(bad=5.0)
    assert speed.main(["--quick"]) == 0
    assert "MISSED" not in capsys.readouterr().out
    assert not (tmp_path / "results.json").exists()


def test_a_ratio_that_meets_its_goal_with_a_flaw_does_not_count() -> None:
    found = line.Found(0.1, samples=7)
    one = line.Line("this", "that", 1.0, lambda sizes: found)
    assert one.is_met(found)
    assert not one.is_met(replace(found, flaw="another selection"))
    assert not one.is_met(replace(found, ratio=float("nan")))


def test_only_names_what_is_measured_and_the_other_lines_stay(lines: Callable[..., None], tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "found.json")]
    lines(first=1.0, second=1.0)
    speed.main(out)
    lines(first=9.0, second=1.5)
    speed.main(["--only", "SECOND", *out])
    assert kept_in(tmp_path / "found.json") == {"first": (1.0, True), "second": (1.5, True)}


def test_lines_of_another_machine_do_not_stay(
    lines: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ["--out", str(tmp_path / "found.json")]
    lines(first=1.0, second=1.0)
    speed.main(out)
    here = speed.machine()
    monkeypatch.setattr(speed, "machine", lambda: here | {"cores": here["cores"] + 1})
    speed.main(["--only", "second", *out])
    assert kept_in(tmp_path / "found.json") == {"second": (1.0, True)}


def test_a_list_has_every_line_and_measures_none(
    lines: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines(first=RuntimeError("measured"), second=RuntimeError("measured"))
    assert speed.main(["--list"]) == 0
    assert [printed.split()[0] for printed in capsys.readouterr().out.splitlines()] == ["first", "second"]


def test_no_line_of_such_a_text_is_said(lines: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    lines(first=1.0)
    assert speed.main(["--only", "nothing"]) == 2
    assert "nothing" in capsys.readouterr().err


# -- the picture ---------------------------------------------------------------------------------------------


def test_the_picture_of_growth_shows_what_was_kept_and_says_it() -> None:
    kept = {
        "lines": [
            {"what": "of no growth", "ratio": 1.0},
            {"what": "growth", "method": "one", "seconds": {"10": 5.0, "100": 6.0, "10000": 600.0}},
            {"what": "growth", "method": "other", "seconds": {"10": 5.0, "100": 2.0, "10000": 300.0}},
        ]
    }
    figure = growth.draw(growth.seconds_by_method(kept))
    (axes,) = figure.axes
    drawn = {one.get_label(): one.get_xydata().tolist() for one in axes.lines}
    assert drawn["one"] == [[10, 5], [100, 6], [10_000, 600]]
    assert drawn["other"] == [[10, 5], [100, 2], [10_000, 300]]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert "100 times the samples take 100 to 150 times as long" in figure.legends[0].get_title().get_text()
