"""When a run stores where it stands: at every so many steps or minutes, and when it is asked to end.

SIGTERM, which Slurm, Kubernetes and torchrun send before they kill, and Ctrl-C are heard between two steps: the run
stores a checkpoint in the middle of its epoch and ends by `Interrupted`.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

import torch

from alignprune._ranks import rank_and_world
from alignprune.errors import ValueMistake

TOGETHER = 32
"""Steps between two moments at which several ranks ask each other whether to store, or to end."""

_IMPATIENT = 2.0  # seconds after which a second signal ends at once; launchers repeat what the terminal has sent

_EVERY = re.compile(r"(\d+)(steps?|min|minutes?|h|hours?)?")
_SECONDS = {"m": 60.0, "h": 3600.0}


class Interrupted(KeyboardInterrupt):
    """A run that was asked to end, and has stored where it stands.

    Args:
        message: where, and how to go on.
        signal: the number of the signal that asked.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


@dataclass(frozen=True)
class CheckpointEvery:
    """How often to store a checkpoint in the middle of an epoch.

    Attributes:
        steps: after so many steps; None for no such limit.
        seconds: after so much time; None for no such limit.
    """

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str | None) -> CheckpointEvery:
        """Read "500" (steps), "10min" or "2h"; None is never.

        Raises:
            ValueError: for anything else.
        """
        if text is None:
            return cls()
        found = _EVERY.fullmatch(text.replace(" ", ""))
        if found is None or int(found[1]) < 1:
            raise ValueMistake(
                f"checkpoint_every={text!r} is not known, expected a number of steps, minutes or hours, at least 1: "
                f"500, 10min or 2h"
            )
        count, unit = int(found[1]), (found[2] or "s")[0]
        return cls(steps=count) if unit == "s" else cls(seconds=count * _SECONDS[unit])


class Interruption:
    """Hears the signals while a run trains, and knows when the next checkpoint is due. A context.

    Args:
        every: how often to store in the middle of an epoch.
        device: of the ranks' collectives.

    Attributes:
        signal: the number of the first signal that was heard; None for none yet.
    """

    def __init__(self, every: CheckpointEvery, device: torch.device) -> None:
        self.every, self.device = every, device
        self.signal: int | None = None
        self._heard = 0.0
        self._before: dict[int, Any] = {}
        self._stored = time.monotonic()
        self._steps = 0

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # what was to be ignored goes on to be
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._heard = number, now
        elif now - self._heard > _IMPATIENT:
            raise KeyboardInterrupt

    def stored(self) -> None:
        """A checkpoint has been stored."""
        self._stored, self._steps = time.monotonic(), 0

    def after_step(self, step: int) -> bool:
        """Whether to store a checkpoint after this step of the epoch, from 0; the same on every rank.

        Several ranks agree on it every `TOGETHER` steps, which costs a wait for the device.
        """
        self._steps += 1
        if rank_and_world()[1] > 1 and (step + 1) % TOGETHER:
            return False
        return self._agreed(self._is_due())

    def after_epoch(self) -> None:
        """Let all ranks know of a signal that one of them has heard."""
        self._agreed(False)

    def _is_due(self) -> bool:
        steps, seconds = self.every.steps, self.every.seconds
        return (
            self.signal is not None
            or (steps is not None and self._steps >= steps)
            or (seconds is not None and time.monotonic() - self._stored >= seconds)
        )

    def _agreed(self, due: bool) -> bool:
        """Whether it is due on any rank; from then on all know the signal that one has heard."""
        if rank_and_world()[1] == 1:
            return due
        both = torch.tensor([int(due), self.signal or 0], device=self.device)
        torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX)
        agreed, heard = both.tolist()
        self.signal = heard or None
        return bool(agreed)
