"""Lightning Fabric, without torchmetrics.

Fabric asks which torchmetrics there is by importing it, for its SpikeDetection alone, which nothing here uses. Where
Lightning is installed that brings torchvision, SciPy's signals and parts of transformers along: seconds more before a
run begins.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def _absent(package: str) -> Iterator[None]:
    """Let an import of a package find none, unless it has been imported already."""
    modules: dict[str, Any] = sys.modules
    if package in modules:
        yield
        return
    modules[package] = None  # for which Python raises ModuleNotFoundError
    try:
        yield
    finally:
        del modules[package]


with _absent("torchmetrics"):
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

__all__ = ["DDPStrategy", "Fabric"]
