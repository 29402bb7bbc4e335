"""Samples as fixed vectors of a pretrained network: what a head learns from in minutes, without a GPU.

An embedder (`TimmEmbedder`, `SentenceEmbedder`, `TfidfEmbedder`) turns images or texts into vectors, `embedded` a whole
data set. `choose_embedder` says which fits. Nothing is ever downloaded: weights are installed or given.
"""

from alignprune.bench.data.embedding.choice import Choice, choose_embedder, described
from alignprune.bench.data.embedding.contract import Embedder, Progress
from alignprune.bench.data.embedding.data import embedded
from alignprune.bench.data.embedding.fitted import FittedEmbedder, fit, load, vectors
from alignprune.bench.data.embedding.images import TimmEmbedder, image_embedder
from alignprune.bench.data.embedding.step import Embedding
from alignprune.bench.data.embedding.texts import SentenceEmbedder, Tfidf, TfidfEmbedder

__all__ = [
    "Choice",
    "Embedder",
    "Embedding",
    "FittedEmbedder",
    "Progress",
    "SentenceEmbedder",
    "Tfidf",
    "TfidfEmbedder",
    "TimmEmbedder",
    "choose_embedder",
    "described",
    "embedded",
    "fit",
    "image_embedder",
    "load",
    "vectors",
]
