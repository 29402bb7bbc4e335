"""The epoch that runs: what its samplers hand out, what has come back of it, and how it goes on after a resume.

A Selection begins it; its plan, its recorder and its samplers then say the same of every sample, on any number of ranks
and from the middle of an epoch on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignprune._ranks import Draws, Indices, rank_and_world
from alignprune.epoch import EpochPlan
from alignprune.errors import CallMistake
from alignprune.ownership import Replicated
from alignprune.pool import Pool
from alignprune.recorder import LEFT_OUT, SELECTED, Merged, Recorder
from alignprune.sampler import EpochSampler
from alignprune.selection import Selection
from alignprune.stream import StreamFilter


class RunningEpoch:
    """The epoch that is trained on, one object for the whole training; `begin` it before anything else is asked.

    Args:
        pool: the samples of all ranks.
        epochs: of the whole training.
        seed: of the orders and draws.
        unlabelled: bool [n], the samples of this rank that have no label; None = all have one.
        keeps_steps: whether to keep in which step of an epoch a sample was read.
        reads_pruned: whether samples that are left out are read, too: a large data set's are listed only then.

    Attributes:
        recorder: what has come back of the epoch.
        sampler: hands out what is selected.
        stream: lets what is selected through, where the data come as a stream; None = they do not.
        plan: what is read, and what a step looks up.
    """

    plan: EpochPlan

    def __init__(
        self,
        pool: Pool,
        epochs: int,
        seed: int,
        unlabelled: Tensor | None,
        *,
        keeps_steps: bool,
        reads_pruned: bool,
    ) -> None:
        self._pool, self._epochs, self._seed, self._unlabelled = pool, epochs, seed, unlabelled
        self.recorder = Recorder(pool, keeps_steps=keeps_steps)
        self.sampler = EpochSampler(seed)
        self.stream: StreamFilter | None = None
        self._pruned_sampler = EpochSampler(seed, shuffle=False)
        self._reads_pruned = reads_pruned
        self._probed: Tensor | None = None  # the batch of which a part was asked for and has not come yet
        self._epoch = 0

    @property
    def pruned_sampler(self) -> EpochSampler:
        """Hands out what is left out."""
        if not self._reads_pruned:
            self._plan_pruned()
        return self._pruned_sampler

    @property
    def progress(self) -> Fraction:
        """Share of the whole training that is done, by what this rank has read, in [0, 1], exact."""
        if self._is_over:
            return Fraction(1)
        length = self.recorder.length  # of a stream under several ranks it is unknown, and their rates must not differ
        within = Fraction(self.recorder.read, length) if length else Fraction(0)
        return (self._epoch + within) / self._epochs

    @property
    def _is_over(self) -> bool:
        return self._epoch >= self._epochs

    # ------------------------------------------------------------------ the beginning

    def begin(
        self, epoch: int, selection: Selection, start: int = 0, *, unread: Indices | None = None, before: int = 0
    ) -> None:
        """Begin an epoch, or go on in it.

        Args:
            epoch: its number; that of the last one + 1 = the training is over, and nothing is handed out.
            selection: what is read, by slot.
            start: samples that this rank has consumed.
            unread: the slots that no rank has read yet; None = all that are selected.
            before: samples that every rank has read of those that are not among these.
        """
        self._epoch = epoch
        self.plan = EpochPlan(
            selection,
            self._pool,
            Draws(self._seed, epoch),
            self._unlabelled,
            streamed=self.stream is not None,
            over=self._is_over,
            unread=unread,
        )
        samples = self.plan.samples
        self.sampler.plan(epoch, samples, start, own=self._pool.shared)
        if self._reads_pruned:
            self._plan_pruned()
        if self.stream is not None:
            self.stream.plan(samples)
        self.recorder.start(
            epoch,
            self.plan.mask,
            self.plan.total if unread is None else before + len(unread),
            streamed=self.stream is not None,
            exchange=self.plan.exchange,
            before=before,
        )
        self._probed = None

    def let_stream(self, stream: StreamFilter) -> StreamFilter:
        """Read this epoch and the following in the order of a stream, through a filter, instead of by the sampler."""
        self.stream = stream
        self.begin(self._epoch, self.plan.selection)
        return stream

    def _plan_pruned(self, start: int = 0, done: Tensor | None = None) -> None:
        """Let what is left out be read, but for ``start`` samples, or those at some slots, that this rank has read."""
        self._reads_pruned = True
        pruned = self.plan.pruned(done)
        self._pruned_sampler.plan(self._epoch, pruned[:0] if self._is_over else pruned, start, own=self._pool.shared)

    # ------------------------------------------------------------------ every step

    def probe(self, index: Tensor) -> Tensor:
        """Note that a batch is read of which a part will be trained on: integers [B], checked, to int64 [B]."""
        self._probed = self.recorder.take(index)
        return self._probed

    def take_part(self, index: Tensor, asker: str) -> Tensor:
        """Note which part of the batch that was probed is trained on.

        Args:
            index: integers [m], checked.
            asker: what has to be asked about a batch first, for the message.

        Returns:
            int64 [m].

        Raises:
            ValueMistake: for a part of another batch; CallMistake where none was probed.
        """
        if self._probed is None:
            raise CallMistake(
                f"{asker} chooses inside each batch, and choose was not asked about this one: call pruner.choose first"
            )
        whole, self._probed = self._probed, None
        return self.recorder.take_part(index, whole)

    # ------------------------------------------------------------------ the end

    def refuse_incomplete(self, merged: Merged, *, partial: bool) -> None:
        """Raise if not all that was selected has come back once, over all ranks.

        Args:
            merged: what the ranks have recorded.
            partial: whether less may have been read.

        Raises:
            CallMistake, ValueMistake: saying how much was read of how much, and the likely causes.
        """
        if merged.total("read") == 0 and self.plan.selected > 0:
            raise CallMistake(
                f"no losses were recorded in epoch {self._epoch}: end_epoch was called twice, reduce was not called, "
                f"or the loader dropped the only batch (drop_last)"
            )
        self.recorder.refuse_faults(merged)
        self.recorder.refuse_shared(merged)
        if not partial:
            self.recorder.refuse_partly_read(merged, self.plan.selected)

    # ------------------------------------------------------------------ state

    def state(self, merged: Merged | None) -> dict[str, Any]:
        """How far the epoch has come.

        Where ranks own parts every rank has to ask, since they read for one another.

        Args:
            merged: what the ranks have recorded; None = nothing yet.
        """
        recorded: dict[str, Any] = {"losses": None, "faults": None, "predicted": None, "steps": None}
        if merged is not None:
            self.recorder.refuse_faults(merged)
            recorded = {
                "losses": merged.row.cpu().clone(),
                "faults": self.recorder.faults(merged),
                "predicted": None if merged.predicted is None else merged.predicted.cpu().clone(),
                "steps": None if merged.steps is None else merged.steps.cpu().clone(),
            }
        # As many samples each, unless the ranks own parts.
        own, world = np.array([self.recorder.read, self.recorder.refreshed]), rank_and_world()[1]
        read, refreshed = (self._pool.total(own) if self._pool.shared else own * world).tolist()
        state = {
            "read": read,
            "refreshed": refreshed,
            "largest": self.recorder.largest,
            "selection": self.plan.selection.state_dict(),
        } | recorded
        return state | {"unread": self.recorder.unread(), "world": world} if self._is_owned else state

    @property
    def _is_owned(self) -> bool:
        return not isinstance(self._pool.ownership, Replicated)

    def go_on(self, epoch: int, selection: Selection, state: Mapping[str, Any]) -> None:
        """Go on in an epoch of which `state` was taken, on any number of ranks.

        Args:
            epoch: its number.
            selection: of the state.
            state: what `state` returned, checked.
        """
        (self._go_on_with_part if self._is_owned else self._go_on)(epoch, selection, state)

    def _go_on(self, epoch: int, selection: Selection, state: Mapping[str, Any]) -> None:
        """Go on where every rank remembers all samples."""
        rank, world = rank_and_world()
        over = epoch >= self._epochs
        read = _share(state["read"], 0 if over else len(selection), world)
        refreshed = _share(state["refreshed"], 0 if over else self._pool.num_samples - len(selection), world)
        self.begin(epoch, selection, start=read)
        if refreshed:
            self._plan_pruned(refreshed)
        if self.stream is not None and state["losses"] is not None:
            done = (~state["losses"].isnan()).nonzero().squeeze(1)
            self.stream.leave_out(done)
            consumed = {SELECTED: done}
        else:
            consumed = {SELECTED: self.sampler.indices(0, read), LEFT_OUT: self._pruned_sampler.indices(0, refreshed)}
        step = 0 if state["steps"] is None else int(state["steps"].max()) + 1
        self.recorder.resume(consumed, read, refreshed, state["largest"], step)
        if state["losses"] is not None and rank == 0:
            # One rank holds what all had recorded: merging adds what the others record from here on.
            self.recorder.restore(state["losses"], state["faults"], state["predicted"], state["steps"])
        elif state["losses"] is not None:
            self.recorder.restore(torch.full_like(state["losses"], math.nan), [0] * len(state["faults"]))

    def _go_on_with_part(self, epoch: int, selection: Selection, state: Mapping[str, Any]) -> None:
        """Go on where ranks own parts: as they were, or with what nobody has read yet."""
        world = rank_and_world()[1]
        read, same = state["read"] // world, state["world"] == world and self.stream is None
        if same:
            self.begin(epoch, selection, start=read)
        else:
            self.begin(epoch, selection, unread=np.flatnonzero(state["unread"].numpy()), before=read)
        consumed = {SELECTED: self.plan.slots_of(self.sampler.indices(0, read if same else 0))}
        refreshed = 0
        if state["refreshed"]:
            pruned = self.plan.selection.pruned
            done = pruned[~state["losses"][pruned].isnan()]
            self._plan_pruned(done=done)
            consumed[LEFT_OUT], refreshed = done, len(done)
        step = int(self._pool.highest(np.array([-1 if state["steps"] is None else int(state["steps"].max())]))[0]) + 1
        self.recorder.resume(consumed, read, refreshed, state["largest"], step)
        if state["losses"] is not None:
            self.recorder.restore(state["losses"], state["faults"], state["predicted"], state["steps"])


def _share(done: int, total: int, world: int) -> int:
    """A rank's part of ``done`` samples of an epoch of ``total``; the end of the epoch stays the end on any world."""
    return -(-total // world) if done >= total else done // world
