"""The Pruner: the one object that a training loop holds.

It owns the state and calls the steps: losses go in, the next epoch's samples come out.

    index, loss -> TrajectoryBank, Ledger -> Score -> Policy -> Selection -> EpochSampler -> DataLoader

A step costs a gather, a product and a scatter on the device of the losses, and never waits for it. What needs the
host happens once per epoch, in `Pruner.end_epoch`: one set of collectives, the score, the choice.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from alignprune import presets
from alignprune._checks import floor, integer, number
from alignprune.batch_policies import DivBS
from alignprune.dataset import Indexed, IndexedCollate
from alignprune.errors import CallMistake, TypeMistake, ValueMistake
from alignprune.policies import Policy, Selection
from alignprune.sampler import EpochSampler, EvenBatches, keyed_generator, rank_and_world
from alignprune.scores import Score
from alignprune.trajectory import TrajectoryBank

STATE_VERSION = 2

_FULL_PRECISION = (torch.float32, torch.float64)  # losses of other dtypes are averaged in float32


class Pruner:
    """Dynamic data pruning for a training loop.

    Args:
        num_samples: size of the training set.
        epochs: epochs of the whole training.
        score: how samples are ranked, from `alignprune.scores`.
        policy: what is kept, from `alignprune.policies` or `alignprune.batch_policies`.
        delta: annealing: the full data from epoch floor(delta * epochs) on (what "full" means is the policy's say);
            None = the policy's own, 0.875 for InfoBatch and SeTa, 1 (never) for the others.
        seed: the key of all draws; the same on every rank.
        labels: integers [num_samples], the given labels, by which `robust` tells hard samples from wrong ones; the
            other methods do not read them.
        device: where trajectories are kept and scored; the default spares the accelerator's memory.
        bank_path: a file to memory-map the trajectories in, for data sets past the RAM.

    Raises:
        TypeError, ValueError: for settings out of range, before anything else happens.

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

    def __init__(
        self,
        num_samples: int,
        epochs: int,
        score: Score,
        policy: Policy,
        *,
        delta: float | None = None,
        seed: int = 0,
        labels: Tensor | Sequence[int] | None = None,
        device: torch.device | str = "cpu",
        bank_path: str | None = None,
    ) -> None:
        self.num_samples = integer("num_samples", num_samples, at_least=1, remedy="len(train_set)")
        self.epochs = integer("epochs", epochs, at_least=1, remedy="the epochs of the whole training")
        self.seed = integer("seed", seed, at_least=0, remedy="any non-negative integer")
        _expect("score", score, Score, "ap.scores.Alignment(window=25)")
        _expect("policy", policy, Policy, "ap.policies.InfoBatch(prune_prob=0.5)")
        policy.check(self.num_samples)
        self.score, self.policy = score, policy
        self.delta = number("delta", policy.annealing if delta is None else delta, low=0, high=1, remedy=_DELTA)
        self.annealing_start = floor(self.delta * self.epochs)
        self.device = torch.device(device)

        window, gaps = score.memory
        self.bank = TrajectoryBank(self.num_samples, window, gaps=gaps, device=self.device, path=bank_path)
        known = None if labels is None else _checked_labels(labels, self.num_samples)
        remembers = score.needs_ledger or policy.needs_ledger
        self.ledger = score.ledger(self.num_samples, self.epochs, known) if remembers else None
        self.reference = torch.full((self.epochs + 1,), math.nan, dtype=torch.float64)
        self.scores = torch.full((self.num_samples,), math.nan)
        self.epoch = 0
        self.nonfinite = 0
        self.forward_passes = 0
        self._warned = False
        self._choosing = 0  # samples of the batch that `choose` was last asked about
        self._sent: tuple[Tensor, ...] = ()  # what `_merged` gave to the other ranks at the last epoch's end
        self._sampler = EpochSampler(self.seed)
        self._pruned_sampler = EpochSampler(self.seed)
        self._reads_pruned = score.needs_pruned  # a large data set's complement is listed only where it is read
        self._start_epoch()

    @classmethod
    def from_preset(cls, name: str, *, num_samples: int, epochs: int, seed: int = 0, **knobs: Any) -> Pruner:
        """Make a pruner of a named method.

        Args:
            name: one of `alignprune.presets.PRESETS`, such as "infobatch+das".
            num_samples, epochs, seed: as in the class.
            knobs: settings of the method's score or policy to replace, such as ``window=10`` or ``prune_prob=0.75``;
                ``delta``; ``labels``, ``device`` and ``bank_path`` as in the class.

        Raises:
            ValueError: for an unknown name; TypeError for an unknown setting; both list the known ones.
        """
        place = {key: knobs.pop(key) for key in ("labels", "device", "bank_path") if key in knobs}
        preset = presets.get(name).with_knobs(**knobs)
        return cls(num_samples, epochs, preset.score, preset.policy, delta=preset.delta, seed=seed, **place)

    # ------------------------------------------------------------------ what the loop reads

    @property
    def sampler(self) -> EpochSampler:
        """The sampler to give to the DataLoader; one object for the whole training."""
        return self._sampler

    @property
    def pruned_sampler(self) -> EpochSampler:
        """A sampler of the samples that this epoch leaves out, for methods that refresh their losses (IES)."""
        if not self._reads_pruned:
            self._reads_pruned = True
            self._plan_pruned()
        return self._pruned_sampler

    @property
    def selection(self) -> Selection:
        """The samples and weights of the current epoch."""
        if self._selection is None:
            raise CallMistake(f"all {self.epochs} epochs are done: there is no selection")
        return self._selection

    @property
    def annealing(self) -> bool:
        """Whether the current epoch is an annealing epoch."""
        return self.epoch >= self.annealing_start

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
            ValueError: if the data set has another size than the pruner was made for.
        """
        if len(dataset) != self.num_samples:  # type: ignore[arg-type]
            raise ValueMistake(
                f"dataset has {len(dataset)} samples, the pruner was made for "  # type: ignore[arg-type]
                f"num_samples={self.num_samples}: make it with num_samples=len(dataset) of this very data set"
            )
        if settings.get("batch_size", 1) is None:
            raise ValueMistake(
                "batch_size=None loads single samples, expected batches: give a batch_size, or make a DataLoader over "
                "alignprune.Indexed yourself"
            )
        collate = settings.pop("collate_fn", None) or default_collate
        sampler = self.pruned_sampler if pruned else self.sampler
        if even_batches:
            if settings.pop("drop_last", False):
                raise ValueMistake(
                    "drop_last=True and even_batches=True exclude each other: even batches have no short last one to "
                    "drop"
                )
            batches = EvenBatches(sampler, settings.pop("batch_size", 1))
            return DataLoader(Indexed(dataset), batch_sampler=batches, collate_fn=IndexedCollate(collate), **settings)
        return DataLoader(Indexed(dataset), sampler=sampler, collate_fn=IndexedCollate(collate), **settings)

    # ------------------------------------------------------------------ every step

    def reduce(self, index: Tensor, losses: Tensor, *, record: Tensor | None = None) -> Tensor:
        """Record a batch's losses and return their weighted mean, to be back-propagated.

        The mean is over the samples of the batch, not over the weights: ``sum(w_i * l_i) / B``. Non-finite losses are
        left out of it and of every statistic, and counted; nothing is edited in place.

        Args:
            index: integers [B], the samples' indices as they came out of the loader, on any device.
            losses: [B], any float dtype, with gradient: the criterion with ``reduction="none"``.
            record: [B], the losses to rank by where they are not those to learn from, such as the plain cross-entropy
                beside a loss that re-labels; they need no gradient.

        Returns:
            scalar, float32 (float64 for float64 losses), on the losses' device.

        Raises:
            TypeError, ValueError: for averaged losses, wrong lengths or dtypes, indices that are outside the data set
                or repeated. If the index lives on an accelerator the last two are raised by `end_epoch` instead,
                since to look at it here would stall the device.
            RuntimeError: if the epoch has no such batch left (``end_epoch`` or the sampler is missing).
        """
        count = self._check_batch(index, losses)
        if record is not None and (record.shape != losses.shape or not record.is_floating_point()):
            raise ValueMistake(
                f"record is {record.dtype} of shape {tuple(record.shape)}, expected float [{count}] like losses: one "
                f"loss a sample, of the same batch"
            )
        if not self.policy.in_batch:
            self._sampler.advance(count)
        elif self._choosing == 0:
            raise CallMistake(f"{type(self.policy).__name__} chooses inside each batch: call pruner.choose first")
        self._choosing = 0
        if losses.dtype not in _FULL_PRECISION:
            losses = losses.float()
        checked = index.is_cpu
        index = self._index_on(losses.device, index)
        weights = self._on("weights", losses.device, self.selection.dense_weights)
        own = None if weights is None else weights.index_select(0, index).to(losses.dtype)
        mean = losses.mean() if own is None else torch.dot(losses, own.mul_(self._inverse(count, own)))
        if record is not None:
            finite = self._record(index, record.to(losses.device).masked_fill(~losses.isfinite(), math.nan), checked)
        elif mean.is_cpu and math.isfinite(mean.item()):  # one number tells for the whole batch
            self._row_on(mean.device)[0].index_copy_(0, index, losses.detach().float())
            return mean
        else:
            finite = self._record(index, losses, checked)
        kept = torch.where(finite, losses, 0.0)
        total = kept.sum() if own is None else torch.dot(kept, own.mul_(count))
        return total / finite.sum().clamp_min(1)

    def record(self, index: Tensor, losses: Tensor) -> None:
        """Record losses of samples that are not trained on, such as the pruned ones that IES keeps observing.

        Args, Raises: as in `reduce`; the losses need no gradient.
        """
        self._refreshed += self._check_batch(index, losses)
        self._record(self._index_on(losses.device, index), losses, index.is_cpu)

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
        self._check_batch(index, logits[:, 0])
        if not isinstance(self.policy, DivBS):
            return torch.arange(len(index), device=logits.device)
        rank, _ = rank_and_world()
        key = f"choose/{rank}/{self._sampler.position}"
        self._sampler.advance(len(index))
        self._choosing = len(index)
        trust = self._on("trust", logits.device, self._trust) if self.policy.trust else None
        if trust is not None:
            trust = trust.index_select(0, self._index_on(logits.device, index))
        generator = keyed_generator(self.seed, self.epoch, key, logits.device)
        return self.policy.choose(logits, features, labels, generator, trust)

    # ------------------------------------------------------------------ once per epoch

    def end_epoch(self, reference_loss: float | Tensor | None = None) -> None:
        """Close the epoch: store its losses, score all samples, choose those of the next epoch.

        Under DDP every rank calls it; the ranks' losses are merged and every rank comes to the same selection.

        Args:
            reference_loss: mean loss of the reference set after this epoch's updates; needed by the alignment score.

        Raises:
            RuntimeError: if no loss was recorded (called twice, or ``reduce`` never), or the training is over.
            ValueError: if the reference loss is missing or not finite, or losses of pruned samples that the score
                needs were not recorded.
        """
        if self.epoch >= self.epochs:
            raise CallMistake(f"all {self.epochs} epochs have ended: end_epoch was called once too often")
        if self._sampler.position == 0 and self._sampler.epoch_length > 0:
            raise CallMistake(
                f"no losses were recorded in epoch {self.epoch}: end_epoch was called twice, reduce was not called, or "
                f"the loader dropped the only batch (drop_last)"
            )
        reference, complaint = self._reference_value(reference_loss)
        row, totals = self._merged(reference)  # a rank that complains takes part, or the others would wait for it
        if complaint or (self.needs_reference and math.isnan(totals["reference"])):
            raise ValueMistake(complaint or "reference_loss is missing or not finite on another rank: see its error")
        self._refuse_faults(totals)
        self._refuse_stale(totals)
        self._warn_once(totals)
        self.bank.write(self.epoch, row)
        self._write_ledger(row)
        self.reference[self.epoch + 1] = totals["reference"]
        self.nonfinite += int(totals["nonfinite"])
        self.forward_passes += int(totals["consumed"] + totals["refreshed"])
        self.scores = self.score(self.bank, self.reference, self.ledger).cpu()
        self.epoch += 1
        self._start_epoch()

    def _start_epoch(self) -> None:
        self._plan(self._select() if self.epoch < self.epochs else None)

    def _select(self) -> Selection:
        generator = keyed_generator(self.seed, self.epoch, "select")
        if self.annealing:
            return self.policy.anneal(self.num_samples, generator)
        return self.policy.select(self.scores, self.epoch, generator, self.ledger)

    def _write_ledger(self, row: Tensor) -> None:
        if self.ledger is None:
            return
        selection = self.selection
        learned = selection.indices if selection.weights is None else selection.indices[selection.weights > 0]
        trained = torch.zeros(self.num_samples, dtype=torch.bool).index_fill_(0, learned, True)
        self.ledger.write(self.epoch, row, trained, uniform=selection.uniform and not self.policy.in_batch)

    def _plan(self, selection: Selection | None, start: int = 0) -> None:
        self._selection = selection
        self._sampler.plan(self.epoch, selection, start)
        if self._reads_pruned:
            self._plan_pruned()
        self._row: Tensor | None = None
        self._faults: Tensor | None = None
        self._cache: dict[tuple[str, torch.device], Tensor | None] = {}
        self._refreshed = 0
        self._choosing = 0

    def _plan_pruned(self) -> None:
        self._pruned_sampler.plan(self.epoch, None if self._selection is None else self._selection.pruned)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """The whole state, also in the middle of an epoch; loads with ``torch.load(..., weights_only=True)``.

        Under DDP, in the middle of an epoch, every rank must call it, since it merges the ranks' losses; between
        epochs it is the same on every rank and needs no other.
        """
        world = rank_and_world()[1]
        row, faults = None, [0, 0, 0]
        if self._row is not None:
            merged, totals = self._merged(math.nan)
            self._refuse_faults(totals)
            row, faults = merged.cpu().clone(), [int(totals[name]) for name in _FAULTS]
        selection = self._selection
        whole = selection is None or (selection.weights is None and len(selection) == self.num_samples)
        return {
            "version": STATE_VERSION,
            "num_samples": self.num_samples,
            "method": self._method(),
            "epoch": self.epoch,
            "position": self._sampler.position * world,
            "refreshed": self._refreshed * world,
            "indices": None if whole or selection is None else selection.indices,
            "weights": None if selection is None else selection.weights,
            "suspects": None if selection is None else selection.suspects,
            "noise_rate": None if selection is None else selection.noise_rate,
            "uniform": selection is not None and selection.uniform,
            "row": row,
            "faults": faults,
            "bank": self.bank.state_dict(),
            "ledger": None if self.ledger is None else self.ledger.state_dict(),
            "reference": self.reference.clone(),
            "scores": self.scores.clone(),
            "nonfinite": self.nonfinite,
            "forward_passes": self.forward_passes,
            "warned": self._warned,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, bit for bit, on any number of ranks.

        Raises:
            ValueError: for a state of another format version, data set size or method, naming what differs.
        """
        if state.get("version") != STATE_VERSION:
            raise ValueMistake(
                f"the state has format version {state.get('version')!r}, expected {STATE_VERSION}: load it with the "
                f"release of alignprune that saved it"
            )
        if state["num_samples"] != self.num_samples:
            raise ValueMistake(
                f"the state is of a data set of {state['num_samples']} samples, this pruner of {self.num_samples}: "
                f"load it into a pruner made for the same data set"
            )
        for name, here in self._method().items():
            if state["method"].get(name) != here:
                raise ValueMistake(
                    f"the state was saved with {name}={state['method'].get(name)}, this pruner has {name}={here}: make "
                    f"the pruner with the settings of the saved run"
                )
        rank, world = rank_and_world()
        self.epoch = state["epoch"]
        self.bank.load_state_dict(state["bank"])
        if self.ledger is not None:
            self.ledger.load_state_dict(state["ledger"])
        self.reference.copy_(state["reference"])
        self.scores = state["scores"].clone()
        self.nonfinite, self.forward_passes = state["nonfinite"], state["forward_passes"]
        self._warned = state["warned"]
        if self.epoch >= self.epochs:
            selection = None
        else:
            whole = state["indices"] is None
            selection = Selection(
                indices=torch.arange(self.num_samples) if whole else state["indices"].clone(),
                weights=state["weights"],
                num_samples=self.num_samples,
                suspects=state["suspects"],
                noise_rate=state["noise_rate"],
                uniform=state["uniform"],
            )
        self._plan(selection, start=_share(state["position"], 0 if selection is None else len(selection), world))
        if selection is not None and self._reads_pruned and state["refreshed"]:
            pruned = self.num_samples - len(selection)
            self._refreshed = _share(state["refreshed"], pruned, world)
            self._pruned_sampler.plan(self.epoch, selection.pruned, start=self._refreshed)
        if state["row"] is not None:
            self._row_on(torch.device("cpu"))
            if rank == 0:  # one rank holds what all had recorded: merging adds what the others record from here on
                self._row = state["row"].clone()
                self._faults = torch.tensor(state["faults"], dtype=torch.int64)

    def _method(self) -> dict[str, Any]:
        return {
            "score": repr(self.score),
            "policy": repr(self.policy),
            "delta": self.delta,
            "epochs": self.epochs,
            "seed": self.seed,
        }

    # ------------------------------------------------------------------ the steps' details

    def _check_batch(self, index: Tensor, losses: Tensor) -> int:
        if not isinstance(losses, Tensor) or not losses.is_floating_point():
            kind = losses.dtype if isinstance(losses, Tensor) else type(losses).__name__
            raise TypeMistake(f"losses is {kind}, expected a float tensor [B]: the criterion with reduction='none'")
        if losses.ndim != 1:
            averaged = "they are averaged already: " if losses.ndim == 0 else ""
            raise ValueMistake(
                f"losses has shape {tuple(losses.shape)}, expected [B], one loss a sample: {averaged}compute the "
                f"criterion with reduction='none'"
            )
        if not isinstance(index, Tensor) or index.dtype not in _INTEGERS:
            kind = index.dtype if isinstance(index, Tensor) else type(index).__name__
            raise TypeMistake(f"index is {kind}, expected an integer tensor [B]: the index that came with the batch")
        if index.shape != losses.shape:
            raise ValueMistake(
                f"index has shape {tuple(index.shape)} and losses {tuple(losses.shape)}, expected [B] both: pass the "
                f"index that came with this very batch"
            )
        if not len(index):
            raise ValueMistake("the batch is empty, expected at least one sample: skip empty batches")
        if index.is_cpu:
            lowest, highest = (bound.item() for bound in torch.aminmax(index))
            if lowest < 0 or highest >= self.num_samples:
                raise ValueMistake(
                    f"index reaches from {lowest} to {highest}, expected 0 to {self.num_samples - 1}: "
                    f"make the Pruner with num_samples=len(train_set) of the data set that is loaded"
                )
            positions = index.tolist()
            if len(set(positions)) < len(positions):
                twice = sorted({i for i in positions if positions.count(i) > 1})
                raise ValueMistake(
                    f"index repeats {twice[:5]} in one batch, expected every sample once: let pruner.sampler choose "
                    f"the samples, and reduce every batch by itself"
                )
        return len(index)

    def _record(self, index: Tensor, losses: Tensor, checked: bool) -> Tensor:
        """Write the losses into this epoch's row, NaN for those that are not finite; returns which are finite.

        Args:
            index: int64 [B] on the losses' device.
            losses: [B].
            checked: whether no index is repeated for sure. If not, repetitions are counted, to be raised at the end of
                the epoch.
        """
        values = losses.detach().float()
        row, faults = self._row_on(values.device)
        finite = values.isfinite()
        faults[0] += (~finite).sum()
        values = values.masked_fill(~finite, math.nan)
        row.index_copy_(0, index, values)
        if not checked:
            faults[2] += (row.index_select(0, index) != values).logical_and_(finite).sum()
        return finite

    def _index_on(self, device: torch.device, index: Tensor) -> Tensor:
        """The index as int64 on a device. One that was never seen on the host is forced into the data set, and what was
        outside is counted, to be raised at the end of the epoch."""
        if index.is_cpu:  # checked
            return index.to(device, torch.int64, non_blocking=True)
        index = index.to(device, torch.int64)
        inside = index.clamp(0, self.num_samples - 1)
        self._row_on(device)[1][1] += (inside != index).sum()
        return inside

    def _row_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """This epoch's losses, float32 [N] with NaN for "not seen", and its counts of faults, on a device."""
        if self._row is None or self._faults is None:
            self._row = torch.full((self.num_samples,), math.nan, dtype=torch.float32, device=device)
            self._sent = ()
            self._faults = torch.zeros(len(_FAULTS), dtype=torch.int64, device=device)
        elif self._row.device != device:
            self._row, self._faults = self._row.to(device), self._faults.to(device)
        return self._row, self._faults

    def _on(self, name: str, device: torch.device, make: Callable[[], Tensor | None]) -> Tensor | None:
        """A per-sample table of this epoch on a device, made when it is first asked for."""
        key = (name, device)
        if key not in self._cache:
            table = make()
            self._cache[key] = None if table is None else table.to(device, non_blocking=True)
        return self._cache[key]

    def _inverse(self, count: int, like: Tensor) -> Tensor:
        """1 / count as a tensor, kept for the epoch: a product with a Python number takes three times as long."""
        key = (f"1/{count}/{like.dtype}", like.device)
        if key not in self._cache:
            self._cache[key] = torch.full((), 1 / count, dtype=like.dtype, device=like.device)
        inverse = self._cache[key]
        assert inverse is not None
        return inverse

    def _trust(self) -> Tensor:
        """Share of the scored samples that score lower, float32 [N]; 1 where there is no score."""
        known = (~self.scores.isnan()).nonzero().squeeze(1)
        trust = torch.ones(self.num_samples)
        if len(known):
            values = self.scores[known]
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

    def _merged(self, reference: float) -> tuple[Tensor, dict[str, float]]:
        """This epoch's row and counts over all ranks; the one place where ranks talk."""
        row, faults = self._row_on(self._row.device if self._row is not None else torch.device("cpu"))
        own = [*faults.tolist(), self._sampler.position, self._refreshed, self._fingerprint(), reference]
        names = (*_FAULTS, "consumed", "refreshed", "fingerprint", "reference")
        _, world = rank_and_world()
        if world == 1:
            return row, dict(zip(names, own, strict=True))
        if torch.distributed.get_backend() == "nccl":  # which cannot carry host memory
            row = row.cuda()
        seen = row.isfinite()
        both = torch.stack([row.masked_fill(~seen, 0.0), seen.float()])
        counts = torch.tensor(own, dtype=torch.float64, device=row.device)
        torch.distributed.all_reduce(both)
        torch.distributed.all_reduce(counts)
        # Gloo's threads may let go of these after `all_reduce` returned. If Python had done so before them, they would
        # need its lock to free the tensors, and torch 2.4 hangs or aborts when the training ends at that moment.
        self._sent = (both, counts)
        totals = dict(zip(names, counts.tolist(), strict=True))
        if totals["fingerprint"] != world * self._fingerprint():
            raise CallMistake(
                f"the ranks hold pruners of different settings (this one: {self._method()}): make them with the same "
                f"arguments and the same seed on every rank"
            )
        totals["reference"] /= world
        return (both[0] / both[1]), totals  # 0 / 0 = NaN: seen by no rank

    def _fingerprint(self) -> int:
        text = f"{self._method()}/{self.num_samples}/{self.epoch}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")

    def _refuse_faults(self, totals: dict[str, float]) -> None:
        if totals["outside"] or totals["repeated"]:
            raise ValueMistake(
                f"in epoch {self.epoch}, {int(totals['outside'])} indices were outside 0 to {self.num_samples - 1} and "
                f"{int(totals['repeated'])} were repeated in a batch: make the Pruner with num_samples=len(train_set) "
                f"and let pruner.sampler choose the samples"
            )

    def _refuse_stale(self, totals: dict[str, float]) -> None:
        pruned = self.num_samples - len(self.selection)
        if self.score.needs_pruned and totals["refreshed"] < pruned:
            raise ValueMistake(
                f"{type(self.score).__name__} needs the losses of the {pruned} pruned samples of epoch {self.epoch}, "
                f"{int(totals['refreshed'])} were recorded: run the model without gradient over "
                f"pruner.loader(train_set, pruned=True) and call pruner.record(index, losses)"
            )

    def _warn_once(self, totals: dict[str, float]) -> None:
        if totals["nonfinite"] and not self._warned:
            self._warned = True
            warnings.warn(
                f"{int(totals['nonfinite'])} losses of epoch {self.epoch} are not finite; they are kept out of the "
                f"mean, the trajectories and every score. This is said once; pruner.nonfinite counts on",
                stacklevel=3,
            )


_FAULTS = ("nonfinite", "outside", "repeated")
_DELTA = "0.875 anneals in the last eighth of the epochs, 1 never"
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)


def _share(done: int, total: int, world: int) -> int:
    """A rank's part of ``done`` samples of an epoch of ``total``; the end of the epoch stays the end on any world."""
    return -(-total // world) if done >= total else done // world


def _checked_labels(labels: Tensor | Sequence[int], num_samples: int) -> Tensor:
    given = torch.as_tensor(labels)
    if given.dtype not in (*_INTEGERS, torch.int8) or given.shape != (num_samples,):
        raise ValueMistake(
            f"labels is {given.dtype} of shape {tuple(given.shape)}, expected integers ({num_samples},): the given "
            f"label of every sample, in the order of the data set"
        )
    if int(given.min()) < 0:
        raise ValueMistake(
            f"labels holds {int(given.min())}, expected class ids from 0 on: leave labels out, or map them"
        )
    return given.long()


def _expect(name: str, value: object, kind: type, example: str) -> None:
    if not isinstance(value, kind):
        raise TypeMistake(f"{name}={value!r} is {type(value).__name__}, expected a {kind.__name__}: such as {example}")
