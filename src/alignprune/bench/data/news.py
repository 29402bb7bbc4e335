"""NEWS: the 20 Newsgroups as fixed features, for a network that learns what comes after frozen word vectors.

A document becomes its first 1,000 words, and these their vectors. The network of Co-teaching+ flattens the
1000 x 300 values and averages them down to 4,800; nothing in this step is learned, so it is done once ("flat").
The averages run over neighbouring values of one word and keep the position of the word, which carries little. The
mean vector of a document's words ("document", 300 values) drops the positions, and carries far more.
"""

from __future__ import annotations

import importlib
import io
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignprune._checks import choice, floor, integer
from alignprune.bench.data.cache import Arrays, cached
from alignprune.bench.data.records import (
    OF_NUMBERS,
    DatasetRecord,
    as_labels,
    check_exists,
    check_noise,
    data_root,
    draw,
)
from alignprune.bench.data.views import ClassificationData, PathLike, TensorData, Transforms, assemble
from alignprune.bench.reading import reading, unpacked_in
from alignprune.errors import MissingFile, ValueMistake

Pooling = Literal["flat", "document"]
_Read = Callable[[list[str]], np.ndarray]  # the vectors of some words, float32 [1 + V, D]

INSTALLED = "glove"  # the choice of word vectors that the extra of that name installs

FILE = "20news-bydate_py3.pkz"

TRAIN_SHARE = 0.7
VOCABULARY = 20_000  # the most frequent words of the training documents
WORDS = 1000  # of a document
DIMENSIONS = 300  # of a trained word vector
WINDOW = 10
FLAT_FEATURES = 4800

GROUPS = (
    "alt.atheism",
    "comp.graphics",
    "comp.os.ms-windows.misc",
    "comp.sys.ibm.pc.hardware",
    "comp.sys.mac.hardware",
    "comp.windows.x",
    "misc.forsale",
    "rec.autos",
    "rec.motorcycles",
    "rec.sport.baseball",
    "rec.sport.hockey",
    "sci.crypt",
    "sci.electronics",
    "sci.med",
    "sci.space",
    "soc.religion.christian",
    "talk.politics.guns",
    "talk.politics.mideast",
    "talk.politics.misc",
    "talk.religion.misc",
)
# The class of each newsgroup is the first part of its name: alt comp misc rec sci soc talk.
HIERARCHIES = tuple(dict.fromkeys(group.partition(".")[0] for group in GROUPS))
_HIERARCHY_OF = tuple(HIERARCHIES.index(group.partition(".")[0]) for group in GROUPS)


def _record(name: str, classes: str, features: str) -> DatasetRecord:
    return DatasetRecord(
        name=name,
        description=f"20 Newsgroups (18,846 documents, the first 70 % for training, {classes}) as {features}, with "
        "clean labels or synthetic noise",
        files=(FILE,),
        source="scikit-learn: fetch_20newsgroups(data_home=ROOT) downloads the documents and writes the file",
        noises=("clean", *OF_NUMBERS),
        default_noise="clean",
        note="the file is a pickle; code in it is refused, not run",
        word_vectors=True,
    )


_FLAT = "4,800 averages of frozen word vectors"
_DOCUMENT = "the mean of their frozen word vectors"
_RECORD_OF: dict[tuple[int, str], DatasetRecord] = {
    (7, "flat"): _record("news", "7 classes as in Co-teaching+", _FLAT),
    (20, "flat"): _record("news20", "20 classes", _FLAT),
    (7, "document"): _record("news-document", "7 classes as in Co-teaching+", _DOCUMENT),
    (20, "document"): _record("news20-document", "20 classes", _DOCUMENT),
}
NEWS, NEWS20, NEWS_DOCUMENT, NEWS20_DOCUMENT = tuple(_RECORD_OF.values())


def news(
    root: PathLike | None = None,
    noise: str = "clean",
    noise_rate: float | None = None,
    seed: int = 0,
    *,
    groups: int = 7,
    pooling: Pooling = "flat",
    features: int | None = None,
    embeddings: PathLike | None = None,
) -> ClassificationData:
    """20 Newsgroups as features of frozen word vectors.

    scikit-learn's file holds the 11,314 earlier documents, in a random order, and then the 7,532 later ones, in a
    random order too. Training and test split are the first 70 % and the last 30 % of this order, so every test
    document is a later one. Words are runs of two or more letters, digits or underscores, in lower case, headers
    included; those outside the vocabulary are left out. The vocabulary (20,000 words), the word vectors where no file
    is given, and the scale of "document" features come from the training documents alone.

    Args:
        root: data root with 20news-bydate_py3.pkz; None for ALIGNPRUNE_DATA.
        noise: "clean", or a kind of `alignprune.noise` that needs no table of classes.
        noise_rate: nominal rate of synthetic noise in [0, 1]; None for "clean".
        seed: seed of synthetic noise.
        groups: 7 for the hierarchies (alt, comp, misc, rec, sci, soc, talk), 20 for the newsgroups.
        pooling: "flat" for the average-pooled flattened word vectors, the input of the paper's network; "document"
            for the mean word vector, standardised.
        features: values D of a sample with "flat", None for the paper's 4,800; "document" has as many as a word
            vector.
        embeddings: "glove" for the installed GloVe vectors (50 values), or a file in GloVe's text format; None for
            vectors trained on the training documents (300 values).

    Returns:
        the data; samples are float32 [D]. Features are computed once and then read from the cache folder, see
        `alignprune.bench.data.cache.cached`.

    Raises:
        FileNotFoundError: if a file is missing.
        ImportError: for "glove", if it is not installed.
        ValueError: if a file is damaged or an argument does not fit.

    Source: AlignPrune, Table H; Yu et al. (ICML 2019), Co-teaching+, whose network reads GloVe vectors of documents
        in a file that is not public: its tokens, its vocabulary and its order of the documents may differ.
    """
    from alignprune.bench.data.embeddings import read_glove, read_packaged

    size = _check_features(pooling, features)
    record = _RECORD_OF.get((groups, pooling))
    if record is None:
        raise ValueMistake(
            f"groups={groups!r} is unknown, expected 7 or 20: 7 for the hierarchies, 20 for the newsgroups"
        )
    check_noise(record, noise, noise_rate)
    folder = data_root(root)
    check_exists(folder, folder / FILE, record.source)
    glove = word_vectors(embeddings)
    read = None if glove is None else partial(read_packaged if embeddings == INSTALLED else read_glove, glove)
    depends_on = {
        "version": 1,
        "documents": folder / FILE,
        "embeddings": glove,
        "size": size,
        "settings": (TRAIN_SHARE, VOCABULARY, WORDS, DIMENSIONS, WINDOW),
    }
    stored = cached("news", depends_on, partial(_prepare, folder, read, size))
    inputs = torch.from_numpy(stored["features"])
    labels = as_labels(stored["groups"] if groups == 20 else np.array(_HIERARCHY_OF)[stored["groups"]])
    split = training_size(len(labels))
    clean = labels[:split]

    def view(labels: Tensor, transform: nn.Module | None) -> TensorData:
        return TensorData(inputs[:split], labels, transform)

    return assemble(
        name=record.name,
        view=view,
        transforms=Transforms(None, None, None),
        given=clean,
        noise=draw(record, clean, noise, noise_rate, groups, seed, inputs[:split]),
        truth=clean,
        test=TensorData(inputs[split:], labels[split:]),
        reference=None,
        num_classes=groups,
        input_shape=tuple(inputs.shape[1:]),
        class_names=GROUPS if groups == 20 else HIERARCHIES,
    )


def _check_features(pooling: str, features: int | None) -> int | None:
    """Number of flat features; None stands for those of "document"."""
    choice("pooling", pooling, get_args(Pooling))
    if pooling == "flat":
        given = FLAT_FEATURES if features is None else features
        return integer("features", given, at_least=1, remedy="the paper's network reads 4800")
    if features is not None:
        raise ValueMistake(
            f"features={features!r} is given with pooling 'document', which has as many as a word vector, expected "
            "None: leave it out, or use pooling 'flat'"
        )
    return None


def word_vectors(embeddings: PathLike | None) -> Path | None:
    """The file of given word vectors.

    Args:
        embeddings: "glove", or a file; None for those that are trained.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: for "glove", if it is not installed.
    """
    from alignprune.bench.data.embeddings import packaged_glove

    if embeddings is None:
        return None
    file = packaged_glove() if embeddings == INSTALLED else Path(embeddings)
    if not file.is_file():
        raise MissingFile(
            f"embeddings={str(file)!r} is not there, expected {INSTALLED!r} or a file of word vectors as GloVe's: "
            "check the path"
        )
    return file


def training_size(documents: int) -> int:
    """How many of the documents, from the first on, are for training."""
    return floor(TRAIN_SHARE * documents)


def _prepare(folder: Path, read: _Read | None, size: int | None) -> Arrays:
    """Features [N, D] and newsgroup ids [N] of all documents, in stored order."""
    texts, groups = read_documents(folder)
    split = training_size(len(texts))
    vocabulary, token_ids = _tokenise(texts, split)
    vectors = torch.from_numpy(_vectors(token_ids[:split], vocabulary, read))
    words = torch.from_numpy(token_ids)
    features = _document(words, vectors, split) if size is None else _flat(words, vectors, size)
    return {"features": features.numpy(), "groups": groups}


def read_documents(folder: Path) -> tuple[list[str], np.ndarray]:
    """Texts and newsgroup ids in stored order: those of the earlier documents and then those of the later ones."""
    file = folder / FILE
    place, expected, remedy = f"file={str(file)!r}", "scikit-learn's documents", f"make it again with {NEWS.source}"
    with reading(place, file, expected, remedy):
        found = _Corpus(io.BytesIO(unpacked_in(file))).load()
        parts = [found[part] for part in ("train", "test")]
        texts = [text for part in parts for text in part["data"]]
        groups = np.concatenate([part["target"] for part in parts])
    words = all(isinstance(text, str) for text in texts)
    if not words or groups.shape != (len(texts),) or not np.isin(groups, np.arange(len(GROUPS))).all():
        raise ValueMistake(
            f"{place} holds other things than texts and the numbers of their newsgroups, expected {expected}: {remedy}"
        )
    return texts, groups


class _Corpus(pickle.Unpickler):
    """Reads scikit-learn's file without running what another might hold: it needs these names and no others."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")  # as numpy 1 called it
        if name == "Bunch" and module.startswith("sklearn."):
            return _Bunch
        if (module, name) in _OF_ARRAYS:
            return getattr(importlib.import_module(module), name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no file of documents needs")


_OF_ARRAYS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
}


class _Bunch(dict[str, Any]):
    def __setstate__(self, state: object) -> None:
        """Leave out what scikit-learn notes beside the values."""


def _tokenise(texts: list[str], split: int) -> tuple[list[str], np.ndarray]:
    """The vocabulary, and the first words of each document, int32 [N, WORDS]: 1..V, or 0 after the last word."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(max_features=VOCABULARY).fit(texts[:split])
    vocabulary = vectorizer.get_feature_names_out().tolist()
    ids = {word: i for i, word in enumerate(vocabulary, start=1)}
    token_ids = np.zeros((len(texts), WORDS), dtype=np.int32)
    analyse = vectorizer.build_analyzer()
    for row, text in zip(token_ids, texts, strict=True):
        known = [ids[word] for word in analyse(text) if word in ids][:WORDS]
        row[: len(known)] = known
    return vocabulary, token_ids


def _vectors(token_ids: np.ndarray, vocabulary: list[str], read: _Read | None) -> np.ndarray:
    """Word vectors, float32 [1 + V, D], row 0 zero."""
    from alignprune.bench.data.embeddings import train_embeddings

    if read is not None:
        return read(vocabulary)
    depends_on = {"version": 1, "token_ids": token_ids, "dimensions": DIMENSIONS, "window": WINDOW}
    return cached(
        "embeddings",
        {**depends_on, "vocabulary_size": len(vocabulary)},
        lambda: {"vectors": train_embeddings(token_ids, len(vocabulary), DIMENSIONS, WINDOW)},
    )["vectors"]


def _flat(token_ids: Tensor, vectors: Tensor, size: int) -> Tensor:
    """Flattened word vectors [N, L * D], average-pooled to [N, size]."""
    pooled = torch.empty(len(token_ids), size)
    # In parts, because a document has 300,000 values before the pooling.
    for part, result in zip(token_ids.split(64), pooled.split(64), strict=True):
        flat = functional.embedding(part, vectors).flatten(1)
        result.copy_(functional.adaptive_avg_pool1d(flat, size))
    return pooled


def _document(token_ids: Tensor, vectors: Tensor, split: int) -> Tensor:
    """Mean vector of the words [N, D], 0 for a document without words, standardised by the training documents."""
    mean = functional.embedding_bag(token_ids, vectors, mode="mean", padding_idx=0)
    training = mean[:split]
    std = training.std(0, correction=0)
    # A constant feature carries nothing; a divisor of 1 leaves it at 0.
    return (mean - training.mean(0)) / torch.where(std > 0, std, 1.0)
