"""The samples of a run: loaded, relabelled, thinned out, limited, a part held out, and embedded, as configured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.utils.data import Subset

from alignprune._checks import floor
from alignprune._ranks import keyed_generator
from alignprune.audit import decisions
from alignprune.audit.decisions import Decisions
from alignprune.bench import data as datasets
from alignprune.bench.data import ClassificationData, embedding
from alignprune.bench.run.config import TrainConfig
from alignprune.bench.run.progress import Progress
from alignprune.bench.run.settings import DataSettings
from alignprune.errors import UserError, ValueMistake


def load(config: TrainConfig, progress: Progress | None = None) -> ClassificationData:
    """All samples that the run may choose among, and those that it is judged by, as it trains on them.

    Args:
        config: which.
        progress: hears what is done to the samples, and how far they are embedded.

    Raises:
        ValueError, FileNotFoundError: if there is no such data, a part of it that is asked for would be empty, there
            is nothing to judge the run by, decisions on labels are of other data, the samples are texts and no
            features of them are asked for, or an image size is given with what has one of its own.
        TypeError, ImportError: if the features are for other samples, or what computes them is not installed.
    """
    heard = progress or Progress()
    data = unembedded(config, heard)
    _refuse_unfit(config, data)
    if config.data.features == "none":
        return data
    # Last, so that nothing is embedded in vain and word counts know no sample that is held out.
    embedder = _embedder(config.data, data)
    heard.note(embedding.described(embedder))
    return embedding.embedded(data, embedder, heard.embedding)


def unembedded(config: TrainConfig, progress: Progress | None = None) -> ClassificationData:
    """The same samples as they are, before they become features.

    Args:
        config: which.
        progress: hears what is done to the samples, and how far a data set is that comes as features.

    Raises:
        ValueError, FileNotFoundError: if there is no such data, a part of it that is asked for would be empty, or
            decisions on labels are of other data.
    """
    heard = progress or Progress()
    record = datasets.DATASETS.get(config.data.dataset)
    if record is not None and record.embedder is not None:
        heard.note(record.description)
    data = datasets.load(
        config.data.dataset,
        root=config.machine.data_root,
        noise=config.data.noise,
        noise_rate=config.data.noise_rate,
        seed=config.seed,
        image_size=config.data.image_size,
        embeddings=config.data.embeddings,
        progress=heard.embedding,
    )
    decided = None if config.data.labels is None else _decisions(config)
    if decided is not None and decided.data == _fingerprint(data):
        data, decided = _decided(config, data, decided, heard), None
    if config.data.imbalance is not None:
        data = datasets.long_tail(data, config.data.imbalance, config.seed)
    if config.data.limit is not None:
        data = datasets.limit(data, config.data.limit, config.seed)
    if config.data.holdout is not None:
        data = _held_out(data, config.data.holdout, config.seed)
    if config.kept.stop_on_holdout is not None:
        data = _with_stopping(data, config.kept.stop_on_holdout, config.seed)
    # The report of a run that holds samples out is on those that are left, and so are the decisions.
    return data if decided is None else _decided(config, data, decided, heard)


def _decisions(config: TrainConfig) -> Decisions:
    assert config.data.labels is not None
    config.decided_by()  # refuses a file that is not there, and another than the settings say
    return decisions.load(config.data.labels)


def _ids(data: ClassificationData) -> Sequence[str]:
    if data.ids is not None:
        return data.ids
    return [str(place) for place in (range(len(data.labels)) if data.places is None else data.places.tolist())]


def _fingerprint(data: ClassificationData) -> str:
    return decisions.fingerprint(_ids(data), [data.class_names[label] for label in data.labels.tolist()])


def _decided(config: TrainConfig, data: ClassificationData, found: Decisions, heard: Progress) -> ClassificationData:
    """Relabel and drop the training samples as people decided."""
    file = config.data.labels
    try:
        labels, kept = found.apply(data.labels, data.class_names, _ids(data), data.places)
    except UserError as error:
        raise type(error)(f"labels={str(file)!r}: {error}") from error
    if not len(kept):
        raise ValueMistake(
            f"labels={str(file)!r} drops all {len(labels)} training samples, expected some to be left: keep some"
        )
    changed = int((labels != data.labels).sum())
    heard.note(f"labels: {changed:,} relabelled, {len(labels) - len(kept):,} dropped of {len(labels):,}, by {file}")
    return datasets.subset(datasets.relabel(data, labels), kept)


def _embedder(settings: DataSettings, data: ClassificationData) -> embedding.Embedder | embedding.Tfidf:
    """What turns the samples into vectors, as the settings say."""
    if settings.features == "tfidf":
        return embedding.Tfidf()
    if settings.features == "sentences":
        return embedding.SentenceEmbedder(settings.sentence_model)
    return embedding.image_embedder(
        data.train_eval, settings.feature_weights, settings.feature_model, settings.image_size
    )


def _refuse_unfit(config: TrainConfig, data: ClassificationData) -> None:
    if not data.input_shape and config.data.features == "none":
        raise ValueMistake(
            f"features='none' is given with {config.data.dataset}, which holds texts, expected a way to turn them into "
            "vectors: --features tfidf, or --features sentences, or columns of numbers by ?features=A,B"
        )
    size = config.data.image_size
    if size is not None and config.data.features != "pretrained" and data.input_shape[1:] != (size, size):
        raise ValueMistake(
            f"image_size={size} is given with {config.data.dataset}, whose samples have a size of their own, expected "
            "photos, CIFAR, or --features pretrained: leave it out"
        )
    if data.test is None and config.data.holdout is None:
        raise ValueMistake(
            f"holdout=None is given with {config.data.dataset}, which has no test samples, expected something to judge "
            "the run by: hold out a tenth of the training samples with --holdout 0.1, or add a test split"
        )


def _held_out(data: ClassificationData, share: float, seed: int) -> ClassificationData:
    """Take a random share of the training samples for the test set, as they are without augmentation."""
    total = len(data.labels)
    size = _held_size("holdout", share, total)
    order = torch.randperm(total, generator=keyed_generator(seed, 0, "holdout"))
    held, rest = order[:size].sort().values, order[size:].sort().values
    return replace(datasets.subset(data, rest), test=Subset(data.train_eval, held.tolist()))


def _with_stopping(data: ClassificationData, share: float, seed: int) -> ClassificationData:
    """Hold out a share of the training samples, of every given class the same, to choose the epoch by."""
    total = len(data.labels)
    size = _held_size("stop_on_holdout", share, total)
    shuffled = torch.randperm(total, generator=keyed_generator(seed, 0, "stop on holdout"))
    by_class = shuffled[data.labels[shuffled].argsort(stable=True)]
    is_held = torch.zeros(total, dtype=torch.bool)
    is_held[by_class[(2 * torch.arange(size) + 1) * total // (2 * size)]] = True  # evenly spaced
    held, rest = is_held.nonzero().squeeze(1), (~is_held).nonzero().squeeze(1)
    return replace(datasets.subset(data, rest), stopping=Subset(data.train_eval, held.tolist()))


def _held_size(name: str, share: float, total: int) -> int:
    """How many samples a share holds out, of a training set of so many."""
    size = floor(share * total)
    if not 1 <= size < total:
        raise ValueMistake(
            f"{name}={share:g} holds out {size} of the {total} training samples, expected one at least, and one at "
            f"least to be left: choose another share"
        )
    return size
