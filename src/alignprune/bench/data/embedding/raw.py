"""What an embedder reads: samples as they are stored, without the transforms of a view, and a fingerprint of them.

Images are RGB images of the PIL library or uint8 [1 or 3, H, W], texts are strings.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Sequence, Sized
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Subset

from alignprune.bench.data.views import ImageFiles, Samples, TensorData, Texts
from alignprune.errors import TypeMistake, ValueMistake


def modality(samples: Samples) -> str:
    """What samples are: "texts", "images" or "values".

    Args:
        samples: a view of a data set, or a `Subset` of one.

    Raises:
        TypeError: if they are of no known kind.
    """
    base = _base(samples)
    if hasattr(base, "texts"):
        return "texts"
    if isinstance(base, TensorData):
        return "images" if base.inputs.ndim == 4 else "values"
    if hasattr(base, "transform"):
        return "images"
    raise TypeMistake(
        f"samples={type(base).__name__} holds neither texts, images nor values that can be told apart, expected a view "
        "of a data set that `alignprune.bench.data.load` gives: pass one of these"
    )


def raw_of(samples: Samples) -> tuple[str, tuple[int, ...] | None]:
    """What a raw sample is, one of `alignprune.bench.data.preparation.RAW`, and its shape where all have the same.

    Args:
        samples: a view of images or texts, or a `Subset` of one.
    """
    base = _base(samples)
    if isinstance(base, TensorData):
        return "pixels", tuple(base.inputs.shape[1:])
    return ("text" if modality(base) == "texts" else "photo"), None


def samples_of(raw: Tensor | Sequence[Any]) -> Samples:
    """Raw samples as a view that an embedder reads, with labels that mean nothing.

    Args:
        raw: N strings, N images of the PIL library or of uint8 [C, H, W], or uint8 [N, C, H, W].
    """
    labels = torch.zeros(len(raw), dtype=torch.int64)
    if isinstance(raw, Tensor):
        return TensorData(raw, labels)
    if all(isinstance(one, str) for one in raw):
        return Texts(raw, labels)
    return _Opened(raw, labels)


class _Opened(Dataset[tuple[Any, int]]):
    """Images that are open."""

    transform = None

    def __init__(self, images: Sequence[Any], labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.images[index], int(self.labels[index])


def images_of(samples: Samples) -> Dataset[tuple[Any, int]]:
    """The images of a view before its transform.

    Args:
        samples: a view of images, or a `Subset` of one.

    Raises:
        TypeError: if they are no images.
        ValueError: if they have two or more than three channels.
    """
    if isinstance(samples, Subset):
        return Subset(images_of(samples.dataset), samples.indices)
    if modality(samples) != "images":
        raise TypeMistake(f"samples={modality(samples)} are given, expected images: choose another embedder")
    if isinstance(samples, TensorData):
        channels = samples.inputs.shape[1]
        if samples.inputs.dtype != torch.uint8 or channels not in (1, 3):
            raise ValueMistake(
                f"samples={samples.inputs.dtype} images of {channels} channels are given, expected uint8 and 1 or 3 "
                "channels, which a pretrained network reads: convert the images, or train without --features"
            )
        return TensorData(samples.inputs, samples.labels)
    stored: Any = copy.copy(samples)
    stored.transform = None
    return stored


def texts_of(samples: Samples) -> list[str]:
    """The texts of a view, in their order.

    Args:
        samples: a view of texts, or a `Subset` of one.

    Raises:
        TypeError: if they are no texts.
    """
    if isinstance(samples, Subset):
        texts = texts_of(samples.dataset)
        return [texts[i] for i in samples.indices]
    if modality(samples) != "texts":
        raise TypeMistake(f"samples={modality(samples)} are given, expected texts: choose another embedder")
    stored: Any = samples
    return list(stored.texts)


def fingerprint(samples: Samples) -> str:
    """A text that changes with the content of the samples: with arrays and texts, or names, sizes and times of files.

    Args:
        samples: a view of a data set, or a `Subset` of one. Its labels and transforms do not count.
    """
    if isinstance(samples, Subset):
        indices = np.asarray(samples.indices, dtype=np.int64)
        return f"{hashlib.sha256(indices.tobytes()).hexdigest()} of {fingerprint(samples.dataset)}"
    kind, stored, digest = modality(samples), samples, hashlib.sha256()
    if isinstance(stored, TensorData):
        inputs = stored.inputs.numpy()
        digest.update(f"{inputs.dtype} {inputs.shape}".encode())
        digest.update(np.ascontiguousarray(inputs).data)
    elif kind == "texts":
        for text in texts_of(stored):
            digest.update(f"{len(text)} {text}".encode(errors="surrogatepass"))
    elif isinstance(stored, ImageFiles):
        for i in range(len(stored)):
            file = stored.files[i]
            state = os.stat(file)
            name = os.path.relpath(file, stored.files.folder)
            digest.update(f"{name!r} {state.st_size} {state.st_mtime_ns}".encode(errors="surrogatepass"))
    else:
        digest.update(_table_fingerprint(stored).encode())
    return f"{kind} {size_of(stored)} {digest.hexdigest()}"


def size_of(samples: Samples) -> int:
    """The number of samples, which every view here has; torch's type of a data set does not promise one."""
    return len(cast(Sized, samples))


def places_in(samples: Samples) -> tuple[Samples, NDArray[np.int64]]:
    """The view that a part was taken of, and the places of its samples there, int64 [n].

    Args:
        samples: a view of a data set, or a `Subset` of one, or one of that.
    """
    if not isinstance(samples, Subset):
        return samples, np.arange(size_of(samples))
    base, places = places_in(samples.dataset)
    return base, places[np.asarray(samples.indices, dtype=np.int64)]


def _base(samples: Samples) -> Samples:
    return _base(samples.dataset) if isinstance(samples, Subset) else samples


def _table_fingerprint(samples: Any) -> str:
    """The fingerprint that a Hugging Face table has of itself."""
    try:
        return str(samples.images._fingerprint)
    except AttributeError as error:
        raise TypeMistake(
            f"samples={type(samples).__name__} have no known content, expected arrays, texts, files or a Hugging Face "
            "table: pass one of these"
        ) from error
