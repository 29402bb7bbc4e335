"""A data set as vectors: the same samples, labels and noise, each sample embedded once and standardised."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from alignprune.bench.data.embedding.contract import Embedder, Progress
from alignprune.bench.data.embedding.fitted import FittedEmbedder, fit
from alignprune.bench.data.embedding.raw import raw_of
from alignprune.bench.data.embedding.step import Embedding
from alignprune.bench.data.embedding.texts import Tfidf
from alignprune.bench.data.preparation import Preparation
from alignprune.bench.data.views import ClassificationData, TensorData, labels_of


def embedded(
    data: ClassificationData, embedder: Embedder | Tfidf | FittedEmbedder, progress: Progress | None = None
) -> ClassificationData:
    """The same data as vectors: samples, labels, noise, class names and the user's names stay as they are.

    Args:
        data: images or texts.
        embedder: what embeds; one without a scale is fitted to the training samples first.
        progress: called with the samples done and all while a part is embedded.

    Returns:
        the data; samples are float32 [D], without augmentation, by the training samples of mean 0 and variance 1.

    Raises:
        TypeError: if the samples are of another kind than it embeds.
        ValueError: if they cannot be read.
    """
    known = embedder if isinstance(embedder, FittedEmbedder) else fit(embedder, data.train_eval, progress)
    inputs = known.embed(data.train_eval, progress)
    train = TensorData(inputs, data.labels)
    others = {
        name: None if part is None else TensorData(known.embed(part, progress), labels_of(part))
        for name, part in (("test", data.test), ("reference", data.reference), ("stopping", data.stopping))
    }
    views: dict[str, Any] = {
        "train": train,
        "train_eval": train,
        "strong": None,
        "contrastive": None,
        "clean_eval": None if data.clean_eval is None else TensorData(inputs, labels_of(data.clean_eval)),
        **others,
    }
    raw, raw_shape = raw_of(data.train_eval)
    preparation = Preparation(raw, (Embedding(known),), raw_shape)
    return replace(data, **views, input_shape=tuple(inputs.shape[1:]), preparation=preparation)
