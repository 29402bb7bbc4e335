"""The Pruner: the one object that a training loop holds.

It owns the state and calls the steps: losses go in, the next epoch's samples come out.

    index, loss -> Recorder -> memories -> Score -> Policy -> Selection -> EpochSampler -> DataLoader

A step costs a gather, a product and a scatter on the device of the losses, and never waits for it. What needs the
host happens once per epoch, in `Pruner.end_epoch`: one set of collectives, the score, the choice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from alignprune import presets
from alignprune._checks import described, floor, integer, number
from alignprune._modes import full_float32, plainly, warn
from alignprune._ranks import Draws, keyed_generator, rank_and_world
from alignprune._sharded import sharded, unsharded
from alignprune._state import STATE_VERSION, check_memories, check_state
from alignprune._tensors import FULL_PRECISION, INTEGERS, class_codes, fingerprint, label_print
from alignprune.dataset import Indexed, IndexedCollate
from alignprune.errors import CallMistake, TypeMistake, ValueMistake
from alignprune.memory.contract import Kind, Memory, MemorySpec, Observed, Room, memory_of
from alignprune.memory.journal import JournalSpec
from alignprune.ownership import Owned, ownership_of
from alignprune.policies.contract import BatchEvidence, Evidence, Policy, class_sizes
from alignprune.pool import Pool
from alignprune.recorder import LEFT_OUT, Merged
from alignprune.running import RunningEpoch
from alignprune.sampler import EpochSampler, EvenBatches
from alignprune.scores import History, Score
from alignprune.selection import Selection
from alignprune.stream import StreamFilter

_DELTA = "0.875 anneals in the last eighth of the epochs, 1 never"
_PLACES = (
    "delta",
    "seed",
    "labels",
    "device",
    "bank_path",
    "journal",
    "ownership",
)  # arguments of `from_preset` that are no settings of a method


class Pruner:
    """Dynamic data pruning for a training loop.

    Args:
        num_samples: size N of the training set.
        epochs: epochs of the whole training.
        score: how samples are ranked, from `alignprune.scores`.
        policy: what is kept, from `alignprune.policies`.
        delta: annealing: the full data from epoch floor(delta * epochs) on (what "full" means is the policy's say);
            None = the policy's own, 0.875 for InfoBatch and SeTa, 1 (never) for the others.
        seed: the key of all draws; the same on every rank.
        labels: [N], the given labels in the order of the data set: integers or strings, as a tensor, array, list or
            Series; None (or -100 among integers) is a sample without one, and its losses count nowhere. `robust` tells
            hard samples from wrong ones by them, `rcap` needs them; the other methods do not read them.
        device: where memories are kept and scored; the default spares the accelerator's memory.
        bank_path: a file to keep the trajectories in, for data sets past the RAM; under several ranks each adds
            its number to the name.
        journal: whether to keep what a label report prints of every sample (`memory.Journal`, 36 bytes a sample); None
            = where labels are given.
        ownership: "replicated", every rank remembers every sample; "owned", each remembers, decides for and reads those
            that a hash gives it, and the ranks talk in counts, sums and histograms; or the ranges of samples that each
            rank owns, such as its shards, [(start, stop), ...] by rank. Owned, set up the ranks first, and read per
            sample what stands below for ``samples``.

    Attributes:
        epoch: the epoch that is trained on now, from 0; `epochs` after the last one.
        annealing_start: the first annealing epoch, floor(delta * epochs).
        memories: what the score and the policy read of the past, each once.
        reference: float64 [epochs + 1], the reference loss before training and after every epoch, NaN = unknown.
        scores: float32 [n], of the epoch that ended last; NaN = none yet. `score.suspect` says which end is suspect.
        nonfinite: losses so far that were not finite.
        forward_passes: samples forwarded so far, refreshed ones included.

    Raises:
        TypeMistake, ValueMistake: for settings out of range, before anything else happens.

    Example:
        >>> pruner = ap.Pruner.from_preset("infobatch+das", num_samples=len(train_set), epochs=200)
        >>> loader = DataLoader(ap.Indexed(train_set), sampler=pruner.sampler, batch_size=128)
        >>> for epoch in range(pruner.epoch, pruner.epochs):
        ...     for index, (x, y) in loader:
        ...         losses = F.cross_entropy(model(x), y, reduction="none")
        ...         pruner.reduce(index, losses).backward()
        ...     pruner.end_epoch(reference_loss=reference.loss(model))

    Source: paper section 3.3, Algorithm 1.
    """

    @plainly
    def __init__(
        self,
        num_samples: int,
        epochs: int,
        score: Score,
        policy: Policy,
        *,
        delta: float | None = None,
        seed: int = 0,
        labels: Any = None,
        device: torch.device | str = "cpu",
        bank_path: str | None = None,
        journal: bool | None = None,
        ownership: Owned = "replicated",
    ) -> None:
        self.num_samples = integer("num_samples", num_samples, at_least=1, remedy="len(train_set)")
        self.epochs = integer("epochs", epochs, at_least=1, remedy="the epochs of the whole training")
        self.seed = integer("seed", seed, at_least=0, remedy="any non-negative integer")
        _expect("score", score, Score, "ap.scores.Alignment(window=25)")
        _expect("policy", policy, Policy, "ap.policies.InfoBatch(prune_prob=0.5)")
        policy.check(self.num_samples)
        if policy.needs_labels and labels is None:
            raise ValueMistake(
                f"labels=None is no label a sample, expected what {type(policy).__name__} chooses by: give them in the "
                f"order of the data set, or choose another method"
            )
        self.score, self.policy = score, policy
        self.delta = number("delta", policy.annealing if delta is None else delta, low=0, high=1, remedy=_DELTA)
        self.annealing_start = floor(self.delta * self.epochs)
        self.device = torch.device(device)
        self._pool = Pool(ownership_of(ownership, self.num_samples, *rank_and_world()))
        self._pool.check()
        self._owned = ownership != "replicated"
        self._labels: Tensor | None = None
        self._given: Tensor | None = None
        if labels is not None:
            self._labels, self._given = class_codes(labels, self.num_samples, self._pool)
        self._class_sizes = class_sizes(self._labels, self._pool)
        unlabelled = None if self._labels is None else self._labels < 0
        self._unlabelled = unlabelled if unlabelled is not None and bool(unlabelled.any()) else None
        self._label_print = (
            0 if self._labels is None else label_print(self._labels, self._pool if self._owned else None)
        )

        self._keeps_journal = labels is not None if journal is None else journal
        self._memories = self._make_memories(bank_path)
        self.reference = torch.full((self.epochs + 1,), math.nan, dtype=torch.float64, device="cpu")
        self.scores = torch.full((self._pool.size,), math.nan, dtype=torch.float32, device="cpu")
        self.epoch = 0
        self.nonfinite = 0
        self.forward_passes = 0
        self._seconds = 0.0
        self._running = RunningEpoch(
            self._pool,
            self.epochs,
            self.seed,
            self._unlabelled,
            keeps_steps=any(spec.needs_steps for spec in self._memories),
            reads_pruned=score.needs_pruned,
        )
        self._begin(self._select())

    @classmethod
    def from_preset(
        cls,
        name: str,
        *,
        num_samples: int,
        epochs: int,
        delta: float | None = None,
        seed: int = 0,
        labels: Any = None,
        device: torch.device | str = "cpu",
        bank_path: str | None = None,
        journal: bool | None = None,
        ownership: Owned = "replicated",
        **knobs: Any,
    ) -> Pruner:
        """Make a pruner of a named method.

        Args:
            name: one of `alignprune.PRESETS`, such as "infobatch+das".
            num_samples: as in the class.
            epochs: as in the class.
            seed: as in the class.
            labels: as in the class.
            device: as in the class.
            bank_path: as in the class.
            journal: as in the class.
            ownership: as in the class.
            delta: as in the class; None = the method's.
            knobs: settings of the method's score or policy to replace, such as ``window=10`` or ``prune_prob=0.75``.

        Raises:
            ValueMistake: for an unknown name; TypeMistake for an unknown setting; both list the known ones.
        """
        preset = presets.get(name)
        preset.check_knobs(knobs, _PLACES)
        preset = preset.with_knobs(**knobs)
        return cls(
            num_samples,
            epochs,
            preset.score,
            preset.policy,
            delta=preset.delta if delta is None else delta,
            seed=seed,
            labels=labels,
            device=device,
            bank_path=bank_path,
            journal=journal,
            ownership=ownership,
        )

    def _make_memories(self, path: str | None) -> dict[MemorySpec, Memory]:
        rank, world = rank_and_world()
        own = path if path is None or world == 1 else f"{path}.rank{rank}"
        room = Room(self._pool.size, self.epochs, self._labels, self.device, own, self._given)
        kept = (JournalSpec(),) if self._keeps_journal else ()
        specs = dict.fromkeys((*self.score.memories, *self.policy.memories, *kept))
        if self._owned:
            _refuse_whole(self.score, self.policy, *specs)
        made: dict[MemorySpec, Memory] = {}
        # The most demanding first: the memory that they get may serve the others too.
        for spec in sorted(specs, key=lambda spec: sum(spec.met_by(other) for other in specs)):
            if not any(spec.met_by(other) for other in made):
                made[spec] = spec.make(room)
        return made

    def _memories_of(self, reader: Score | Policy) -> tuple[Memory, ...]:
        return tuple(
            next(memory for other, memory in self._memories.items() if spec.met_by(other)) for spec in reader.memories
        )

    # ------------------------------------------------------------------ what the loop reads

    @property
    def sampler(self) -> EpochSampler:
        """The sampler to give to the DataLoader; one object for the whole training, empty after the last epoch."""
        return self._running.sampler

    @property
    def pruned_sampler(self) -> EpochSampler:
        """A sampler of the samples that this epoch leaves out, for methods that refresh their losses (IES)."""
        return self._running.pruned_sampler

    @property
    def stream(self) -> StreamFilter:
        """What lets this epoch's samples through, for data that comes as a stream; one object for the whole training.

        To ask for it says that the epochs are read by it, in the stream's order, instead of by `sampler`: how many
        samples a rank reads is then for its shards to say. Ask before the first step and before `load_state_dict`.

        Raises:
            CallMistake: when first asked for in the middle of an epoch.
            ValueMistake: for a method that reads the samples that are left out: a stream passes but once.
        """
        if self._running.stream is None:
            return self._running.let_stream(self._make_stream())
        return self._running.stream

    def _make_stream(self) -> StreamFilter:
        if self._running.recorder.read:
            raise CallMistake(
                f"pruner.stream is first asked for in epoch {self.epoch}, after {self._running.recorder.read} samples "
                f"were read, expected between epochs: ask for it before the first step, and before load_state_dict"
            )
        if self.score.needs_pruned:
            raise ValueMistake(
                f"score={self.score!r} needs the losses of pruned samples too, expected one that does not: a stream "
                f"passes once an epoch; choose another method"
            )
        return StreamFilter(self.num_samples)

    @property
    def samples(self) -> Tensor:
        """The samples that this rank remembers, int64 [n], in the order of `scores` and of the memories' tables.

        All N in their order, unless the ranks own parts.
        """
        return torch.from_numpy(self._pool.samples_of(np.arange(self._pool.size)))

    @property
    def selection(self) -> Selection:
        """The samples and weights of the current epoch; after the last one, what a further epoch would read.

        Where the ranks own parts, of those that this one owns.
        """
        return self._running.plan.shown

    @property
    def suspects(self) -> Tensor | None:
        """The samples whose label is probably wrong, int64 [S], ascending; None for methods that flag none, or yet.

        Where the ranks own parts, of those that this one owns.
        """
        return self.selection.suspects

    @property
    def noise_rate(self) -> float | None:
        """Share of wrong labels as the method estimates it, in [0, 1]; None where it does not, or cannot."""
        return self._running.plan.selection.noise_rate

    @property
    def suspicion(self) -> Tensor:
        """The scores, turned so that higher = more probably wrong, float32 [n]; NaN = no score yet."""
        return self._evidence().suspicion

    def metrics(self) -> dict[str, float]:
        """What there is to watch after an epoch, a number a name, for any logger.

        ``epoch`` and ``progress``; of the coming epoch ``selected``, ``pruned_share``, the number of ``suspects``, the
        estimated ``noise_rate``, and the score(s) that decided: ``threshold``, or ``threshold_low`` and
        ``threshold_high``; since the start ``forward_passes`` and ``nonfinite`` losses; ``overhead_seconds`` in
        `end_epoch` since the pruner was made, on this rank; and what the memories report, such as ``memorisation``. A
        name is missing where there is no such number.
        """
        plan, selection = self._running.plan, self._running.plan.selection
        found: dict[str, float | None] = {
            "epoch": self.epoch,
            "progress": float(self.progress),
            "selected": plan.selected,
            "pruned_share": 1.0 - plan.selected / self.num_samples,
            "suspects": None if selection.suspects is None else plan.suspects,
            "noise_rate": selection.noise_rate,
            "forward_passes": self.forward_passes,
            "nonfinite": self.nonfinite,
            "overhead_seconds": self._seconds,
        }
        names = ("threshold",) if len(selection.thresholds) == 1 else ("threshold_low", "threshold_high")
        found |= dict(zip(names, selection.thresholds, strict=False))
        for memory in self._memories.values():
            found |= memory.metrics()
        return {name: value for name, value in found.items() if value is not None}

    @property
    def memories(self) -> tuple[Memory, ...]:
        """What the score and the policy read of the past, each memory once."""
        return tuple(self._memories.values())

    def memory(self, kind: type[Kind]) -> Kind:
        """The first memory of a kind, such as `TrajectoryBank`; CallMistake if the method keeps none."""
        return memory_of(kind, self.memories, "the method")

    @property
    def annealing(self) -> bool:
        """Whether the current epoch is an annealing epoch."""
        return self.epoch >= self.annealing_start

    @property
    def progress(self) -> Fraction:
        """Share of the whole training that is done, in [0, 1], exact: what a learning rate schedule should follow.

        Epochs differ in length, so a count of steps says little. By what this rank has read, which under DDP is the
        same on every rank.
        """
        return self._running.progress

    def planned_steps(self, batch_size: int, *, accumulate: int = 1, drop_last: bool = False) -> int:
        """Steps of an optimiser in the whole training if nothing was left out: the length to make a schedule for.

        How many there will be is known at the end only, so let `PacedScheduler` step the schedule: it then ends with
        the training, warm-up and all in proportion.

        Args:
            batch_size: of one rank's loader.
            accumulate: batches whose gradients are added up for a step.
            drop_last: as in the loader.
        """
        integer("batch_size", batch_size, at_least=1, remedy="such as 128")
        integer("accumulate", accumulate, at_least=1, remedy="1 takes a step every batch")
        samples = -(-self.num_samples // rank_and_world()[1])
        batches = samples // batch_size if drop_last else -(-samples // batch_size)
        return self.epochs * -(-batches // accumulate)

    @property
    def needs_reference(self) -> bool:
        """Whether `end_epoch` must be given the reference loss."""
        return self.score.needs_reference

    def loader(
        self, dataset: Dataset[Any], *, pruned: bool = False, even_batches: bool = False, **settings: Any
    ) -> DataLoader[Any]:
        """A DataLoader of ``(index, batch)`` over this epoch's samples, for whoever wants one line less.

        Args:
            dataset: the training set; its length is checked.
            pruned: read the samples that are left out instead.
            even_batches: cut the epoch into batches whose sizes differ by one at most, none above ``batch_size``,
                instead of ending it in a short one; see `EvenBatches`.
            settings: of the DataLoader; a ``collate_fn`` gets plain items, as without pruning.

        Raises:
            ValueMistake: if the data set has another size than the pruner was made for.
        """
        size = len(dataset)  # type: ignore[arg-type]
        if size != self.num_samples:
            raise ValueMistake(
                f"dataset has {size} samples, expected num_samples={self.num_samples}, which the pruner was made for: "
                f"make it with num_samples=len(dataset) of this very data set"
            )
        if settings.get("batch_size", 1) is None:
            raise ValueMistake(
                "batch_size=None loads single samples, expected batches: give a batch_size, or make a DataLoader over "
                "alignprune.Indexed yourself"
            )
        collate = IndexedCollate(settings.pop("collate_fn", None) or default_collate)
        sampler = self.pruned_sampler if pruned else self.sampler
        if not even_batches:
            return DataLoader(Indexed(dataset), sampler=sampler, collate_fn=collate, **settings)
        if settings.pop("drop_last", False):
            raise ValueMistake(
                "drop_last=True is given with even_batches=True, expected one of them: even batches have no short last "
                "one to drop"
            )
        batches = EvenBatches(sampler, settings.pop("batch_size", 1))
        return DataLoader(Indexed(dataset), batch_sampler=batches, collate_fn=collate, **settings)

    # ------------------------------------------------------------------ every step

    @plainly
    def reduce(
        self,
        index: Tensor,
        losses: Tensor,
        *,
        record: Tensor | None = None,
        labelled: Tensor | None = None,
        predictions: Tensor | None = None,
    ) -> Tensor:
        """Record a batch's losses and return their weighted mean, to be back-propagated.

        The mean is over the samples of the batch, not over the weights: ``sum(w_i * l_i) / B``. Losses that are not
        finite are counted, and kept out of every memory and statistic; the mean of their batch is not finite either,
        since its gradient is lost: skip the step, as a GradScaler does. Nothing is edited in place.

        Args:
            index: integers [B], the samples' indices as they came out of the loader, on any device.
            losses: [B], any float dtype, with gradient: the criterion with ``reduction="none"``.
            record: [B], the losses to rank by where they are not those to learn from, such as the plain cross-entropy
                beside a loss that re-labels; they need no gradient.
            labelled: bool [B], false for samples without a label, whose loss means nothing (torch's ``ignore_index``):
                they count neither in the mean, as in torch, nor in any score. Not needed where the pruner was made with
                labels that say so.
            predictions: integers [B], the classes that the network says, ``logits.argmax(1)``: what `policies.Robust`
                tells hard samples from wrong labels by, and what a label report suggests instead. The ids are those of
                the labels, or the places of their names in order.

        Returns:
            scalar, float32 (float64 for float64 losses), on the losses' device.

        Raises:
            TypeMistake, ValueMistake: for averaged losses, wrong lengths or dtypes, indices that are outside the data
                set, repeated, or not selected. If the index lives on an accelerator the last three are raised by
                `end_epoch` instead, since to look at it here would stall the device.
            CallMistake: for samples that were read in this epoch before (``end_epoch`` is missing).
        """
        recorder, plan = self._running.recorder, self._running.plan
        count = recorder.check(index, losses)
        if record is not None and (record.shape != losses.shape or not record.is_floating_point()):
            raise ValueMistake(
                f"record is {record.dtype} of shape {tuple(record.shape)}, expected float [{count}] like losses: one "
                f"loss a sample, of the same batch"
            )
        if predictions is not None and (predictions.dtype not in INTEGERS or predictions.shape != losses.shape):
            raise ValueMistake(
                f"predictions is {predictions.dtype} of shape {tuple(predictions.shape)}, expected integers [{count}], "
                f"one class a sample: logits.argmax(1)"
            )
        checked = index.is_cpu
        index = self._take(index)
        if index.device != losses.device:
            index = index.to(losses.device, non_blocking=True)
        recorder.write_step(index)
        if predictions is not None:
            recorder.write_predicted(index, predictions)
        labelled = plan.labelled(index, labelled)
        losses = losses if losses.dtype in FULL_PRECISION else losses.float()
        mean = plan.mean(index, losses, labelled)
        plain = checked and record is None and labelled is None and losses.dtype == torch.float32
        if plain and mean.is_cpu and math.isfinite(mean.item()):  # one number says it of the whole batch
            recorder.write_finite(index, losses.detach())
            return mean
        ranked = losses.detach()
        if record is not None:  # a sample is bad if either of its losses is
            ranked = record.detach().to(losses.device).masked_fill(~ranked.isfinite(), math.nan)
        recorder.write(index, ranked, labelled, checked=checked)
        return mean

    @plainly
    def reduce_batch(self, index: Tensor, loss: Tensor, *, record: Tensor | None = None) -> Tensor:
        """Record a batch's mean loss for each of its samples and return it, to be back-propagated.

        For criteria that give no loss a sample, with a score that averages over batches (`scores.BatchLoss`). Weights
        of single samples need their losses, so the mean loss is multiplied by the mean weight of the batch.

        Args:
            index: integers [B], as in `reduce`.
            loss: scalar, any float dtype, with gradient: the mean over the batch.
            record: scalar, the mean loss to rank by where it is not the one to learn from; needs no gradient.

        Returns:
            scalar, float32 (float64 for a float64 loss), on the loss' device.

        Raises:
            TypeMistake, ValueMistake, CallMistake: for losses that are not averaged, and as in `reduce`.
        """
        _check_scalar("loss", loss)
        if record is not None:
            _check_scalar("record", record)
            record = record.expand(index.shape)
        return self.reduce(index, loss.expand(index.shape), record=record)

    def _take(self, index: Tensor) -> Tensor:
        self._refuse_after_the_end()
        if self.policy.probes:
            return self._running.take_part(index, type(self.policy).__name__)
        return self._running.recorder.take(index)

    @plainly
    def record(self, index: Tensor, losses: Tensor) -> None:
        """Record losses of samples that this epoch leaves out, such as the pruned ones that IES keeps observing.

        Args, Raises: as in `reduce`; the losses need no gradient.
        """
        recorder = self._running.recorder
        recorder.check(index, losses)
        checked = index.is_cpu
        index = recorder.take(index, LEFT_OUT).to(losses.device, non_blocking=True)
        recorder.write(index, losses.detach(), self._running.plan.labelled(index, None), checked=checked)

    @plainly
    def choose(self, index: Tensor, *, logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        """Choose the part of a batch to train on, for policies that choose inside a batch (DivBS).

        Args:
            index: integers [B] from the loader.
            logits: [B, C] and features [B, d] of a forward pass in evaluation mode, without gradient.
            features: what the last linear layer sees.
            labels: int64 [B].

        Returns:
            int64 [m], positions in the batch, on the logits' device: train on ``x[chosen]`` and reduce with
            ``index[chosen]``. Other policies keep every position.
        """
        self._running.recorder.check(index, logits[:, 0])
        if not self.policy.probes:
            return torch.arange(len(index), device=logits.device)
        self._refuse_after_the_end()
        rank, _ = rank_and_world()
        generator = keyed_generator(
            self.seed, self.epoch, f"choose/{rank}/{self._running.recorder.read}", logits.device
        )
        samples = self._running.probe(index)

        def trust() -> Tensor:
            table = self._running.plan.table("trust", logits.device, self._trust)
            assert table is not None
            return table.index_select(0, samples.to(logits.device))

        with full_float32(logits.device):
            chosen = self.policy.choose(BatchEvidence(logits, features, labels, generator, trust))
        if chosen.dtype != torch.int64 or chosen.ndim != 1 or not 1 <= len(chosen) <= len(index):
            raise TypeMistake(
                f"{type(self.policy).__name__}.choose returned {chosen.dtype} {tuple(chosen.shape)}, expected int64 "
                f"[m] with 1 <= m <= {len(index)}: positions in the batch"
            )
        return chosen

    # ------------------------------------------------------------------ once per epoch

    @plainly
    def end_epoch(self, reference_loss: float | Tensor | None = None, *, partial: bool = False) -> None:
        """Close the epoch: store its losses, score all samples, choose those of the next epoch.

        Under DDP every rank calls it; the ranks' losses are merged and every rank comes to the same selection.

        Args:
            reference_loss: mean loss of the reference set after this epoch's updates; needed by the alignment score.
            partial: the epoch was cut on purpose; else all that was selected has to be read, but for a last batch a
                rank that the loader drops.

        Raises:
            CallMistake: if no loss was recorded (called twice, or ``reduce`` never), the epoch was read in part, the
                training is over, or the ranks hold different settings, labels, states or selections.
            ValueMistake: if the reference loss is missing or not finite, or losses of pruned samples that the score
                needs were not recorded.
        """
        started = time.perf_counter()
        self._learn(reference_loss, partial)
        with full_float32(self.device):
            self._choose_next()
        self._seconds += time.perf_counter() - started

    @contextmanager
    def ending_epoch(self, reference_loss: float | Tensor | None = None, *, partial: bool = False) -> Iterator[None]:
        """Close the epoch while something else is done, such as an evaluation: `end_epoch`, behind the block's work.

        The losses are stored and scored as the block is entered; who is read next is found out beside it, in a thread,
        and known when it is left. Inside of it the pruner is not to be used. Where ranks own parts they talk about the
        selection, which must not mix with what the block has to say, so all is done as it is entered.

        Args, Raises: as in `end_epoch`.

        Example:
            >>> with pruner.ending_epoch(reference_loss):
            ...     accuracy = evaluate(model, test_set)
        """
        started = time.perf_counter()
        self._learn(reference_loss, partial)
        if self._pool.shared:
            self._choose_next()
        self._seconds += time.perf_counter() - started
        if self._pool.shared:
            yield
            return
        with ThreadPoolExecutor(1) as beside:
            choosing = beside.submit(self._choose_next)
            yield
            started = time.perf_counter()
            choosing.result()
            self._seconds += time.perf_counter() - started

    @plainly
    def _learn(self, reference_loss: float | Tensor | None, partial: bool) -> None:
        """Store the epoch's losses and score all samples."""
        self._refuse_after_the_end()
        reference, complaint = self._reference_value(reference_loss)
        if not partial:
            self._running.recorder.warn_of_a_part()
        merged = self._merged(reference)  # a rank that complains takes part, or the others would wait for it
        if complaint or (self.needs_reference and math.isnan(merged.reference)):
            raise ValueMistake(complaint or "reference_loss is missing or not finite on another rank: see its error")
        self._running.refuse_incomplete(merged, partial=partial)
        self._refuse_unrefreshed(merged)
        nonfinite = int(self._pool.total(np.array([merged.nonfinite]))[0])
        self._warn_of(nonfinite)
        selection = self._running.plan.selection
        observed = Observed(self.epoch, merged.losses, selection, merged.predicted, merged.steps, self._pool)
        for memory in self._memories.values():
            memory.write(observed)
        self.reference[self.epoch + 1] = merged.reference
        self.nonfinite += nonfinite
        self.forward_passes += merged.total("read") + merged.total("refreshed")
        with full_float32(self.device):
            self.scores = self._score()

    @plainly
    def _choose_next(self) -> None:
        """Choose the samples of the next epoch, and begin it."""
        self.epoch += 1
        self._begin(self._select())

    def _score(self) -> Tensor:
        scores = self.score(History(self.reference, self._memories_of(self.score)))
        size = self._pool.size
        if not isinstance(scores, Tensor) or scores.shape != (size,) or not scores.is_floating_point():
            given = f"{scores.dtype} {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise TypeMistake(
                f"{type(self.score).__name__} returned {given}, expected float32 [{size}]: one number a sample, NaN "
                f"where there is none yet"
            )
        scores = scores.detach().float().cpu()
        infinite = self._pool.count(np.isinf(scores.numpy()))  # torch's takes ten times as long
        if infinite:
            raise ValueMistake(
                f"{type(self.score).__name__} returned {infinite} infinite scores, expected finite ones: return NaN "
                f"where there is none yet"
            )
        return scores

    def _evidence(self) -> Evidence:
        return Evidence(
            score=self.scores,
            suspect=self.score.suspect,
            epoch=self.epoch,
            epochs=self.epochs,
            draws=Draws(self.seed, self.epoch),
            memories=self._memories_of(self.policy),
            labels=self._labels,
            pool=self._pool,
            class_sizes=self._class_sizes,
        )

    def _select(self) -> Selection:
        choose = self.policy.anneal if self.annealing and self.annealing_start < self.epochs else self.policy.select
        selection = choose(self._evidence())
        if not isinstance(selection, Selection) or selection.num_samples != self._pool.size:
            given = f"{selection.num_samples} samples" if isinstance(selection, Selection) else type(selection).__name__
            raise TypeMistake(
                f"{type(self.policy).__name__} returned a selection of {given}, expected a Selection of "
                f"{self._pool.size}: make it with alignprune.Selection"
            )
        return selection

    def _begin(self, selection: Selection) -> None:
        """Begin the epoch."""
        self._running.begin(self.epoch, selection)
        self._warn_of_none()

    # ------------------------------------------------------------------ state

    @plainly
    def state_dict(self) -> dict[str, Any]:
        """The whole state, also in the middle of an epoch; loads with ``torch.load(..., weights_only=True)``.

        Under DDP, in the middle of an epoch, every rank must call it, since it merges the ranks' losses; between
        epochs it is the same on every rank and needs no other.

        Where ranks own parts, every rank must call it at any moment: each holds its part of the tensors, which
        ``torch.distributed.checkpoint`` saves, and loads on any number of ranks.
        """
        state = self.part_state()
        return sharded(state, self.memories, self._pool.ownership) if self._owned else state

    def part_state(self) -> dict[str, Any]:
        """The state of the samples that this rank remembers, in the order of `samples`: what a report is made of."""
        merged = None if self._running.recorder.is_empty else self._merged(math.nan)
        return {
            "version": STATE_VERSION,
            "num_samples": self.num_samples,
            "method": self._method(),
            "labels": self._label_print,
            "epoch": self.epoch,
            **self._running.state(merged),
            "kinds": [type(memory).__name__ for memory in self._memories.values()],
            "memories": [memory.state_dict() for memory in self._memories.values()],
            "reference": self.reference.clone(),
            "scores": self.scores.clone(),
            "nonfinite": self.nonfinite,
            "forward_passes": self.forward_passes,
        }

    @plainly
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, bit for bit, on any number of ranks.

        Where ranks own parts and are as many as then; on another number of ranks the rest of an epoch that was begun
        is read in another order.

        Raises:
            TypeMistake, ValueMistake: for what is no state, and for one of another format version, data set, method,
                labels or size, naming what differs; nothing is changed then.
        """
        if self._owned:
            state = unsharded(state, self.memories, self._pool.ownership)
        check_state(
            state,
            self.num_samples,
            self._pool.size,
            self.epochs,
            self._method(),
            self._label_print,
            self._running.recorder.keeps_steps,
        )
        check_memories(state, list(self._memories.values()))
        selection = Selection.from_state_dict(state["selection"])
        self.epoch = state["epoch"]
        for memory, of_memory in zip(self._memories.values(), state["memories"], strict=True):
            memory.load_state_dict(of_memory)
        self.reference.copy_(state["reference"])
        self.scores = state["scores"].clone()
        self.nonfinite, self.forward_passes = state["nonfinite"], state["forward_passes"]
        self._running.go_on(self.epoch, selection, state)
        self._warn_of_none()

    def _method(self) -> dict[str, Any]:
        return {
            "score": repr(self.score),
            "policy": repr(self.policy),
            "delta": self.delta,
            "epochs": self.epochs,
            "seed": self.seed,
        }

    # ------------------------------------------------------------------ the steps' details

    def _trust(self) -> Tensor:
        """Share of the scored samples that are more suspicious, float32 [N]; 1 where there is no score."""
        trusted = -self.suspicion
        known = (~trusted.isnan()).nonzero().squeeze(1)
        trust = torch.ones(self.num_samples, dtype=torch.float32, device="cpu")
        if len(known):
            values = trusted[known]
            trust[known] = torch.searchsorted(values.sort().values, values).float() / len(known)
        return trust

    def _reference_value(self, loss: float | Tensor | None) -> tuple[float, str | None]:
        """The reference loss as a number, NaN where there is none, and what is wrong with it."""
        if loss is None:
            if not self.needs_reference:
                return math.nan, None
            return math.nan, (
                f"reference_loss is missing: {type(self.score).__name__} compares trajectories with a reference. Pass "
                f"end_epoch(reference_loss=...), the mean loss of a small clean set after this epoch "
                f"(alignprune.Reference measures it), or use a method that needs none"
            )
        try:
            value = float(loss)
        except (TypeError, ValueError, RuntimeError):
            given = f"has shape {tuple(loss.shape)}" if hasattr(loss, "shape") else f"is {loss!r}"
            return math.nan, f"reference_loss {given}, expected one number: the mean loss over the reference set"
        if not math.isfinite(value):
            return math.nan, (
                f"reference_loss={value} is not finite, expected the mean loss of the reference set: check the model's "
                f"outputs on it"
            )
        return value, None

    def _merged(self, reference: float) -> Merged:
        if self._owned and self._pool.ownership.world != rank_and_world()[1]:
            raise CallMistake(
                f"the samples were divided among {self._pool.ownership.world} ranks and there are "
                f"{rank_and_world()[1]}, expected as many: set up torch.distributed before the Pruner is made"
            )
        return self._running.recorder.merge(reference, self._fingerprints() if rank_and_world()[1] > 1 else {})

    def _fingerprints(self) -> dict[str, int]:
        """What has to be the same on every rank; only read where there are several."""
        same = {
            "settings": fingerprint(f"{self._method()}/{self.num_samples}".encode()),
            "ownerships": fingerprint(self._pool.ownership.mark.encode()),
            "labels": self._label_print,
            "epochs": self.epoch,
        }
        if self._pool.shared:  # each has its own selection
            return same
        selection = self._running.plan.selection
        chosen = fingerprint(selection.indices.numpy().tobytes())
        if selection.weights is not None:
            chosen ^= fingerprint(selection.weights.numpy().tobytes())
        return same | {"selections": chosen}

    def _refuse_after_the_end(self) -> None:
        if self.epoch >= self.epochs:
            raise CallMistake(
                f"all {self.epochs} epochs have ended, expected no further step: make the Pruner with more epochs, or "
                "loop over range(pruner.epoch, pruner.epochs) and call end_epoch once in each"
            )

    def _refuse_unrefreshed(self, merged: Merged) -> None:
        pruned, refreshed = self.num_samples - self._running.plan.selected, merged.total("refreshed")
        if self.score.needs_pruned and refreshed < pruned:
            raise ValueMistake(
                f"{type(self.score).__name__} needs the losses of the {pruned} pruned samples of epoch {self.epoch}, "
                f"{refreshed} were recorded: run the model without gradient over pruner.loader(train_set, pruned=True) "
                f"and call pruner.record(index, losses)"
            )

    def _warn_of_none(self) -> None:
        if not self._running.plan.selected and self.epoch < self.epochs:
            warn(
                f"{type(self.policy).__name__} selected none of {self.num_samples} samples for epoch {self.epoch}: "
                f"nothing is trained on in it. Check its settings against pruner.scores"
            )

    def _warn_of(self, nonfinite: int) -> None:
        if nonfinite:
            warn(
                f"{nonfinite} losses of epoch {self.epoch} are not finite; they are kept out of the trajectories and "
                f"every score, and the means of their batches are not finite"
            )


def _check_scalar(name: str, value: object) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim:
        given = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueMistake(
            f"{name} is {given}, expected a float scalar, the mean over the batch: for one loss a sample call "
            f"pruner.reduce"
        )


def _refuse_whole(*records: Score | Policy | MemorySpec) -> None:
    """Raise ValueMistake if a part of the method has to see all samples at once."""
    for record in records:
        if not record.by_parts:
            raise ValueMistake(
                f"{type(record).__name__} does not say that it works by parts, expected it of every part of a method "
                f"whose ranks own samples: use ownership='replicated', or set by_parts = True in the class if it asks "
                f"evidence.pool for all that concerns other ranks"
            )


def _expect(name: str, value: object, kind: type, example: str) -> None:
    if not isinstance(value, kind):
        raise TypeMistake(
            f"{name}={described(value)} is {type(value).__name__}, expected a {kind.__name__}: such as {example}"
        )
