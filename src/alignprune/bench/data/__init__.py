"""Data sets for training: every view of one set of samples, with the same order and the same index.

A loader gives the training samples under noisy labels (augmented and plain), the same samples under clean
labels where these are known, and the test samples. `load` finds the loader from a name, an .npz file, a table, a
folder or a Hugging Face data set. Each source is one module: its record, then its loader. Torchvision,
scikit-learn and the like are imported by the loaders when they work, so that a record costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial

from alignprune._checks import choice
from alignprune.bench.data import records
from alignprune.bench.data.arrays import ARRAYS, arrays
from alignprune.bench.data.cifar import CIFAR10N, CIFAR100N, cifar10n, cifar100n
from alignprune.bench.data.clothing1m import CLOTHING1M, clothing1m
from alignprune.bench.data.digits import DIGITS, digits
from alignprune.bench.data.embedding.contract import Progress
from alignprune.bench.data.embedding.named import (
    CIFAR100N_PRETRAINED,
    NEWS20_SENTENCES,
    cifar100n_pretrained,
    news20_sentences,
)
from alignprune.bench.data.features import CIFAR100N_FEATURES, cifar100n_features
from alignprune.bench.data.folder import FOLDER, image_folder
from alignprune.bench.data.huggingface import HUGGINGFACE, PREFIX, huggingface
from alignprune.bench.data.imagenet import IMAGENET, imagenet
from alignprune.bench.data.integrity import Damage, Report, open_all
from alignprune.bench.data.news import NEWS, NEWS20, NEWS20_DOCUMENT, NEWS_DOCUMENT, news, word_vectors
from alignprune.bench.data.records import DATA_ROOT, DatasetRecord, DatasetStatus, check_noise, data_root, status
from alignprune.bench.data.table import SUFFIXES, TABLE, table
from alignprune.bench.data.views import (
    ClassificationData,
    ImageFiles,
    PathLike,
    Samples,
    TensorData,
    Texts,
    limit,
    long_tail,
    relabel,
    subset,
)
from alignprune.bench.data.webvision import WEBVISION, webvision
from alignprune.errors import ValueMistake

__all__ = [
    "DATASETS",
    "DATA_ROOT",
    "FORMATS",
    "ClassificationData",
    "Damage",
    "DatasetRecord",
    "DatasetStatus",
    "ImageFiles",
    "PathLike",
    "Report",
    "Samples",
    "TensorData",
    "Texts",
    "arrays",
    "check",
    "cifar10n",
    "cifar100n",
    "cifar100n_features",
    "cifar100n_pretrained",
    "clothing1m",
    "data_root",
    "digits",
    "huggingface",
    "image_folder",
    "imagenet",
    "limit",
    "load",
    "long_tail",
    "news",
    "news20_sentences",
    "open_all",
    "refuse_missing",
    "refuse_unknown",
    "relabel",
    "subset",
    "table",
    "webvision",
    "word_vectors",
]

Loader = Callable[..., ClassificationData]

_LOADERS: tuple[tuple[DatasetRecord, Loader], ...] = (
    (CIFAR100N, cifar100n),
    (CIFAR10N, cifar10n),
    (WEBVISION, webvision),
    (CLOTHING1M, clothing1m),
    (IMAGENET, imagenet),
    (NEWS, news),
    (NEWS20, partial(news, groups=20)),
    (NEWS_DOCUMENT, partial(news, pooling="document")),
    (NEWS20_DOCUMENT, partial(news, groups=20, pooling="document")),
    (DIGITS, digits),
    (CIFAR100N_FEATURES, cifar100n_features),
    (CIFAR100N_PRETRAINED, cifar100n_pretrained),
    (NEWS20_SENTENCES, news20_sentences),
)

DATASETS: dict[str, DatasetRecord] = {record.name: record for record, _ in _LOADERS}
_NAMED = {record.name: loader for record, loader in _LOADERS}

# Own data: what `arrays`, `table`, `image_folder` and `huggingface` read.
FORMATS: dict[str, DatasetRecord] = {record.name: record for record in (ARRAYS, TABLE, FOLDER, HUGGINGFACE)}


def load(
    dataset: PathLike,
    *,
    root: PathLike | None = None,
    noise: str | None = None,
    noise_rate: float | None = None,
    seed: int = 0,
    image_size: int | None = None,
    embeddings: PathLike | None = None,
    progress: Progress | None = None,
) -> ClassificationData:
    """Load a data set by name or by path.

    Args:
        dataset: a key of `DATASETS`, a path ending in .npz, .csv, .tsv or .parquet, a folder of image files, or
            "hf:" and the name or folder of a Hugging Face data set.
        root: data root of the named data sets, None for the environment variable ALIGNPRUNE_DATA; paths
            and data sets without files ignore it.
        noise: kind of noise, None for the data set's default.
        noise_rate: nominal rate of synthetic noise in [0, 1]; None for other kinds.
        seed: seed of synthetic noise.
        image_size: height and width in pixels to which photos and CIFAR are brought, None for the data set's default;
            samples that have a size of their own keep it.
        embeddings: word vectors that a text data set is made of: "glove", or a file in GloVe's text format; None for
            the data set's default.
        progress: called with the samples done and all where a data set is embedded; others load in one go.

    Returns:
        the data.

    Raises:
        ValueError: if the data set or the noise is unknown, the files hold something else than expected, or word
            vectors are given with a data set that has none.
        FileNotFoundError: if files are missing.
    """
    record, loader, place = _find(os.fspath(dataset), root)
    kind = noise or record.default_noise
    check_noise(record, kind, noise_rate)
    settings: dict[str, object] = {}
    if len(record.noises) > 1:
        settings |= {"noise": kind, "noise_rate": noise_rate, "seed": seed}
    if record.image_size is not None:
        settings["image_size"] = record.image_size if image_size is None else image_size
    if record.word_vectors:
        settings["embeddings"] = embeddings
    elif embeddings is not None:
        fitting = [name for name, known in DATASETS.items() if known.word_vectors]
        raise ValueMistake(
            f"embeddings={os.fspath(embeddings)!r} is given with {os.fspath(dataset)}, which is not made of word "
            f"vectors, expected one of {', '.join(fitting)}: leave it out, or choose another data set"
        )
    if record.embedder is not None:
        settings["progress"] = progress
    return loader(place, **settings) if record.files else loader(**settings)


def refuse_unknown(dataset: PathLike, noise: str | None, noise_rate: float | None) -> None:
    """Refuse a data set that there is not, and noise that it does not offer, before anything is read.

    Args:
        dataset: as in `load`.
        noise: as in `load`.
        noise_rate: as in `load`.

    Raises:
        ValueError: if the data set or the noise is unknown, or the rate is missing or superfluous.
    """
    record, _, _ = _find(os.fspath(dataset), None)
    check_noise(record, noise or record.default_noise, noise_rate)


def refuse_missing(wanted: Iterable[tuple[str, str | None]], root: PathLike | None = None) -> None:
    """Refuse named data sets that are not there or cannot be embedded here, before any of them is read.

    Args:
        wanted: data sets, each with a kind of noise, as in `load`; own data are not looked for.
        root: as in `load`.

    Raises:
        FileNotFoundError: if files are missing; it names all data sets that lack some, and where they come from.
        ImportError: if what embeds a data set is not installed.
    """
    noises: dict[str, set[str]] = {}
    for dataset, noise in wanted:
        if dataset in DATASETS:
            noises.setdefault(dataset, set()).add(noise or DATASETS[dataset].default_noise)
    records.refuse_missing([(DATASETS[name], kinds) for name, kinds in noises.items()], root)
    for name in noises:
        embedder = DATASETS[name].embedder
        if embedder is not None:
            embedder()


def _find(name: str, root: PathLike | None) -> tuple[DatasetRecord, Loader, PathLike | None]:
    """The record and the loader of a data set, and where it lies."""
    if name in DATASETS:
        return DATASETS[name], _NAMED[name], root
    if name.startswith(PREFIX):
        return HUGGINGFACE, huggingface, name.removeprefix(PREFIX)
    if name.endswith(".npz"):
        return ARRAYS, arrays, name
    if name.partition("?")[0].endswith(SUFFIXES):
        return TABLE, table, name
    if not os.path.isdir(name):
        own = (f"a file ({', '.join(SUFFIXES)} or .npz by its path)", "a folder of classes", "hf:NAME_OR_PATH")
        choice("dataset", name, [*DATASETS, *own])
    return FOLDER, image_folder, name


def check(root: PathLike | None = None) -> list[DatasetStatus]:
    """Look for the files of every named data set, without reading more of them than takes seconds.

    Args:
        root: data root, None for the environment variable ALIGNPRUNE_DATA.

    Returns:
        what is there and what is missing, in the order of `DATASETS`.

    Raises:
        ValueError: if no data root is given.
    """
    folder = data_root(root)
    return [status(record, folder) for record in DATASETS.values()]
