"""Train a classifier with any named method, on any data set, in a folder that a later call can go on from.

The loop is the contract's; around it stand what an experiment needs: recipe, coreset, reference, re-labelling, prune
ratio, evaluation, diagnosis against the truth where it is known, checkpoint. Lightning Fabric brings device, precision
and DDP.
"""

from __future__ import annotations

import math
import platform
import random
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

import alignprune
from alignprune import Pruner
from alignprune._checks import floor
from alignprune.bench import data as datasets
from alignprune.bench import models, recipes
from alignprune.bench.data import ClassificationData, Samples
from alignprune.bench.run import budget, proxy, references, static, trace
from alignprune.bench.run.config import TrainConfig
from alignprune.bench.run.diagnosis import kept_noise, mean_losses, mean_of_known, noise_auroc
from alignprune.bench.run.folder import RunFolder, save_arrays
from alignprune.coresets import Proxy
from alignprune.errors import ValueMistake
from alignprune.relabel import SOP
from alignprune.sampler import keyed_generator

_FABRIC_PRECISION = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
_EVALUATION_BATCH = 512


class Progress:
    """What a run tells while it works; the command line draws it."""

    def start(self, description: str, epochs: int) -> None:
        """The run begins, or goes on."""

    def step(self, epoch: int, step: int, steps: int) -> None:
        """A batch is done."""

    def epoch(self, metrics: dict[str, Any]) -> None:
        """An epoch is done."""


def train(config: TrainConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Run the experiment, or what is left of it, and store it in its folder.

    Args:
        config: everything.
        progress: told of every step and epoch, on the first rank.

    Returns:
        the content of result.json.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: before any training, with what to do.
    """
    RunFolder.check(config.folder, config.stored(), resume=config.resume)
    data = _data(config)
    _check(config, data)
    progress = progress if progress is not None else Progress()
    statistics = static.statistics(config, data, lambda proxy_run: train(proxy_run, progress))
    fabric = _fabric(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        fabric.launch()
        fabric.seed_everything(config.seed, verbose=False)
    run = _Run(config, data, statistics, fabric, progress if fabric.is_global_zero else Progress())
    return run.finish()


class _Run:
    """The state of one run between its epochs."""

    def __init__(
        self, config: TrainConfig, whole: ClassificationData, proxy_of: Proxy | None, fabric: Fabric, progress: Progress
    ) -> None:
        self.config, self.fabric, self.progress = config, fabric, progress
        recipe, device = config.recipe, fabric.device
        self.whole_size = len(whole.labels)
        self.data = data = static.subset(config, whole, proxy_of)
        size = len(data.labels)
        epochs = config.epochs_on(size / self.whole_size)
        self.pruner = Pruner(
            size,
            epochs,
            config.score,
            config.chosen_policy,
            delta=config.delta,
            seed=config.seed,
            labels=data.labels if config.give_labels else None,
        )
        self.reference = references.make(config, whole, device, proxy_of)
        network = models.create(
            config.model_for(data.input_shape),
            data.num_classes,
            data.input_shape,
            weights=config.weights or recipe.weights,
            drop_path=recipe.drop_path,
        )
        if len(data.input_shape) == 3:
            network = network.to(memory_format=torch.channels_last)  # half as fast again on a CPU, faster in bf16
        self.folder: RunFolder | None = None
        if fabric.is_global_zero:  # only now, after all that can be refused has been
            self.folder = RunFolder(config.folder, config.stored(), resume=config.resume)
            if data.noise is not None and not config.resume:
                data.noise.save(config.folder / "noise.npz")
        model, optimizer = fabric.setup(network, recipes.make_optimizer(recipe, network))
        self.model: nn.Module = model
        self.optimizer: torch.optim.Optimizer = optimizer
        self.sop = self.sop_optimizer = None
        if config.relabel is not None:
            self.sop = SOP(size, data.num_classes, config.relabel, seed=config.seed).to(device)
            self.sop_optimizer = self.sop.make_optimizer()
        self.train_loader = self._loader(pruned=False)
        self.pruned_loader = self._loader(pruned=True) if self.pruner.score.needs_pruned else None
        self.test_loader = DataLoader(data.test, batch_size=_EVALUATION_BATCH, num_workers=config.workers)
        self.collector = (
            proxy.Collector(data, epochs, config.proxy_epochs, device, _EVALUATION_BATCH, config.workers)
            if config.collect
            else None
        )
        is_noisy = None if data.noise is None else data.noise.is_noisy
        self.trace = trace.Trace(size, epochs, is_noisy, device) if config.trace else None
        self.trained = 0  # samples trained on, with repetition, on all devices
        self.budget = (
            budget.training_samples(recipe.epochs, config.prune_ratio, self.whole_size)
            if config.budget == "equal" and config.prune_ratio is not None
            else None
        )
        self.metrics: list[dict[str, Any]] = []
        self.shown_losses: dict[int, Tensor] = {}
        if config.resume:
            self._restore()

    def _loader(self, *, pruned: bool) -> DataLoader[Any]:
        config, data = self.config, self.data
        samples: Dataset[Any] = data.train
        if config.relabel is not None and config.relabel.consistency and data.strong is not None:
            samples = _TwoViews(data.train, data.strong)
        return self.pruner.loader(
            samples,
            pruned=pruned,
            even_batches=config.even_batches and not pruned,
            batch_size=max(1, config.batch_size // config.devices),
            num_workers=config.workers,
            persistent_workers=config.workers > 0,
            pin_memory=self.fabric.device.type == "cuda",
        )

    @property
    def spent(self) -> bool:
        """Whether the equal budget of training samples is used up."""
        return self.budget is not None and self.trained >= self.budget

    def finish(self) -> dict[str, Any]:
        """Train the epochs that are left and store the result."""
        if self.folder is not None and self.folder.result is not None:
            return self.folder.result
        config, pruner = self.config, self.pruner
        noise = self.data.noise
        rate = f", {noise.noise_rate:.1%} wrong labels" if noise is not None else ""
        self.progress.start(f"{config.dataset}{rate}: {config.method}, seed {config.seed}", pruner.epochs)
        while pruner.epoch < pruner.epochs and not self.spent:
            metrics = self._epoch()
            self.metrics.append(metrics)
            self.progress.epoch(metrics)
            if self.folder is not None:
                self.folder.save_epoch(self.metrics, self._checkpoint())
        result = self._result()
        if self.folder is not None:
            self._save_artefacts(self.folder.path)
            self.folder.save_result(result)
        return result

    def _epoch(self) -> dict[str, Any]:
        pruner, fabric = self.pruner, self.fabric
        epoch, selection, annealing = pruner.epoch, pruner.selection, pruner.annealing
        steps = len(self.train_loader)
        total, started = torch.zeros((), device=fabric.device), time.perf_counter()
        trained, done = self.trained, 0
        self.model.train()
        for step, (index, x, y) in enumerate(self._batches(self.train_loader)):
            if self.spent:
                break
            index, x, y = self._within_budget(index, x, y)
            recipes.set_schedule(self.optimizer, self.config.recipe, self._position(epoch, step, steps))
            if pruner.policy.in_batch:
                index, x, y = self._chosen(index, x, y)
            self.model.train(len(index) > 1)  # one sample has no batch statistics: the running ones stand in
            total += self._step(index, x, y)
            self.trained += len(index) * self.config.devices
            done += 1
            self.progress.step(epoch, step, steps)
        train_loss = float(total) / max(done, 1)
        seconds = time.perf_counter() - started
        if self.pruned_loader is not None and not self.spent:
            self._refresh(self.pruned_loader)
        if self.sop is not None:
            self.sop.sync()
        reference_loss = self.reference.loss(self.model) if self.reference is not None else None
        pruner.end_epoch(reference_loss)
        if self.trace is not None:
            self.trace.end_epoch(reference_loss)
        if self.collector is not None:
            self.collector.end_epoch(epoch, self.model)
        last = pruner.epoch == pruner.epochs or self.spent
        accuracy = test_loss = None
        if last or (epoch + 1) % self.config.evaluate_every == 0:
            accuracy, test_loss = self._evaluate()
        return {
            "epoch": epoch + 1,
            "accuracy": accuracy,
            "test_loss": test_loss,
            "train_loss": train_loss,
            "reference_loss": reference_loss,
            "pruned_share": selection.pruned_share,
            "annealing": annealing,
            **self._diagnosis(epoch, selection, last),
            "estimated_noise_rate": selection.noise_rate,
            "memorisation": _known(pruner.ledger.memorisation) if pruner.ledger is not None else None,
            "forward_passes": pruner.forward_passes,
            "images_per_second": (self.trained - trained) / seconds,
            "train_seconds": seconds,
            "seconds": time.perf_counter() - started,
        }

    def _step(self, index: Tensor, x: Any, y: Tensor) -> Tensor:
        """Forward, backward, update; returns the loss that was minimised."""
        recipe, pruner, fabric = self.config.recipe, self.pruner, self.fabric
        if self.sop is None:
            logits = self.model(x)
            recorded = F.cross_entropy(logits, y, reduction="none", label_smoothing=recipe.label_smoothing)
            loss = pruner.reduce(index, recorded)
        else:
            if isinstance(x, (list, tuple)):
                logits, strong = self.model(torch.cat(list(x))).chunk(2)
            else:
                logits, strong = self.model(x), None
            out = self.sop(index, y, logits, strong)
            recorded = out.recorded
            loss = pruner.reduce(index, out.losses, record=recorded) + out.balance
            assert self.sop_optimizer is not None
            self.sop_optimizer.zero_grad()
        if self.collector is not None:
            self.collector.step(index, logits, y)
        if self.trace is not None:
            self.trace.step(index, recorded, logits, y)
        self.optimizer.zero_grad()
        fabric.backward(loss)
        if recipe.clip:
            fabric.clip_gradients(self.model, self.optimizer, max_norm=recipe.clip)
        self.optimizer.step()
        if self.sop_optimizer is not None:
            self.sop_optimizer.step()
        return loss.detach()

    def _position(self, epoch: int, step: int, steps: int) -> float:
        """Where the run stands, in [0, 1): by samples where these are limited, else by epochs and steps."""
        if self.budget is not None:
            return self.trained / self.budget
        return recipes.position(epoch, step, steps, self.pruner.epochs)

    def _within_budget(self, index: Tensor, x: Any, y: Tensor) -> tuple[Tensor, Any, Tensor]:
        """The part of a batch that the budget still pays for."""
        if self.budget is None or self.pruner.policy.in_batch:
            return index, x, y
        rest = -(-(self.budget - self.trained) // self.config.devices)
        if rest >= len(index):
            return index, x, y
        return index[:rest], [part[:rest] for part in x] if isinstance(x, list) else x[:rest], y[:rest]

    def _batches(self, loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Any, Tensor]]:
        """Batches with the data on the device; the index stays on the host, where it is checked."""
        device = self.fabric.device
        for index, (x, y) in loader:
            moved: Any = (
                [part.to(device, non_blocking=True) for part in x]
                if isinstance(x, (list, tuple))
                else x.to(device, non_blocking=True)
            )
            yield index, moved, y.to(device, non_blocking=True)

    def _chosen(self, index: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The part of a batch that the policy trains on, after a probing pass in evaluation mode."""
        network = self.model.module
        self.model.eval()
        with torch.no_grad(), self.fabric.autocast():
            features, logits = models.features_and_logits(network, x)  # type: ignore[arg-type]
        self.model.train()
        chosen = self.pruner.choose(index, logits=logits, features=features, labels=y)
        return index[chosen.to(index.device)], x[chosen], y[chosen]

    def _refresh(self, loader: DataLoader[Any]) -> None:
        """Record the losses of the samples that this epoch left out: training augmentation, evaluation mode (IES)."""
        smoothing = self.config.recipe.label_smoothing if self.sop is None else 0.0
        self.model.eval()
        with torch.no_grad():
            for index, x, y in self._batches(loader):
                weak = x[0] if isinstance(x, list) else x
                logits = self.model(weak)
                losses = F.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing)
                self.pruner.record(index, losses)
                if self.trace is not None:
                    self.trace.step(index, losses, logits, y)

    @torch.no_grad()
    def _evaluate(self) -> tuple[float, float]:
        """Accuracy and plain cross-entropy on the test set."""
        self.model.eval()
        right = torch.zeros((), dtype=torch.int64, device=self.fabric.device)
        total = torch.zeros((), dtype=torch.float64, device=self.fabric.device)
        for x, y in self.test_loader:
            x, y = x.to(self.fabric.device, non_blocking=True), y.to(self.fabric.device, non_blocking=True)
            logits = self.model(x).float()
            right += (logits.argmax(1) == y).sum()
            total += F.cross_entropy(logits, y, reduction="sum").double()
        size = len(self.data.test)  # type: ignore[arg-type]
        return int(right) / size, float(total) / size

    def _diagnosis(self, epoch: int, selection: Any, last: bool) -> dict[str, float | None]:
        """What the epoch's selection, scores and losses look like beside the truth."""
        truth = self.data.noise
        if truth is None:
            return dict.fromkeys(("kept_noise", "score_auroc", "clean_loss", "noisy_loss"))
        losses = self.pruner.bank.recent(1)[0]
        if last or epoch + 1 == max(1, self.pruner.epochs // 2):
            self.shown_losses[epoch + 1] = losses.half()
        clean, noisy = mean_losses(losses, truth.is_noisy)
        return {
            "kept_noise": kept_noise(selection, truth.is_noisy),
            "score_auroc": noise_auroc(self.pruner.score, self.pruner.scores, truth.is_noisy),
            "clean_loss": clean,
            "noisy_loss": noisy,
        }

    def _save_artefacts(self, folder: Path) -> None:
        truth = self.data.noise
        if truth is not None:
            epochs = sorted(self.shown_losses)
            save_arrays(
                folder / "losses.npz",
                epochs=np.array(epochs),
                losses=torch.stack([self.shown_losses[epoch] for epoch in epochs]).numpy(),
                is_noisy=truth.is_noisy.numpy(),
            )
        if self.collector is not None:
            self.collector.proxy().save(folder / proxy.FILE)
        if self.trace is not None:
            self.trace.save(folder / trace.FILE)

    def _checkpoint(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pruner": self.pruner.state_dict(),
            "metrics": self.metrics,
            "random": _random_state(),
            "trained": self.trained,
            "losses": self.shown_losses,
            "sop": None if self.sop is None else self.sop.state_dict(),
            "collector": None if self.collector is None else self.collector.state_dict(),
            "trace": None if self.trace is None else self.trace.state_dict(),
        }

    def _restore(self) -> None:
        state = RunFolder(self.config.folder, self.config.stored(), resume=True).load_checkpoint()
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.pruner.load_state_dict(state["pruner"])
        self.metrics, self.trained, self.shown_losses = state["metrics"], state["trained"], state["losses"]
        if self.sop is not None:
            self.sop.load_state_dict(state["sop"])
        if self.collector is not None:
            self.collector.load_state_dict(state["collector"])
        if self.trace is not None:
            self.trace.load_state_dict(state["trace"])
        _set_random_state(state["random"])

    def _result(self) -> dict[str, Any]:
        config, last, pruner = self.config, self.metrics[-1], self.pruner
        ranked = self.metrics[: pruner.annealing_start] or self.metrics
        noise = self.data.noise
        known = noise is not None
        full = self.whole_size * config.recipe.epochs
        return {
            "dataset": config.dataset,
            "noise": noise.kind if noise is not None else None,
            "noise_rate": noise.noise_rate if noise is not None else None,
            "method": config.method,
            "prune_ratio": config.prune_ratio,
            "seed": config.seed,
            "model": config.model_for(self.data.input_shape),
            "epochs": len(self.metrics),
            "train_size": pruner.num_samples,
            "evaluated_on": "test" if config.holdout is None else "holdout",
            "accuracy": last["accuracy"],
            "test_loss": last["test_loss"],
            "forward_passes": pruner.forward_passes,
            "forward_fraction": pruner.forward_passes / full,
            "trained_fraction": self.trained / full,
            "reference_forward_passes": len(self.metrics) * len(self.reference) if self.reference is not None else 0,
            "proxy_forward_passes": static.cost(config),
            "collect_forward_passes": self.collector.forward_passes if self.collector is not None else 0,
            "pruned_share": sum(row["pruned_share"] for row in self.metrics) / len(self.metrics),
            "kept_noise": mean_of_known([row["kept_noise"] for row in ranked]) if known else None,
            "score_auroc": mean_of_known([_number(row["score_auroc"]) for row in ranked]) if known else None,
            "estimated_noise_rate": last["estimated_noise_rate"],
            "images_per_second": sum(row["images_per_second"] for row in self.metrics) / len(self.metrics),
            "train_seconds": sum(row["train_seconds"] for row in self.metrics),
            "seconds": sum(row["seconds"] for row in self.metrics),
            "device": _device_name(self.fabric.device),
            "versions": {
                "alignprune": alignprune.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }


class _TwoViews(Dataset[Any]):
    """The same samples under two augmentations: ((weak, strong), label)."""

    def __init__(self, weak: Samples, strong: Samples) -> None:
        self.weak, self.strong = weak, strong

    def __len__(self) -> int:
        return len(self.weak)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        x, y = self.weak[index]
        return (x, self.strong[index][0]), y

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The samples at these indices; DataLoader asks for a whole batch by this method."""
        weak, strong = (
            view.__getitems__(indices) if hasattr(view, "__getitems__") else [view[i] for i in indices]
            for view in (self.weak, self.strong)
        )
        return [((x, other), y) for (x, y), (other, _) in zip(weak, strong, strict=True)]


# -- before the training -----------------------------------------------------------------------------------


def _data(config: TrainConfig) -> ClassificationData:
    data = datasets.load(
        config.dataset,
        root=config.data_root,
        noise=config.noise,
        noise_rate=config.noise_rate,
        seed=config.seed,
        image_size=config.image_size,
    )
    if config.imbalance is not None:
        data = datasets.long_tail(data, config.imbalance, config.seed)
    if config.limit is not None:
        data = datasets.limit(data, config.limit, config.seed)
    return data if config.holdout is None else _held_out(data, config.holdout, config.seed)


def _held_out(data: ClassificationData, share: float, seed: int) -> ClassificationData:
    """Take a random share of the training samples for the test set, as they are without augmentation."""
    total = len(data.labels)
    size = floor(share * total)
    if not 1 <= size < total:
        raise ValueMistake(
            f"holdout={share:g} holds out {size} of the {total} training samples, expected one at least, and one at "
            f"least to be left: choose another share"
        )
    order = torch.randperm(total, generator=keyed_generator(seed, 0, "holdout"))
    held, rest = order[:size].sort().values, order[size:].sort().values
    return replace(datasets.subset(data, rest), test=Subset(data.train_eval, held.tolist()))


def _check(config: TrainConfig, data: ClassificationData) -> None:
    """Refuse what does not go with this data, before any training."""
    if config.relabel is not None and config.relabel.consistency and data.strong is None:
        raise ValueMistake(
            f"relabel is given with consistency={config.relabel.consistency:g}, which compares two views of a sample, "
            f"and {config.dataset} has no second view: SOP without consistency takes features "
            f"(--relabel.consistency 0 --relabel.balance 0)"
        )
    if config.oracle:
        static.right_labels(config, data)
    if config.collect:
        proxy.warmup_epochs(config.epochs, config.proxy_epochs)
    config.chosen_policy.check(len(data.labels))


def _fabric(config: TrainConfig) -> Fabric:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueMistake("device='cuda' is given, but torch sees no GPU here: use --device cpu, or --device auto")
    return Fabric(
        accelerator=config.device,
        devices=config.devices,
        strategy="ddp" if config.devices > 1 else "auto",
        precision=_FABRIC_PRECISION[config.precision],  # type: ignore[arg-type]
    )


# -- random state, device -----------------------------------------------------------------------------------


def _random_state() -> dict[str, Any]:
    """The states of all global generators, which augmentation and dropout draw from."""
    numpy_state: Any = np.random.get_state()
    kind, keys, position, has_gauss, gauss = numpy_state
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
