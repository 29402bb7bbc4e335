"""Lightning Fabric, without torchmetrics.

Fabric asks which torchmetrics there is by importing it, for a check that nothing here uses. Where Lightning is
installed that brings torchvision, SciPy's signals and parts of transformers along: seconds more before a run begins.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _absent(package: str) -> Iterator[None]:
    """Let an import of a package find none, unless it has been imported already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


with _absent("torchmetrics"):
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

__all__ = ["DDPStrategy", "Fabric"]
