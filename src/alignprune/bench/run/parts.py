"""The parts of a run, each made as the configuration asks for it."""

from __future__ import annotations

import torch
from torch import nn

from alignprune import Pruner
from alignprune.bench import models, recipes
from alignprune.bench.data import ClassificationData
from alignprune.bench.run import averaging, proxy, stopping, trained
from alignprune.bench.run.augmentation import Augmentation
from alignprune.bench.run.co_teaching import CoTeaching
from alignprune.bench.run.config import TrainConfig
from alignprune.bench.run.diagnosis import Diagnosis
from alignprune.bench.run.fabric import Fabric
from alignprune.bench.run.objective import ChosenLoss, CrossEntropy
from alignprune.bench.run.observers import Observer
from alignprune.bench.run.trace import Trace


def make_pruner(config: TrainConfig, samples: ClassificationData, epochs: int) -> Pruner:
    """The pruner of some samples, for so many epochs."""
    return Pruner(
        len(samples.labels),
        epochs,
        config.pruning.score,
        config.pruning.chosen_policy,
        delta=config.pruning.delta,
        seed=config.seed,
        labels=samples.labels if config.pruning.give_labels else None,
    )


def make_network(config: TrainConfig, samples: ClassificationData) -> nn.Module:
    """The network that the configuration asks for, as it is before the first step."""
    weights = config.network.weights or config.recipe.weights
    network = models.create(
        config.model_for(samples.input_shape),
        samples.num_classes,
        samples.input_shape,
        weights=weights,
        drop_path=config.recipe.drop_path,
        trained_stages=config.recipe.trained_stages,
    )
    if weights is None:
        models.look_at(network, samples.train_eval)
    models.read_prepared(network, samples.preparation)
    network = trained.laid_out(network, samples.input_shape)
    if config.machine.compile:
        network.compile()  # in place: its weights keep their names
    return network


def make_augmentation(config: TrainConfig) -> Augmentation | None:
    """What takes the place of the data set's own augmentation; None where nothing does."""
    translate = config.recipe.translate
    return None if translate is None else Augmentation(translate, config.seed)


def make_objective(
    config: TrainConfig, samples: ClassificationData, model: nn.Module, epochs: int, fabric: Fabric
) -> CrossEntropy:
    """What is minimised, and what is recorded beside it."""
    if config.pruning.co_teaching is not None:
        network = make_network(config, samples)
        peer, optimizer = fabric.setup(network, recipes.make_optimizer(config.recipe, network))
        rate, recorded = config.pruning.co_teaching, config.recorded_smoothing
        return CoTeaching(model, peer, optimizer, config.recipe, epochs, rate, recorded)
    chosen = config.pruning.loss
    if chosen is None:
        return CrossEntropy(model, config.recipe.label_smoothing, config.recorded_smoothing)
    return ChosenLoss(model, chosen.make(len(samples.labels), samples.num_classes, seed=config.seed).to(fabric.device))


def make_averaging(config: TrainConfig, network: nn.Module) -> averaging.LatestWeights | averaging.AveragedWeights:
    """Which weights are evaluated and kept."""
    if config.kept.ema is None:
        return averaging.LatestWeights(network)
    return averaging.AveragedWeights(network, config.kept.ema)


def make_stopping(
    config: TrainConfig, samples: ClassificationData, device: torch.device
) -> stopping.LastEpoch | stopping.BestEpoch:
    """Which epoch's weights are kept."""
    if samples.stopping is None:
        return stopping.LastEpoch()
    return stopping.BestEpoch(samples.stopping, config.kept.patience, device, config.machine.workers)


def make_observers(
    config: TrainConfig, samples: ClassificationData, epochs: int, device: torch.device
) -> list[Observer]:
    """What watches the run, as far as its data and its outputs ask for it."""
    is_noisy = None if samples.noise is None else samples.noise.is_noisy
    found: list[Observer] = []
    if is_noisy is not None:
        found.append(Diagnosis(is_noisy, epochs, device))
    if config.outputs.collect:
        found.append(proxy.Collector(samples, epochs, config.outputs.proxy_epochs, device, config.machine.workers))
    if config.outputs.trace:
        found.append(Trace(len(samples.labels), epochs, is_noisy, device))
    return found
