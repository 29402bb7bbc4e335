"""Settings: a static method is a frozen record of its settings that chooses samples from a proxy run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from alignprune.coresets.proxy import Extent, Proxy
from alignprune.errors import ValueMistake

_REMEDIES = {
    "strong_features": "record a pass over strongly augmented inputs",
    "strong_logits": "record a pass over strongly augmented inputs",
    "margins": "record it in every epoch of the proxy run",
    "self_supervised": "record features of a self-supervised network, or set features='supervised'",
}


@dataclass(frozen=True)
class Settings(ABC):
    """What every static method offers; subclasses are frozen records of their settings."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Fields of the proxy that may be None and that this method reads."""
        return ()

    def check(self, extent: Extent) -> None:
        """Refuse a proxy run that this method cannot choose by; before it is trained as well as after.

        Args:
            extent: how much it records, or will record.

        Raises:
            ValueMistake: for a field in ``needs`` that is not recorded, and for what else is too little.
        """
        for field in self.needs:
            if field not in extent.recorded:
                raise ValueMistake(
                    f"proxy.{field}=None is not recorded, expected what {type(self).__name__} reads: {_REMEDIES[field]}"
                )

    @abstractmethod
    def select(self, proxy: Proxy, size: int, generator: torch.Generator) -> Tensor:
        """Choose the samples to train on.

        Args:
            proxy: the proxy run, which ``check`` lets pass.
            size: samples to choose, 1 to N.
            generator: the only source of randomness.

        Returns:
            int64 [size], sample indices in any order, each at most once.
        """


@dataclass(frozen=True)
class Random(Settings):
    """A uniform subset, drawn without replacement. It reads nothing of the proxy but its size.

    Source: the baseline of every paper on pruning.
    """

    def select(self, proxy: Proxy, size: int, generator: torch.Generator) -> Tensor:
        return torch.randperm(len(proxy), generator=generator, device="cpu")[:size]
