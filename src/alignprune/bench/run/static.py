"""Static selection inside a run: the part of the data that is trained on, and the proxy that a coreset is chosen by."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from alignprune import coresets, presets
from alignprune.bench import data as datasets
from alignprune.bench import models
from alignprune.bench.data import ClassificationData
from alignprune.bench.run import proxy, references, self_supervised
from alignprune.bench.run.config import TrainConfig
from alignprune.bench.run.folder import save_tensors
from alignprune.coresets import Proxy
from alignprune.errors import MissingFile, ValueMistake

_SELF_SUPERVISED = "self_supervised.pt"


def statistics(config: TrainConfig, data: ClassificationData, train: Callable[[TrainConfig], object]) -> Proxy | None:
    """What this run's coreset or pseudo-clean reference is chosen by; a proxy is trained where none is given.

    Args:
        config: the run.
        data: all of its data.
        train: runs a proxy to its end.

    Returns:
        the proxy's statistics; None for a run that needs none.

    Raises:
        FileNotFoundError: if a given proxy or file of features is not there.
        ValueError: if it belongs to other data.
    """
    if not _needed(config):
        return None
    folder = _folder(config)
    if config.proxy is not None and not (folder / "result.json").exists():
        raise MissingFile(
            f"proxy={str(folder)!r} holds no finished run, expected the folder of one with --method full --collect: "
            f"wait for it, or leave --proxy out to train one"
        )
    if config.proxy is None:
        if config.devices > 1:
            raise ValueMistake(
                f"proxy is missing: {config.method} is chosen by a proxy run, which trains on one device. Run it first "
                f"with --method full --collect, then give its folder with --proxy"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not (folder / "result.json").exists():
                train(_proxy_run(config, folder))
    found = Proxy.load(folder / proxy.FILE)
    if not torch.equal(found.labels, data.labels):
        raise ValueMistake(
            f"proxy={str(folder)!r} was trained on other samples or labels than this run: give one of the same data "
            f"set, noise, seed, limit and holdout"
        )
    if getattr(config.coreset, "features", None) == "self-supervised":
        found = replace(found, self_supervised=_self_supervised(config, data))
    return found


def subset(config: TrainConfig, data: ClassificationData, found: Proxy | None) -> ClassificationData:
    """The part of the training set that the run sees: all of it, or what the oracle or the coreset method keeps.

    A coreset method keeps round((1 - P) N) samples.
    """
    if config.oracle:
        return datasets.subset(data, right_labels(config, data))
    if config.coreset is None or config.prune_ratio is None:
        return data
    total = len(data.labels)
    size = max(1, round((1 - config.prune_ratio) * total))
    if found is None:  # it draws without looking at anything
        return datasets.subset(data, torch.randperm(total, generator=torch.Generator().manual_seed(config.seed))[:size])
    return datasets.subset(data, coresets.select(config.coreset, found, size, config.seed))


def right_labels(config: TrainConfig, data: ClassificationData) -> Tensor:
    """The samples that the oracle keeps: those whose given label is the true one, int64 [n], ascending.

    Raises:
        ValueError: if the truth is not known, or no label is right.
    """
    if data.clean_labels is None:
        raise ValueMistake(
            f"oracle is given, but nobody knows which labels of {config.dataset} are right: choose a data set with "
            f"clean labels, draw noise with --noise and --noise-rate, or add y_train_clean to the .npz"
        )
    right = (data.labels == data.clean_labels).nonzero().squeeze(1)
    if not len(right):
        raise ValueMistake(
            f"oracle is given, but none of the {len(data.labels)} labels is right: choose a smaller --noise-rate"
        )
    return right


def cost(config: TrainConfig) -> int:
    """Forward passes of the proxy run, which many runs may share; 0 for a run that needs none."""
    if not _needed(config):
        return 0
    result = json.loads((_folder(config) / "result.json").read_text())
    return int(result["forward_passes"] + result["collect_forward_passes"])


def _needed(config: TrainConfig) -> bool:
    looks = config.coreset is not None and not isinstance(config.coreset, coresets.Random)
    return looks or references.needs_proxy(config)


def _folder(config: TrainConfig) -> Path:
    return config.proxy or config.folder.with_name(config.folder.name + "-proxy")


def _proxy_run(config: TrainConfig, folder: Path) -> TrainConfig:
    """The full training on the same data, which collects."""
    full = presets.get("full")
    return replace(
        config,
        method="full",
        score=full.score,
        policy=full.policy,
        delta=full.delta,
        coreset=None,
        prune_ratio=None,
        budget="calibrated",
        base_run=None,
        proxy=None,
        collect=True,
        trace=False,
        oracle=False,
        reference="none",
        out=folder,
        resume=(folder / "config.json").exists(),
    )


def _self_supervised(config: TrainConfig, data: ClassificationData) -> Tensor:
    """Features of a network that never saw a label: from the given file, or trained now and kept with the proxy."""
    file = config.self_supervised or _folder(config) / _SELF_SUPERVISED
    if config.self_supervised is not None and not file.exists():
        raise MissingFile(f"self_supervised={str(file)!r}: there is no such file of features")
    if not file.exists():
        with FileLock(file.with_suffix(".lock")):
            if not file.exists():
                save_tensors(file, _train_self_supervised(config, data))
    features: Tensor = torch.load(file, weights_only=True)
    if features.shape[:1] != data.labels.shape:
        raise ValueMistake(
            f"self_supervised={str(file)!r} has features of {len(features)} samples, expected the {len(data.labels)} "
            f"training samples"
        )
    return features


def _train_self_supervised(config: TrainConfig, data: ClassificationData) -> Tensor:
    if data.contrastive is None:
        raise ValueMistake(
            f"ssp looks for self-supervised features, and {config.dataset} has no images to learn them from: choose "
            f"--coreset.features supervised, or give --self-supervised FILE"
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
        device=config.torch_device,
        workers=config.workers,
    )
