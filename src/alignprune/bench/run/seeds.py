"""Several seeds of one head on features, trained in one process: their steps are those of one batched network.

Each seed is a whole run, as `training.Run` is alone: its labels, order, draws, pruner, loss, averages, early stopping
and folder are its own. Only its steps are asked for here. Those of runs that are at the same place, with batches of the
same size, are taken together by a `Stacked` network; any other is taken alone, such as that of a run whose epochs have
got another length. At the end of an epoch, and before a checkpoint, every run has its weights to itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor

from alignprune.bench.models import MODELS
from alignprune.bench.run import ranks, training
from alignprune.bench.run.config import TrainConfig
from alignprune.bench.run.fabric import Fabric
from alignprune.bench.run.interruption import CheckpointEvery, Interrupted, Interruption
from alignprune.bench.run.progress import Progress
from alignprune.bench.run.stacked import Stacked
from alignprune.bench.run.training import Step

Outcome = dict[str, Any] | BaseException
"""The content of result.json, or why there is none."""


def fit(config: TrainConfig) -> bool:
    """Whether runs of this configuration, whose seeds differ, can be trained together.

    They can where the network reads features, every number of it is updated by itself, and nothing but the forward pass
    looks at the network during an epoch.
    """
    name, pruning = config.network.model or config.recipe.model, config.pruning
    return (
        (name is None or (name in MODELS and MODELS[name].inputs == "features"))
        and config.recipe.optimizer != "lars"
        and not config.recipe.clip
        and config.machine.devices == 1
        and config.machine.precision != "16"
        and not config.machine.compile
        and config.outputs.track is None
        and pruning.folds is None
        and pruning.co_teaching is None
        and not pruning.policy.probes
    )


def train(configs: Sequence[TrainConfig], progress: Sequence[Progress]) -> list[Outcome]:
    """Run the experiments, or what is left of them, and store each in its folder.

    Args:
        configs: which `fit`, of one machine.
        progress: hears of each.

    Returns:
        what came of each. One that failed has not cost the others anything.

    Raises:
        Interrupted: after SIGTERM or Ctrl-C, when it is stored where each of them stands.
    """
    with (
        ranks.together(configs[0].machine) as fabric,
        Interruption(CheckpointEvery(), fabric.device) as heard,
        ExitStack() as lives,
    ):
        together = _Together(fabric)
        members = []
        for config, told in zip(configs, progress, strict=True):
            members.append(_Member(config, fabric, told))
            lives.callback(members[-1].end)
        while waiting := [member for member in members if member.step is not None]:
            losses = together.take(waiting)
            for member, loss in zip(waiting, losses, strict=True):
                member.run.interruption.signal = heard.signal
                member.go_on(loss)
    outcomes = [member.outcome for member in members]
    for outcome in outcomes:
        if isinstance(outcome, Interrupted):
            raise outcome
    return outcomes


class _Member:
    """A run among others.

    Attributes:
        step: that it waits for; None when it has ended.
        outcome: when it has ended.
    """

    run: training.Run

    def __init__(self, config: TrainConfig, fabric: Fabric, progress: Progress) -> None:
        self.step: Step | None = None
        self.outcome: Outcome = {}
        self._life: Generator[Step, Tensor, dict[str, Any]] | None = None
        try:
            self.run = training.begin(config, training.prepare(config, progress), fabric, progress)
        except Exception as error:
            self.outcome = error
            return
        self._life = self.run.life(nullcontext())
        self.go_on(None)

    def go_on(self, loss: Tensor | None) -> None:
        """Let it live on to its next step, having taken one that minimised this loss; None begins."""
        assert self._life is not None
        self.step = None
        try:
            self.step = next(self._life) if loss is None else self._life.send(loss)
        except StopIteration as end:
            self.outcome = end.value
        except (Exception, Interrupted) as error:
            self.outcome = error

    def end(self) -> None:
        """Let others into its folder, also where it has not come to its end."""
        if self._life is not None:
            self._life.close()

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Its optimiser, without what Fabric wraps it in."""
        wrapped: Any = self.run.optimizer
        found: torch.optim.Optimizer = wrapped.optimizer
        return found

    @property
    def fits(self) -> bool:
        """Whether its network can be stacked."""
        return Stacked.fits(self.run.network, self.optimizer)

    @property
    def place(self) -> tuple[Any, ...]:
        """What runs must have in common whose steps are taken together."""
        assert self.step is not None
        return (self.step.place, self.step.batch.x.shape)

    @property
    def age(self) -> float:
        """How many steps the optimiser has taken, where it counts them."""
        counts = [float(state["step"]) for state in self.optimizer.state.values() if "step" in state]
        return max(counts, default=0.0)


class _Together:
    """Takes the steps of the runs that wait, as many as can be at once."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.members: list[_Member] = []
        self.stack: Stacked | None = None

    def take(self, waiting: Sequence[_Member]) -> list[Tensor]:
        """The losses that were minimised, in the order of the runs."""
        if self.stack is None or not self._still_together(waiting):
            self._gather(waiting)
        found = dict(zip(self.members, self._step(), strict=True)) if self.stack is not None else {}
        alone = [member for member in waiting if member not in found]
        found |= {member: member.run.take(member.step) for member in alone if member.step is not None}
        return [found[member] for member in waiting]

    def release(self) -> None:
        """Give every run its own weights back."""
        if self.stack is not None:
            self.stack.release()
        for member in self.members:
            member.run.shared = None
        self.stack, self.members = None, []

    def _still_together(self, waiting: Sequence[_Member]) -> bool:
        return set(self.members) <= set(waiting) and len({member.place for member in self.members}) == 1

    def _gather(self, waiting: Sequence[_Member]) -> None:
        """Stack the largest set of runs that are at the same place; none where each is at its own."""
        self.release()
        places = {member: (member.place, member.age) for member in waiting if member.fits}
        place, count = Counter(places.values()).most_common(1)[0] if places else (None, 0)
        if count < 2:
            return
        self.members = [member for member, where in places.items() if where == place]
        self.stack = Stacked([one.run.network for one in self.members], [one.optimizer for one in self.members])
        for member in self.members:
            member.run.shared = self

    def _step(self) -> list[Tensor]:
        """One step of the stacked runs."""
        assert self.stack is not None
        runs, steps = [one.run for one in self.members], [one.step for one in self.members if one.step is not None]
        with self.fabric.autocast():
            logits = self.stack(torch.stack([step.batch.x for step in steps]))
        losses = [
            run.loss(step, run.objective.outcome(step.index, step.batch, own))
            for run, step, own in zip(runs, steps, logits.float().unbind(), strict=True)
        ]
        self.stack.optimizer.zero_grad()
        for run in runs:
            run.objective.zero_grad()
        torch.autograd.backward(losses)
        self.stack.step()
        for run in runs:
            run.objective.step()
            run.averaging.step()
        return [loss.detach() for loss in losses]
