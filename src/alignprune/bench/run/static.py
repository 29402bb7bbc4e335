"""Static selection inside a run: the part of the data that is trained on, and the proxy that a coreset is chosen by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from alignprune import coresets
from alignprune._files import Kind
from alignprune.bench import data as datasets
from alignprune.bench import models
from alignprune.bench.data import ClassificationData
from alignprune.bench.files import save_tensors
from alignprune.bench.run import proxy, self_supervised
from alignprune.bench.run.config import TrainConfig
from alignprune.bench.run.folder import RESULT, read_result
from alignprune.bench.run.lock import locked
from alignprune.coresets import Proxy
from alignprune.errors import MissingFile, ValueMistake

_SELF_SUPERVISED = "self_supervised.pt"
_FEATURES_KIND = Kind("features", 1, "remove it: it is trained again")


def statistics(config: TrainConfig, data: ClassificationData) -> Proxy | None:
    """What this run's coreset or pseudo-clean reference is chosen by.

    Args:
        config: the run.
        data: all of its data.

    Returns:
        what the proxy run collected; None for a run that needs none.

    Raises:
        FileNotFoundError: if the proxy run or the file of features is not there.
        ValueError: if none is given, or it belongs to other data.
    """
    if not config.pruning.needs_proxy:
        return None
    folder = _proxy_folder(config)
    found = Proxy.load(folder / proxy.FILE)
    if not torch.equal(found.labels, data.labels):
        raise ValueMistake(
            f"proxy={str(folder)!r} is a run on other samples or labels than this one, expected the same: give one of "
            f"the same data set, noise, seed, limit and holdout"
        )
    if getattr(config.pruning.coreset, "features", None) == "self-supervised":
        found = replace(found, self_supervised=_self_supervised(config, data, folder))
    return found


def subset(config: TrainConfig, data: ClassificationData, found: Proxy | None) -> ClassificationData:
    """The part of the training set that the run sees: all of it, or what the oracle or the coreset method keeps.

    A coreset method keeps round((1 - P) N) samples.
    """
    if config.pruning.oracle:
        return datasets.subset(data, right_labels(config, data))
    if config.pruning.coreset is None or config.pruning.prune_ratio is None:
        return data
    total = len(data.labels)
    size = max(1, round((1 - config.pruning.prune_ratio) * total))
    if found is None:  # it draws without looking at anything
        return datasets.subset(data, torch.randperm(total, generator=torch.Generator().manual_seed(config.seed))[:size])
    return datasets.subset(data, coresets.select(config.pruning.coreset, found, size, config.seed))


def right_labels(config: TrainConfig, data: ClassificationData) -> Tensor:
    """The samples that the oracle keeps: those whose given label is the true one, int64 [n], ascending.

    Raises:
        ValueError: if the truth is not known, or no label is right.
    """
    if data.clean_labels is None:
        raise ValueMistake(
            f"oracle=True is given with {config.data.dataset}, expected data of which it is known which labels are "
            f"right: choose a data set with clean labels, draw noise with --noise and --noise-rate, or add "
            f"y_train_clean to the .npz"
        )
    right = (data.labels == data.clean_labels).nonzero().squeeze(1)
    if not len(right):
        raise ValueMistake(
            f"oracle=True is given, but none of the {len(data.labels)} labels is right, expected one at least: choose "
            f"a smaller --noise-rate"
        )
    return right


def cost(config: TrainConfig) -> int:
    """Forward passes of the proxy run, which many runs may share; 0 for a run that needs none."""
    if not config.pruning.needs_proxy:
        return 0
    result = read_result(_proxy_folder(config))
    return int(result["forward_passes"] + result["collect_forward_passes"])


def _proxy_folder(config: TrainConfig) -> Path:
    """The folder of the finished proxy run."""
    if config.earlier.proxy is None:
        raise ValueMistake(
            f"proxy=None is missing, expected the folder of the proxy run that {config.pruning.method} is chosen by: "
            f"run --method full --collect on the same data, then give its folder with --proxy"
        )
    if not (config.earlier.proxy / RESULT).exists():
        raise MissingFile(
            f"proxy={str(config.earlier.proxy)!r} is no finished run, expected the folder of one with --method full "
            f"--collect: wait for it, or leave --proxy out to train one"
        )
    return config.earlier.proxy


def _self_supervised(config: TrainConfig, data: ClassificationData, folder: Path) -> Tensor:
    """Features of a network that never saw a label: from the given file, or trained now and kept with the proxy."""
    file = config.earlier.self_supervised or folder / _SELF_SUPERVISED
    if config.earlier.self_supervised is not None and not file.exists():
        raise MissingFile(
            f"self_supervised={str(file)!r} is not there, expected a file of features: check the path, or leave it "
            f"out to train them"
        )
    if not file.exists():
        with locked(folder, wait=True):
            if not file.exists():
                save_tensors(file, _FEATURES_KIND, _train_self_supervised(config, data))
    features: Tensor = torch.load(file, weights_only=True)
    if features.shape[:1] != data.labels.shape:
        raise ValueMistake(
            f"self_supervised={str(file)!r} has features of {len(features)} samples, expected those of the "
            f"{len(data.labels)} training samples: make them from the same data set, limit and holdout"
        )
    return features


def _train_self_supervised(config: TrainConfig, data: ClassificationData) -> Tensor:
    if data.contrastive is None:
        raise ValueMistake(
            f"coreset.features='self-supervised' is given with {config.data.dataset}, expected images to learn them "
            f"from: choose --coreset.features supervised, or give --self-supervised FILE"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = models.create(config.model_for(data.input_shape), data.num_classes, data.input_shape)
    return self_supervised.simclr_features(
        network,
        data.contrastive,
        data.train_eval,
        epochs=config.recipe.epochs,
        seed=config.seed,
        device=config.machine.torch_device,
        workers=config.machine.workers,
    )
