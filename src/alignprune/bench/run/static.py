"""Static selection inside a run: the part of the data that is trained on, and the proxy that a coreset is chosen by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from alignprune import coresets
from alignprune._checks import integer
from alignprune._files import Kind, read_tensors
from alignprune.bench import data as datasets
from alignprune.bench import models
from alignprune.bench.data import ClassificationData
from alignprune.bench.files import save_tensors
from alignprune.bench.reading import naming, reading, tensor_in
from alignprune.bench.run import confident_learning, proxy, self_supervised
from alignprune.bench.run.config import TrainConfig
from alignprune.bench.run.folder import RESULT, read_result
from alignprune.bench.run.lock import locked
from alignprune.coresets import Extent, Proxy
from alignprune.errors import MissingFile, UserError, ValueMistake

_SELF_SUPERVISED = "self_supervised.pt"
_COUNTS = ("forward_passes", "collect_forward_passes")
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
    cost(config)  # which the end of the run asks for: a damaged result is refused before its beginning
    found = Proxy.load(folder / proxy.FILE)
    if not torch.equal(found.labels, data.labels):
        raise ValueMistake(
            f"proxy={str(folder)!r} is a run on other samples or labels than this one, expected the same: give one of "
            f"the same data set, noise, seed, limit and holdout"
        )
    if any("self_supervised" in method.needs for method in _methods(config).values()):
        file = config.earlier.self_supervised or folder / _SELF_SUPERVISED
        with naming(f"self_supervised={str(file)!r}"):
            found = replace(found, self_supervised=_self_supervised(config, data, folder))
    return found


def refuse_unfit(config: TrainConfig, data: ClassificationData) -> None:
    """Refuse what could not be chosen by the proxy run, before it is trained.

    Args:
        config: the run.
        data: all of its data.

    Raises:
        ValueError: if its coreset or its pseudo-clean reference needs a longer proxy run or other data.
        FileNotFoundError: if the file of features is not there.
    """
    views = {"strong_features": data.strong, "strong_logits": data.strong, "self_supervised": data.contrastive}
    recorded = {"margins", *(name for name, view in views.items() if view is not None)}
    if config.earlier.self_supervised is not None:
        _given_features(config.earlier.self_supervised, data)
        recorded.add("self_supervised")
    extent = Extent(len(data.labels), data.num_classes, config.recipe.epochs, frozenset(recorded))
    for option, method in _methods(config).items():
        if not recorded.issuperset(method.needs):
            raise _no_views(config, method)
        try:
            method.check(extent)
        except UserError as error:
            raise type(error)(f"{option} cannot choose by its proxy run: {error}") from error


def _methods(config: TrainConfig) -> dict[str, coresets.Settings]:
    """What chooses by the proxy run, by the option that names it."""
    pruning, found = config.pruning, {}
    if pruning.coreset is not None:
        found[f"method={pruning.method!r}"] = pruning.coreset
    if pruning.reference in coresets.CORESETS:
        found[f"reference={pruning.reference!r}"] = coresets.get(pruning.reference).settings
    return found


def subset(config: TrainConfig, data: ClassificationData, found: Proxy | None) -> ClassificationData:
    """The part of the training set that the run sees: all, or what oracle, confident learning or coreset keep.

    A coreset method keeps round((1 - P) N) samples.
    """
    if config.pruning.oracle:
        return datasets.subset(data, right_labels(config, data))
    if config.pruning.without_issues:
        return datasets.subset(data, confident_learning.kept(config, data))
    if config.pruning.coreset is None or config.pruning.prune_ratio is None:
        return data
    size = num_chosen(config, data)
    if found is None:  # it draws without looking at anything
        drawn = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(config.seed))
        return datasets.subset(data, drawn[:size])
    return datasets.subset(data, coresets.select(config.pruning.coreset, found, size, config.seed))


def num_chosen(config: TrainConfig, data: ClassificationData) -> int:
    """How many training samples a coreset method keeps; all of them without one."""
    total = len(data.labels)
    if config.pruning.coreset is None or config.pruning.prune_ratio is None:
        return total
    return max(1, round((1 - config.pruning.prune_ratio) * total))


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
    """Forward passes of the proxy run and the cross-validation, which many runs may share; 0 for one without them."""
    return _cost_of_proxy(config) + confident_learning.cost(config)


def _cost_of_proxy(config: TrainConfig) -> int:
    if not config.pruning.needs_proxy:
        return 0
    folder, remedy = _proxy_folder(config), "give the folder of a run with --method full --collect"
    result = read_result(folder)
    with naming(f"proxy={str(folder)!r}: {RESULT}"):
        return sum(integer(name, result.get(name), at_least=0, remedy=remedy) for name in _COUNTS)


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
    if config.earlier.self_supervised is not None:
        return _given_features(config.earlier.self_supervised, data)
    file = folder / _SELF_SUPERVISED
    if not file.exists():
        with locked(folder, wait=True):
            if not file.exists():
                save_tensors(file, _FEATURES_KIND, _train_self_supervised(config, data))
    features: Tensor = read_tensors(file, _FEATURES_KIND)
    return features


def _given_features(file: Path, data: ClassificationData) -> Tensor:
    """The features in a file of the user's, float [N, d], if they can be those of the training samples."""
    if not file.exists():
        raise MissingFile(
            f"self_supervised={str(file)!r} is not there, expected a file of features: check the path, or leave it "
            f"out to train them"
        )
    place = f"self_supervised={str(file)!r}"
    with reading(place, file, "a tensor of features", "write it with torch.save"):
        features = tensor_in(file)
    total = len(data.labels)
    if features.ndim != 2 or len(features) != total or features.dtype not in (torch.float16, torch.float32):
        found = f"{features.dtype} of shape {tuple(features.shape)}"
    elif not features.isfinite().all():
        found = "values that are not finite"
    else:
        return features
    raise ValueMistake(
        f"{place} holds {found}, expected float16 or float32 [{total}, d], a row for each of the {total} training "
        f"samples: make them from the same data set, limit and holdout"
    )


def _train_self_supervised(config: TrainConfig, data: ClassificationData) -> Tensor:
    if data.contrastive is None:
        raise _no_views(config, coresets.SSP())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = models.create(config.model_for(data.input_shape), data.num_classes, data.input_shape)
        models.look_at(network, data.train_eval)
    return self_supervised.simclr_features(
        network,
        data.contrastive,
        data.train_eval,
        epochs=config.recipe.epochs,
        seed=config.seed,
        device=config.machine.torch_device,
        workers=config.machine.workers,
    )


def _no_views(config: TrainConfig, method: coresets.Settings) -> ValueMistake:
    remedy = "choose another method"
    if "self_supervised" in method.needs:
        remedy = "give --self-supervised FILE, or choose --coreset.features supervised with the method ssp"
    return ValueMistake(
        f"{type(method).__name__} reads augmented views of images, and {config.data.dataset} has none, expected some: "
        f"{remedy}"
    )
