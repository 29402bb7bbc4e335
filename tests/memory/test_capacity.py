"""How much room there is, against files as systems write them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alignprune.memory import capacity

GIB = 2**30


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A system of its own, of which nothing is known yet."""
    for name, place in {"_MEMINFO": "meminfo", "_OWN_GROUPS": "groups", "_CGROUPS": "cgroup"}.items():
        monkeypatch.setattr(capacity, name, tmp_path / place)
    return tmp_path


def put(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content + "\n")


def free() -> int | None:
    return capacity.free_memory(torch.device("cpu"))


def test_of_an_unknown_system_nothing_is_said(system: Path) -> None:
    assert free() is None
    put(system, meminfo="MemTotal: 100 kB", groups="0::/")
    assert free() is None


def test_the_machine_says_what_is_available(system: Path) -> None:
    put(system, meminfo="MemTotal:  16777216 kB\nMemFree: 1 kB\nMemAvailable:    8388608 kB")
    assert free() == 8 * GIB


def test_the_tightest_of_the_groups_that_a_process_is_in_decides(system: Path) -> None:
    put(system, meminfo="MemAvailable: 8388608 kB", groups="0::/outer/inner")
    put(system / "cgroup" / "outer", memory__max=str(4 * GIB), memory__current=str(3 * GIB), memory__stat="anon 5")
    put(system / "cgroup" / "outer" / "inner", memory__max="max", memory__current=str(GIB))
    assert free() == GIB
    put(system / "cgroup" / "outer" / "inner", memory__max=str(2 * GIB), memory__current=str(2 * GIB - 7))
    assert free() == 7


def test_files_that_a_group_has_cached_make_room(system: Path) -> None:
    put(system, groups="0::/")
    stat = f"anon 1\nactive_file {GIB}\ninactive_file 5\nfile 9"
    put(system / "cgroup", memory__max=str(2 * GIB), memory__current=str(2 * GIB), memory__stat=stat)
    assert free() == GIB + 5


def test_the_older_groups_are_read_as_well(system: Path) -> None:
    put(system, meminfo="MemAvailable: 8388608 kB", groups="5:cpu:/job\n4:memory,hugetlb:/job\n0::/")
    stat = "active_file 1\ntotal_active_file 100\ntotal_inactive_file 10"
    files = {"memory__limit_in_bytes": str(GIB), "memory__usage_in_bytes": str(GIB), "memory__stat": stat}
    put(system / "cgroup" / "memory" / "job", **files)
    assert free() == 110


def test_a_group_that_took_more_than_it_may_has_nothing_left(system: Path) -> None:
    put(system, groups="0::/")
    put(system / "cgroup", memory__max="100", memory__current="120")
    assert free() == 0


def test_an_accelerator_has_what_it_says_and_what_torch_holds_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3 * GIB)
    assert capacity.free_memory(torch.device("cuda", 0)) == 12 * GIB
    assert capacity.free_memory(torch.device("meta")) is None


def test_a_file_that_would_be_overwritten_makes_room_on_its_disk(tmp_path: Path) -> None:
    path = tmp_path / "bank.bin"
    before = capacity.free_disk(path)
    assert before is not None
    path.write_bytes(bytes(10**8))
    after = capacity.free_disk(path)
    assert after is not None
    assert abs(after - before) < 5 * 10**7  # other processes write too
    assert capacity.free_disk(tmp_path / "no folder" / "bank.bin") is None


@pytest.mark.parametrize("size, text", [(7, "7 bytes"), (4_000, "4 kB"), (11_100, "11.1 kB"), (11 * 10**9, "11.0 GB")])
def test_sizes_are_shown_in_units_that_people_read(size: int, text: str) -> None:
    assert capacity.shown(size) == text
