"""The cache of computed arrays: computed once, again when anything changes, never half a file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from alignprune.bench.data.cache import cached


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ALIGNPRUNE_CACHE", str(folder))
    return folder


def counting() -> tuple[list[int], Callable[[], dict[str, np.ndarray]]]:
    """How often it was called, and a calculation whose result tells one call from another."""
    calls: list[int] = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"values": np.arange(3, dtype=np.float32) + len(calls), "ids": np.array([7])}

    return calls, compute


def test_arrays_are_computed_once(cache: Path) -> None:
    calls, compute = counting()
    first = cached("kept", {"a": 1, "b": "x"}, compute)
    again = cached("kept", {"b": "x", "a": 1}, compute)
    assert len(calls) == 1
    assert first.keys() == again.keys() == {"values", "ids"}
    for name in first:
        assert np.array_equal(first[name], again[name])
        assert first[name].dtype == again[name].dtype
    (file,) = cache.glob("*.npz")
    assert file.name.startswith("kept-")


def test_any_change_of_what_they_depend_on_computes_them_again(cache: Path, tmp_path: Path) -> None:
    calls, compute = counting()
    file, copy = tmp_path / "a.txt", tmp_path / "b.txt"
    file.write_text("one")
    copy.write_text("one")
    array = np.arange(6)
    base: dict[str, object] = {"n": 1, "file": file, "array": array}
    same = [base, {**base, "file": copy}, {**base, "array": array[::-1][::-1]}]
    for depends_on in same:
        cached("kept", depends_on, compute)
    assert len(calls) == 1
    changes: list[dict[str, object]] = [
        {"n": 2},
        {"n": "1"},
        {"n": None},
        {"m": 1},
        {"array": array + 1},
        {"array": array.reshape(2, 3)},
        {"array": array.astype(np.uint64)},
        {"file": str(file)},
    ]
    for count, change in enumerate(changes, start=2):
        cached("kept", {**base, **change}, compute)
        assert len(calls) == count
    file.write_text("two")
    cached("kept", base, compute)
    cached("other", base, compute)
    assert len(calls) == len(list(cache.glob("*.npz"))) == len(changes) + 3


def test_a_failed_calculation_leaves_nothing(cache: Path) -> None:
    def fail() -> dict[str, np.ndarray]:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        cached("kept", {}, fail)
    assert not list(cache.glob("*.npz"))


def test_of_those_who_ask_at_once_one_computes_and_if_it_fails_the_next(cache: Path) -> None:
    calls: list[int] = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        first = len(calls) == 1
        time.sleep(0.3)  # in which the others come
        if first:
            raise RuntimeError("no memory")
        return {"values": np.array([len(calls)])}

    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(cached, "kept", {}, compute) for _ in range(4)]
    failures = [one for one in found if one.exception() is not None]
    assert [str(one.exception()) for one in failures] == ["no memory"]
    assert [one.result()["values"].tolist() for one in found if one not in failures] == [[2]] * 3
    assert len(calls) == 2


def test_a_damaged_file_of_the_cache_is_named_and_made_anew(cache: Path) -> None:
    calls, compute = counting()
    cached("kept", {}, compute)
    (file,) = cache.glob("*.npz")
    for count, content in enumerate((b"", b"no archive", file.read_bytes()[:-40]), start=2):
        file.write_bytes(content)
        with pytest.warns(UserWarning, match=r"path='.*kept-.*\.npz' is damaged .*: it is computed again"):
            cached("kept", {}, compute)
        assert len(calls) == count
        assert cached("kept", {}, compute)["values"].tolist() == [count, count + 1, count + 2]


def test_without_a_folder_of_its_own_the_cache_is_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALIGNPRUNE_CACHE", raising=False)
    monkeypatch.setenv("USERPROFILE" if os.name == "nt" else "HOME", str(tmp_path))
    cached("kept", {}, counting()[1])
    assert len(list((tmp_path / ".cache" / "alignprune").glob("*.npz"))) == 1
