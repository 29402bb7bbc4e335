"""Embedding as a step of a preparation: raw images or texts go in, standardised vectors come out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from alignprune.bench.data.embedding.fitted import FittedEmbedder, load
from alignprune.bench.data.embedding.raw import samples_of
from alignprune.bench.data.preparation import Step
from alignprune.errors import ValueMistake


@dataclass(frozen=True, eq=False)
class Embedding(Step):
    """Images or texts, as the standardised vectors of an embedder: float32 [..., D].

    Attributes:
        embedder: what embeds them; it is kept in files of its own.
    """

    kind: ClassVar[str] = "embedding"
    embedder: FittedEmbedder

    def build(self) -> nn.Module:
        return _Embed(self.embedder)

    def values(self) -> dict[str, Any]:
        return {"embedder": self.embedder.embedder.kind}

    @classmethod
    def read(cls, values: Mapping[str, Any], folder: Path) -> Step:
        found = load(folder)
        if found.embedder.kind != values["embedder"]:
            raise ValueMistake(
                f"folder={str(folder)!r} holds an embedder of the kind {found.embedder.kind!r}, expected "
                f"{values['embedder']!r}, as the record says: the files belong to different runs"
            )
        return cls(found)

    def embeds(self) -> FittedEmbedder:
        return self.embedder

    def save(self, folder: Path) -> None:
        self.embedder.save(folder)


class _Embed(nn.Module):
    def __init__(self, embedder: FittedEmbedder) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, x: Any) -> Tensor:
        single = (
            isinstance(x, str) or not isinstance(x, (Tensor, list, tuple)) or (isinstance(x, Tensor) and x.ndim == 3)
        )
        found = self.embedder.embed_once(samples_of([x] if single else x))
        return found[0] if single else found
