"""How much room there is, asked before anything is allocated: what does not fit is refused while all is well."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

_CGROUPS = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_OWN_GROUPS = Path("/proc/self/cgroup")
_KIBIBYTE = 1024


def free_memory(device: torch.device) -> int | None:
    """Bytes that could be allocated on a device; None where that is unknown."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return min(_free_on_host(), default=None) if device.type == "cpu" else None


def free_disk(path: Path) -> int | None:
    """Bytes that a file could have; None where that is unknown."""
    try:
        free = shutil.disk_usage(path.parent).free
        return free + (path.stat().st_size if path.exists() else 0)
    except OSError:
        return None


def shown(size: int) -> str:
    """Bytes as people read them: 11.0 GB."""
    for power, unit in enumerate(("bytes", "kB", "MB")):
        if size < 1000 ** (power + 1):
            return f"{size / 1000**power:.3g} {unit}"
    return f"{size / 1e9:,.1f} GB"


def _free_on_host() -> Iterator[int]:
    """What the machine has left, and what each group of processes that this one is in may still take."""
    for line in _lines(_MEMINFO):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * _KIBIBYTE
    for line in _lines(_OWN_GROUPS):
        _, controllers, own = line.split(":", 2)
        if not controllers:
            yield from _free_in_groups(_CGROUPS, own, "memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            yield from _free_in_groups(_CGROUPS / "memory", own, *files)


def _free_in_groups(root: Path, own: str, limit: str, usage: str, prefix: str) -> Iterator[int]:
    group = root / own.lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            return
        (most, *_), (taken, *_) = _lines(folder / limit) or [""], _lines(folder / usage) or [""]
        if most.isdigit() and taken.isdigit():  # "max" is no limit, and a container sees no folders of its host
            held = dict(line.split() for line in _lines(folder / "memory.stat"))
            cache = sum(int(held.get(f"{prefix}{part}_file", 0)) for part in ("active", "inactive"))
            yield max(0, int(most) - int(taken) + cache)  # cached files make room for who needs it


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
