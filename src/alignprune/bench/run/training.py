"""Train a classifier with any named method, on any data set, in a folder that a later call can go on from.

The loop is the contract's; around it stand what an experiment needs: recipe, objective, reference, prune ratio,
evaluation, observers, checkpoints, signals. Lightning Fabric brings device, precision and DDP.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from alignprune import coresets
from alignprune._ranks import rank_and_world
from alignprune.bench import data as datasets
from alignprune.bench import models, recipes
from alignprune.bench.data import ClassificationData
from alignprune.bench.files import plain
from alignprune.bench.run import (
    checkpoint,
    confident_learning,
    data,
    parts,
    proxy,
    ranks,
    references,
    static,
    stopping,
    trackers,
    trained,
)
from alignprune.bench.run.augmentation import Augmentation
from alignprune.bench.run.batches import (
    Batch,
    KeyedDraws,
    Loader,
    TwoViews,
    batches,
    draws,
    evaluation_loader,
    training_loader,
)
from alignprune.bench.run.budget import Spending
from alignprune.bench.run.config import TrainConfig
from alignprune.bench.run.diagnosis import memorisation
from alignprune.bench.run.evaluation import evaluate
from alignprune.bench.run.fabric import Fabric
from alignprune.bench.run.folder import CHECKPOINT, RunFolder
from alignprune.bench.run.interruption import CheckpointEvery, Interrupted, Interruption
from alignprune.bench.run.objective import Outcome
from alignprune.bench.run.observers import EndOfEpoch, Observer
from alignprune.bench.run.progress import OtherRank, Progress
from alignprune.bench.run.record import EpochRecord, RunRecord, device_name, summary
from alignprune.bench.run.trackers import Tracker
from alignprune.bench.run.trained import TrainedModel
from alignprune.bench.run.within import WithinEpoch
from alignprune.coresets import Proxy
from alignprune.errors import Diverged, ValueMistake
from alignprune.selection import Selection


def train(config: TrainConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Run the experiment, or what is left of it, and store it in its folder. Starts no other run.

    Args:
        config: everything.
        progress: hears of every step and epoch, on the first rank.

    Returns:
        the content of result.json: the fields of its `RunRecord`.

    Raises:
        ValueError, FileNotFoundError, FileExistsError, RuntimeError: before any training, with what to do.
        Diverged: if the losses are not finite any more; the last good checkpoint is kept.
        Interrupted: after SIGTERM or Ctrl-C, when it is stored where the run stands.
    """
    with ranks.together(config.machine) as fabric:
        return _fit(config, ranks.agreed(lambda: prepare(config, progress)), fabric, progress)


def fit(
    config: TrainConfig, inputs: Inputs, progress: Progress | None = None, watching: Sequence[Observer] = ()
) -> dict[str, Any]:
    """Run the experiment, or what is left of it, on what has been read for it.

    Args:
        config: everything.
        inputs: its data, or a part of them.
        progress: hears of every step and epoch, on the first rank.
        watching: observers beside those that the configuration asks for.

    Returns, Raises: as `train`.
    """
    with ranks.together(config.machine) as fabric:
        return _fit(config, inputs, fabric, progress, watching)


def _fit(
    config: TrainConfig,
    inputs: Inputs,
    fabric: Fabric,
    progress: Progress | None = None,
    watching: Sequence[Observer] = (),
) -> dict[str, Any]:
    return begin(config, inputs, fabric, progress, watching).finish()


def begin(
    config: TrainConfig,
    inputs: Inputs,
    fabric: Fabric,
    progress: Progress | None = None,
    watching: Sequence[Observer] = (),
) -> Run:
    """The run before its first step: its network is drawn, and its folder is its own."""
    chosen_by = static.statistics(config, inputs.data)
    fabric.seed_everything(config.seed, verbose=False)
    heard = progress if progress and fabric.is_global_zero else Progress()
    return Run(config, inputs, chosen_by, fabric, heard, watching)


@dataclass(frozen=True, eq=False)
class Inputs:
    """What is read before a run begins.

    Attributes:
        data: all samples that it may choose among.
        base_share: the pruned share that its base run measured; None without a base.
    """

    data: ClassificationData
    base_share: float | None


def prepare(config: TrainConfig, progress: Progress | None = None) -> Inputs:
    """Read what the run depends on, and refuse what does not go together, before any training.

    Args:
        config: everything.
        progress: hears of what is done to the samples, on the first rank.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: with what to do.
    """
    trackers.check(config.outputs.track)
    if config.machine.compile:
        _refuse_without_compiler()
    CheckpointEvery.parse(config.outputs.checkpoint_every)
    base_share = config.measured_base()
    if rank_and_world()[0] == 0:  # the others would find the folder in use by the first
        RunFolder.check(config.folder, config.stored(base_share), resume=config.place.resume)
    heard = progress or Progress()
    inputs = Inputs(data.load(config, heard if rank_and_world()[0] == 0 else OtherRank(heard)), base_share)
    _check(config, inputs.data)
    if config.pruning.needs_proxy and config.earlier.proxy is None:
        _check_ahead(config, inputs)
    return inputs


@dataclass(frozen=True)
class Step:
    """A step that a run is about to take.

    Attributes:
        index: of the samples, int64 [B], on the host.
        batch: the samples.
        place: epoch, number of the step and of all steps of the epoch, and the position in the run.
    """

    index: Tensor
    batch: Batch
    place: tuple[int, int, int, float]


class Shared(Protocol):
    """What holds the weights of several runs while they take steps together."""

    def release(self) -> None:
        """Give every run its own weights back."""


class Run:
    """The state of one run between its epochs.

    Attributes:
        shared: what holds its weights at present; None where it has them to itself.
    """

    def __init__(
        self,
        config: TrainConfig,
        inputs: Inputs,
        chosen_by: Proxy | None,
        fabric: Fabric,
        progress: Progress,
        watching: Sequence[Observer],
    ) -> None:
        self.config, self.fabric, self.progress = config, fabric, progress
        device, whole = fabric.device, inputs.data
        self.stopping = parts.make_stopping(config, whole, device)
        self.whole_size = len(whole.labels) + len(self.stopping)
        self.data = static.subset(config, whole, chosen_by)
        self.pruner = parts.make_pruner(
            config, self.data, config.epochs(inputs.base_share, len(self.data.labels) / self.whole_size)
        )
        self.reference = references.make(config, whole, device, chosen_by)
        network = parts.make_network(config, self.data)
        if config.network.weights == models.PRETRAINED:
            told = models.normalised_otherwise(network, self.data.preparation)
            if told is not None:
                self.progress.note(told)
        model, optimizer = fabric.setup(network, recipes.make_optimizer(config.recipe, network))
        self.model: nn.Module = model
        self.optimizer: torch.optim.Optimizer = optimizer
        self.averaging = parts.make_averaging(config, self.network)
        self.objective = parts.make_objective(config, self.data, self.model, self.pruner.epochs, fabric)
        self.observers = [*parts.make_observers(config, self.data, self.pruner.epochs, device), *watching]
        self.spending = Spending(config.training_samples(self.whole_size), config.machine.devices)
        self.interruption = Interruption(CheckpointEvery.parse(config.outputs.checkpoint_every), device)
        self.augmentation = parts.make_augmentation(config)
        self.views = self._views()
        self.train_loader = self._loader(pruned=False)
        self.pruned_loader = self._loader(pruned=True) if self.pruner.score.needs_pruned else None
        assert self.data.test is not None, "data.load has refused data without test samples"
        self.test_loader = evaluation_loader(self.data.test, device, config.machine.workers)
        self.within = WithinEpoch(0, device)
        self.epochs: list[EpochRecord] = []
        self.proxy_cost = static.cost(config)
        self.shared: Shared | None = None
        # only now, after all that can be refused has been
        self.folder = ranks.agreed(lambda: self._opened(inputs.base_share) if fabric.is_global_zero else None)

    def _opened(self, base_share: float | None) -> RunFolder:
        config = self.config
        return RunFolder(config.folder, config.stored(base_share), resume=config.place.resume, noise=self.data.noise)

    def _views(self) -> Dataset[Any]:
        """What the loaders read: the training samples, in two views where they are compared."""
        config, samples, loss = self.config, self.data, self.config.pruning.loss
        weak = samples.train if self.augmentation is None else samples.train_eval
        views: Dataset[Any] = weak
        if loss is not None and loss.needs_strong and samples.strong is not None:
            views = TwoViews(weak, samples.strong)
        return KeyedDraws(views, config.seed) if draws(views) else views

    def _loader(self, *, pruned: bool) -> Loader:
        config = self.config
        return training_loader(
            self.pruner,
            self.views,
            config.batch_of_rank,
            self.fabric.device,
            config.machine.workers,
            pruned=pruned,
            even_batches=config.data.even_batches and not pruned,
        )

    def finish(self) -> dict[str, Any]:
        """Train the epochs that are left and store the result."""
        loss: Any = None  # what a generator is sent first
        with closing(self.life(self.interruption)) as life:  # also where a step fails
            while True:
                try:
                    step = life.send(loss)
                except StopIteration as end:
                    result: dict[str, Any] = end.value
                    return result
                loss = self.take(step)

    def life(self, listening: AbstractContextManager[object]) -> Generator[Step, Tensor, dict[str, Any]]:
        """All that a run is, but for its steps: these are taken by who asks for them.

        Args:
            listening: for signals while the run trains.

        Yields:
            each step that it is about to take; to be sent the loss that was minimised, float [] on the device.

        Returns:
            the content of result.json.
        """
        with nullcontext() if self.folder is None else closing(self.folder):
            complete = ranks.of_the_first(lambda: self.folder.result if self.folder else None)
            if complete is not None:
                self.progress.note(f"all epochs of the run in {self.config.folder} are done")
                return complete
            if self.config.place.resume:
                self._restore()
            self._note_batch()
            self.progress.start(self._description(), self.pruner.epochs)
            with self._tracker() as tracker, listening:
                while not self._is_over:
                    yield from self._next_epoch(tracker)
            return self._end()

    def _next_epoch(self, tracker: Tracker | None) -> Generator[Step, Tensor, None]:
        self.epochs.append((yield from self._epoch()))
        done = asdict(self.epochs[-1])
        self.progress.epoch(done)
        self._refuse_lost_network()
        self.within = WithinEpoch(self.spending.trained, self.fabric.device)
        if self.folder is not None:
            self.folder.save_metrics(self._metrics())
        self._save_checkpoint()
        if tracker is not None:
            watched = trackers.numbers(done) | trackers.numbers(self.pruner.metrics(), "pruner/")
            tracker.log(len(self.epochs), watched)
        self.interruption.after_epoch()
        if not self._is_over:
            self._end_if_asked()

    def _end(self) -> dict[str, Any]:
        """Leave what a finished run leaves."""
        chosen = self._choose_epoch()
        result = asdict(self._result(chosen))
        if self.folder is not None:
            trained.save(self.folder.path, self._trained(), self.averaging.network)
            for observer in self.observers:
                observer.save(self.folder.path)
            self.folder.save_metrics(self._metrics())  # a run that goes on from its last epoch has not written them
            self.folder.save_result(result)
        return result

    def _choose_epoch(self) -> dict[str, Any]:
        """Take the weights of the best epoch, where samples held out have chosen one.

        Returns:
            the fields of the `RunRecord` that follow from it.
        """
        if isinstance(self.stopping, stopping.LastEpoch):
            return {}
        self.stopping.restore(self.averaging.network)
        stopper, done = self.stopping.stopper, len(self.epochs)
        self.progress.note(f"epoch {stopper.epoch} of {done} is taken: it meets {stopper.accuracy:.2%} of the hold-out")
        accuracy, test_loss = self._judge()
        return {"accuracy": accuracy, "test_loss": test_loss, **self.stopping.result()}

    def _note_batch(self) -> None:
        """Say where the ranks cannot share the batch evenly."""
        whole, own, devices = self.config.batch_size, self.config.batch_of_rank, self.config.machine.devices
        if own * devices != whole:
            self.progress.note(
                f"batches of {own * devices} samples in place of {whole}: {own} on each of {devices} ranks"
            )

    def _tracker(self) -> AbstractContextManager[Tracker | None]:
        config, name = self.config, self.config.outputs.track if self.folder is not None else None
        resumed = self.folder is not None and not self.folder.is_new
        return trackers.opened(name, config.folder, plain(config.stored(None)), resumed=resumed)

    @property
    def network(self) -> nn.Module:
        """The network itself, without what Fabric wraps it in."""
        wrapped: Any = self.model
        network: nn.Module = wrapped.module
        return network

    @property
    def _is_over(self) -> bool:
        return self.pruner.epoch == self.pruner.epochs or self.spending.exhausted or self.stopping.should_stop

    @property
    def _forward_passes(self) -> int:
        """Of training samples, by all networks that are trained."""
        return self.pruner.forward_passes + self.objective.peers * self.spending.trained

    # ------------------------------------------------------------------ an epoch

    def _epoch(self) -> Generator[Step, Tensor, EpochRecord]:
        pruner = self.pruner
        epoch, selection, annealing = pruner.epoch, pruner.selection, pruner.annealing
        within, started = self.within, time.perf_counter() - self.within.seconds
        overhead = pruner.metrics()["overhead_seconds"]
        yield from self._train_epoch(epoch, started)
        seen, train_seconds = self.spending.trained - within.trained, time.perf_counter() - started
        right = within.num_right()
        if self.pruned_loader is not None and not self.spending.exhausted:
            self._refresh(self.pruned_loader, epoch)
        self.objective.end_epoch()
        reference_loss = self.reference.loss(self.model)
        pruner.end_epoch(reference_loss, partial=self.spending.exhausted)
        with self.fabric.autocast():
            holdout_accuracy = self.stopping.look(self.averaging.network)
        end = EndOfEpoch(epoch, self._is_over, selection, reference_loss, self.model, pruner)
        observed = _merged(observer.end_epoch(end) for observer in self.observers)
        accuracy = test_loss = None
        if end.is_last or (epoch + 1) % self.config.outputs.evaluate_every == 0:
            accuracy, test_loss = self._judge()
        return EpochRecord(
            epoch=epoch + 1,
            accuracy=accuracy,
            test_loss=test_loss,
            train_loss=within.mean_loss(),
            reference_loss=reference_loss,
            pruned_share=selection.pruned_share,
            annealing=annealing,
            forward_passes=self._forward_passes,
            samples_per_second=seen / train_seconds,
            train_seconds=train_seconds,
            seconds=time.perf_counter() - started,
            estimated_noise_rate=selection.noise_rate,
            memorisation=memorisation(pruner),
            train_accuracy=right / seen if seen else None,
            suspects=None if selection.suspects is None else len(selection.suspects),
            nonfinite=pruner.nonfinite,
            overhead_seconds=pruner.metrics()["overhead_seconds"] - overhead,
            holdout_accuracy=holdout_accuracy,
            **_thresholds(selection),
            **observed,
        )

    def _judge(self) -> tuple[float, float]:
        """Accuracy and mean cross-entropy of what would be the trained model now, on the test set."""
        with self.fabric.autocast():
            return evaluate(self.averaging.network, self.test_loader, self.fabric.device)

    def _train_epoch(self, epoch: int, started: float) -> Generator[Step, Tensor, None]:
        """Train on what is left of the epoch's samples, as far as the budget goes.

        Args:
            epoch: its number, from 0.
            started: when it began, were it without an interruption, on the clock of time.perf_counter.
        """
        within, steps = self.within, self.within.steps + len(self.train_loader)
        if isinstance(self.views, KeyedDraws):
            self.views.set_epoch(epoch)
        self.objective.begin_epoch(self.pruner.selection)
        self.model.train()
        for step, (index, batch) in enumerate(self._batches(self.train_loader, epoch), start=within.steps):
            if self.spending.exhausted:
                break
            at = self.spending.position(epoch, step, steps, self.pruner.epochs)
            recipes.set_schedule(self.optimizer, self.config.recipe, at)
            index, batch = self._learned(index, batch)
            self._train_mode(len(index) > 1)  # one sample has no batch statistics: the running ones stand in
            self.objective.begin_step(at)
            within.add((yield Step(index, batch, (epoch, step, steps, at))))
            self.spending.add(len(index))
            self.progress.step(epoch, step, steps)
            if within.is_full:
                self._refuse_divergence(epoch)
            if self.interruption.after_step(step):
                within.seconds = time.perf_counter() - started
                self._settle()
                self._refuse_divergence(epoch)
                self._save_checkpoint()
                self._end_if_asked()
        self._settle()
        self._refuse_divergence(epoch)

    def _train_mode(self, mode: bool) -> None:
        # To ask costs nothing; to go through all modules can take as long as a small step.
        if self.model.training != mode:
            self.model.train(mode)

    def _settle(self) -> None:
        """Have the weights to itself, before they are looked at or stored."""
        if self.shared is not None:
            self.shared.release()

    def _batches(self, loader: Loader, epoch: int) -> Iterator[tuple[Tensor, Batch]]:
        """Index and batch of each step, under the augmentation of this epoch."""
        for index, batch in batches(loader, self.fabric.device):
            if self.augmentation is not None:
                batch = replace(batch, x=self.augmentation(batch.x, index, epoch))
            yield index, batch

    def _refuse_divergence(self, epoch: int) -> None:
        step = self.within.look()
        if step is not None:
            raise self._diverged(f"the losses are not finite from step {step} of epoch {epoch + 1} on")

    def _refuse_lost_network(self) -> None:
        """Keep the last good checkpoint where the epoch has ended with weights that are lost."""
        for name, value in self.network.state_dict().items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise self._diverged(f"{name!r} of the network is not finite after epoch {len(self.epochs)}")

    def _diverged(self, what: str) -> Diverged:
        config, kept = self.config, self.config.folder / CHECKPOINT
        recipe = config.recipe
        return Diverged(
            f"{what}, expected a training that converges: lower --recipe.lr ({recipe.lr:g}), or clip gradients with "
            f"--recipe.clip 1 ({recipe.clip or 'no clip'}), in another --out. "
            + (f"{kept} is the last good checkpoint" if kept.exists() else "No checkpoint has been stored yet")
        )

    def _learned(self, index: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
        """The part of a batch to learn from: what the policy chooses in it, or what the budget still pays for."""
        if self.pruner.policy.probes:
            chosen = self._chosen(index, batch)
            return index[chosen.to(index.device)], batch.part(chosen)
        affordable = self.spending.affordable(len(index))
        if affordable == len(index):
            return index, batch
        return index[:affordable], batch.part(slice(affordable))

    def _chosen(self, index: Tensor, batch: Batch) -> Tensor:
        """The positions that the policy trains on, int64 [m], after a probing pass in evaluation mode."""
        self.model.eval()
        with torch.no_grad(), self.fabric.autocast():
            features, logits = models.features_and_logits(self.network, batch.x)
        self.model.train()
        return self.pruner.choose(index, logits=logits, features=features, labels=batch.y)

    def take(self, step: Step) -> Tensor:
        """Forward, backward, update; returns the loss that was minimised."""
        loss = self.loss(step, self.objective(step.index, step.batch))
        self.optimizer.zero_grad()
        self.objective.zero_grad()
        self.fabric.backward(loss)
        if self.config.recipe.clip:
            self.fabric.clip_gradients(self.model, self.optimizer, max_norm=self.config.recipe.clip)
        self.optimizer.step()
        self.objective.step()
        self.averaging.step()
        return loss.detach()

    def loss(self, step: Step, out: Outcome) -> Tensor:
        """The loss to minimise, recorded and observed, by what the objective makes of the batch."""
        predictions = out.logits.detach().argmax(1)
        loss = self._reduce(step.index, out, predictions) + out.extra
        self.within.right += (predictions == step.batch.y).sum()
        self._observe(step.index, out.recorded, out.logits, step.batch.y)
        return loss

    def _reduce(self, index: Tensor, out: Outcome, predictions: Tensor) -> Tensor:
        if self.pruner.score.needs_batches:
            record = None if out.record is None else out.record.mean()
            return self.pruner.reduce_batch(index, out.losses.mean(), record=record)
        said = predictions if self.config.pruning.give_labels else None
        return self.pruner.reduce(index, out.losses, record=out.record, predictions=said)

    @torch.no_grad()
    def _refresh(self, loader: Loader, epoch: int) -> None:
        """Record the losses of the samples that this epoch left out: training augmentation, evaluation mode (IES)."""
        self.model.eval()
        for index, batch in self._batches(loader, epoch):
            losses, logits = self.objective.look(batch)
            self.pruner.record(index, losses)
            self._observe(index, losses, logits, batch.y)

    def _observe(self, index: Tensor, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        for observer in self.observers:
            observer.step(index, losses, logits, labels)

    # ------------------------------------------------------------------ what is stored

    @property
    def _parts(self) -> dict[str, checkpoint.Stateful]:
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "precision": self.fabric.strategy.precision,
            "pruner": self.pruner,
            "spending": self.spending,
            "objective": self.objective,
            "within": self.within,
            "stopping": self.stopping,
            "averaging": self.averaging,
            **{observer.name: observer for observer in self.observers},
        }

    def _metrics(self) -> list[dict[str, Any]]:
        return [dict(vars(record)) for record in self.epochs]

    def _save_checkpoint(self) -> None:
        """Store where the run stands; every rank calls it, since a part may hold what only its rank has seen."""
        state = {"metrics": self._metrics(), **checkpoint.collect(self._parts)}
        if self.folder is not None:
            self.folder.save_checkpoint(state)
        self.interruption.stored()

    def _restore(self) -> None:
        """Go on from the last checkpoint, which the first rank reads; without one the run begins."""
        where = self.config.folder
        state = ranks.of_the_first(lambda: self.folder.last_checkpoint(self.progress.note) if self.folder else None)
        if state is None:
            missing = "run" if self.folder is None or self.folder.is_new else "checkpoint"
            self.progress.note(f"no {missing} in {where}: beginning one")
            return
        self.epochs = [EpochRecord(**row) for row in state["metrics"]]
        checkpoint.restore(self._parts, state)
        done, steps, epochs = self.pruner.epoch, self.within.steps, self.pruner.epochs
        self.progress.note(
            f"all epochs of the run in {where} are done"
            if self._is_over
            else f"going on in epoch {done + 1} of {epochs}{f', after {steps} steps' if steps else ''}, from {where}"
        )

    def _end_if_asked(self) -> None:
        if self.interruption.signal is not None:
            done, steps = len(self.epochs), self.within.steps
            where = f"{steps} steps into epoch {done + 1}" if steps else f"after epoch {done}"
            raise Interrupted(
                f"the run is stored {where} of {self.pruner.epochs}, in {self.config.folder}", self.interruption.signal
            )

    def _description(self) -> str:
        config, noise = self.config, self.data.noise
        rate = f", {noise.noise_rate:.1%} wrong labels" if noise is not None else ""
        return f"{config.data.dataset}{rate}: {config.pruning.method}, seed {config.seed}"

    def _trained(self) -> TrainedModel:
        return TrainedModel(
            network=self.config.model_for(self.data.input_shape),
            input_shape=self.data.input_shape,
            class_names=self.data.class_names,
            precision=self.config.machine.precision,
            preparation=self.data.preparation,
        )

    def _result(self, chosen: dict[str, Any]) -> RunRecord:
        config, pruner, noise = self.config, self.pruner, self.data.noise
        full = self.whole_size * config.recipe.epochs
        return RunRecord(
            dataset=config.data.dataset,
            noise=None if noise is None else noise.kind,
            noise_rate=None if noise is None else noise.noise_rate,
            method=config.pruning.method,
            prune_ratio=config.pruning.prune_ratio,
            seed=config.seed,
            model=config.model_for(self.data.input_shape),
            train_size=pruner.num_samples,
            evaluated_on="test" if config.data.holdout is None else "holdout",
            forward_fraction=self._forward_passes / full,
            trained_fraction=self.spending.trained / full,
            reference_forward_passes=len(self.epochs) * len(self.reference),
            proxy_forward_passes=self.proxy_cost,
            device=device_name(self.fabric.device),
            **(summary(self.epochs, pruner.annealing_start) | chosen),
            **_merged(observer.result() for observer in self.observers),
        )


# -- what is refused, and small forms ----------------------------------------------------------------------


def _check(config: TrainConfig, samples: ClassificationData) -> None:
    """Refuse what does not go with this data."""
    loss = config.pruning.loss
    if loss is not None and loss.needs_strong and samples.strong is None:
        raise ValueMistake(
            f"loss={loss!r} compares two views of a sample and is given with {config.data.dataset}, which has one, "
            f"expected a loss of one view: choose another, or SOP without its comparison (--loss.consistency 0 "
            f"--loss.balance 0)"
        )
    if config.recipe.translate is not None:
        Augmentation.check(config.recipe.translate, samples.input_shape)
    if config.pruning.oracle:
        static.right_labels(config, samples)
    if config.pruning.without_issues:
        confident_learning.out_of_fold(config, samples)
    if config.outputs.collect:
        proxy.warmup_epochs(config.recipe.epochs, config.outputs.proxy_epochs)
    config.pruning.chosen_policy.check(len(samples.labels))


def _refuse_without_compiler() -> None:
    """Refuse to compile where the compiler is missing that torch.compile would call in the first step."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise ValueMistake(
            f"compile=True is given, but {compiler} is not there, expected a C++ compiler: install it, name another in "
            f"the environment variable CXX, or leave --compile out"
        )


def _check_ahead(config: TrainConfig, inputs: Inputs) -> None:
    """Refuse what would be found out only when the proxy run, which is still to be trained, has ended."""
    samples = inputs.data
    static.refuse_unfit(config, samples)
    count = static.num_chosen(config, samples)
    part = datasets.subset(samples, torch.arange(count))
    parts.make_pruner(config, part, config.epochs(inputs.base_share, count / len(samples.labels)))
    if config.pruning.reference not in coresets.CORESETS:
        references.make(config, samples, torch.device("cpu"))


def _thresholds(selection: Selection) -> dict[str, float]:
    """The fields of an `EpochRecord` that say which scores decided."""
    names = ("threshold",) if len(selection.thresholds) == 1 else ("threshold_low", "threshold_high")
    return dict(zip(names, selection.thresholds, strict=False))


def _merged(parts: Any) -> dict[str, Any]:
    return {name: value for part in parts for name, value in part.items()}
