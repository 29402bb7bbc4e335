"""What an embedder is: fixed features of samples, and all that they depend on.

An embedder is a frozen record. `embed` turns samples into vectors, `key` is what these depend on, `record` is the
embedder as JSON has it. One that learns something first, without labels, is made by `fit` of its settings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from torch import Tensor

from alignprune.bench.data.views import Samples

Progress = Callable[[int, int], object]  # samples done, and all


class Embedder(Protocol):
    """Turns samples into vectors.

    Attributes:
        kind: what to call it in a record.
        learned: whether it has learned from the samples of one run, so that no other run has use for its vectors.
    """

    kind: ClassVar[str]
    learned: ClassVar[bool]

    def embed(self, samples: Samples, progress: Progress | None = None) -> Tensor:
        """The vectors of N samples, float32 [N, D], on the CPU."""
        ...

    def key(self) -> tuple[object, ...]:
        """All that the vectors depend on beside the samples."""
        ...

    def record(self) -> dict[str, Any]:
        """The embedder as JSON has it; arrays are left out."""
        ...
