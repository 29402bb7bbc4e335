"""An embedder with the scale of its training samples, fitted, saved and read again.

Vectors are kept in the cache folder under the embedder and the content of the samples. Mean and standard deviation are
those of the training samples; whoever embeds further samples for the same head needs them too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignprune._checks import choice
from alignprune._files import Kind, read_arrays
from alignprune.bench.data.cache import Arrays, cached
from alignprune.bench.data.embedding.contract import Embedder, Progress
from alignprune.bench.data.embedding.images import TimmEmbedder
from alignprune.bench.data.embedding.raw import fingerprint, places_in, size_of
from alignprune.bench.data.embedding.texts import SentenceEmbedder, Tfidf, TfidfEmbedder
from alignprune.bench.data.views import Samples
from alignprune.bench.files import read_record, save_arrays, write_record
from alignprune.errors import ValueMistake

RECORD, ARRAYS = "embedder.json", "embedder.npz"

_AGAIN = "embed the training data again"
_RECORD_KIND, _ARRAYS_KIND = Kind("embedder", 1, _AGAIN), Kind("embedding", 1, _AGAIN)


@dataclass(frozen=True, eq=False)
class FittedEmbedder:
    """An embedder with the scale of its training samples: vectors that a trained head reads.

    Attributes:
        embedder: what embeds.
        mean: of the training vectors, float32 [D].
        std: of the training vectors, float32 [D]; 1 where a value is constant.
    """

    embedder: Embedder
    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def embed(self, samples: Samples, progress: Progress | None = None) -> Tensor:
        """The standardised vectors of some samples, computed once and then read from the cache folder.

        Args:
            samples: a view of N samples, or a `Subset` of one.
            progress: called with the samples done and N while they are computed.

        Returns:
            float32 [N, D].
        """
        return self._standardised(vectors(self.embedder, samples, progress))

    def embed_once(self, samples: Samples) -> Tensor:
        """The standardised vectors of some samples, computed now and not kept.

        Args:
            samples: a view of N samples, or a `Subset` of one.

        Returns:
            float32 [N, D].
        """
        return self._standardised(_finite(self.embedder.embed(samples)))

    def _standardised(self, found: Tensor) -> Tensor:
        return (found - torch.from_numpy(self.mean)) / torch.from_numpy(self.std)

    def save(self, folder: Path) -> None:
        """Write the embedder into a folder: a record as JSON, and arrays.

        Args:
            folder: where to write; it is made where it is not there.
        """
        save_arrays(folder / ARRAYS, _ARRAYS_KIND, mean=self.mean, std=self.std, **_arrays(self.embedder))
        write_record(folder / RECORD, _RECORD_KIND, self.embedder.record())


def fit(settings: Embedder | Tfidf, samples: Samples, progress: Progress | None = None) -> FittedEmbedder:
    """Learn what an embedder needs from the training samples; no label takes part.

    Args:
        settings: an embedder, or the settings of one that learns from texts.
        samples: a view of the training samples, or a `Subset` of one.
        progress: called with the samples done and all while they are embedded.

    Returns:
        the embedder with the scale of the samples.

    Raises:
        TypeError: if the samples are of another kind than it embeds.
        ValueError: if they cannot be read, or hold no two texts with a word in common.
    """
    embedder: Embedder = settings.fit(samples) if isinstance(settings, Tfidf) else settings
    mean, std = _scale(vectors(embedder, samples, progress))
    return FittedEmbedder(embedder, mean, std)


def vectors(embedder: Embedder, samples: Samples, progress: Progress | None = None) -> Tensor:
    """The vectors of some samples as the embedder gives them, computed once and then read from the cache folder.

    A part of at least half of a view is read from the vectors of the whole: a run that leaves out what people dropped,
    or holds a tenth out, computes none again.

    Args:
        embedder: what computes them.
        samples: a view of N samples, or a `Subset` of one.
        progress: called with the samples done and N while they are computed.

    Returns:
        float32 [N, D].

    Raises:
        ValueError: if a value is not finite.
    """
    whole, places = places_in(samples)
    if whole is not samples and not embedder.learned and 2 * len(places) >= size_of(whole):
        return vectors(embedder, whole, progress)[torch.from_numpy(places)]
    depends_on = {"embedder": embedder.key(), "samples": fingerprint(samples)}
    stored = cached("embedding", depends_on, lambda: {"vectors": _finite(embedder.embed(samples, progress)).numpy()})
    return torch.from_numpy(stored["vectors"])


def load(folder: Path) -> FittedEmbedder:
    """Read an embedder that `FittedEmbedder.save` wrote.

    Args:
        folder: where it lies.

    Raises:
        FileNotFoundError: if it is not there, or weights that it needs are not.
        ImportError: if a package with weights that it needs is not installed.
        ValueError: if a file is damaged, or weights are others than those of the record.
    """
    record = read_record(folder / RECORD, _RECORD_KIND)
    arrays = read_arrays(folder / ARRAYS, _ARRAYS_KIND, needed=("mean", "std"))
    kind, mean, std = record.pop("kind"), arrays.pop("mean"), arrays.pop("std")
    del record["versions"]
    choice("kind", kind, _READERS)
    return FittedEmbedder(_READERS[kind](record, arrays), mean, std)


def _timm(record: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Embedder:
    return TimmEmbedder(**{**record, "weights": _path(record["weights"])})


def _sentences(record: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Embedder:
    return SentenceEmbedder(**{**record, "folder": _path(record["folder"])})


def _tfidf(record: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Embedder:
    found = TfidfEmbedder.from_arrays(arrays)
    if found.checksum != record["checksum"]:
        raise ValueMistake(
            f"checksum={found.checksum[:12]}... of {ARRAYS} is another than that of {RECORD}, expected the two files "
            "of one embedder: embed the training data again"
        )
    return found


_READERS: dict[str, Callable[[dict[str, Any], Mapping[str, NDArray[Any]]], Embedder]] = {
    TimmEmbedder.kind: _timm,
    SentenceEmbedder.kind: _sentences,
    TfidfEmbedder.kind: _tfidf,
}


def _path(given: str | None) -> Path | None:
    return None if given is None else Path(given)


def _arrays(embedder: Embedder) -> Arrays:
    return embedder.arrays() if isinstance(embedder, TfidfEmbedder) else {}


def _finite(found: Tensor) -> Tensor:
    broken = torch.nonzero(~found.isfinite().all(1)).flatten()
    if len(broken):
        raise ValueMistake(
            f"sample={int(broken[0])} has a vector with values that are not finite ({len(broken)} samples have), "
            "expected numbers: give other weights"
        )
    return found


def _scale(found: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of each value, in float64 by parts, since a whole copy would be twice as large."""
    mean = torch.zeros(found.shape[1], dtype=torch.float64)
    for part in found.split(4096):
        mean += part.double().sum(0)
    mean /= len(found)
    variance = torch.zeros_like(mean)
    for part in found.split(4096):
        variance += (part.double() - mean).square().sum(0)
    std = (variance / len(found)).sqrt()
    # A constant value (up to rounding) carries nothing; a divisor of 1 leaves it near 0.
    std[std <= 1e-6 * mean.abs()] = 1
    return mean.float().numpy(), std.float().numpy()
