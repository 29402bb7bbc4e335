"""The ranks of a run: processes that train together, one device each, and do not wait for one another for ever.

torchrun starts the ranks, and with --max-restarts starts all of them again where one fails: with --resume they go on
from the last checkpoint. Without restarts the others end with an error, as soon as a rank has ended, and after
`MachineSettings.rank_timeout` where one does not answer. The first rank alone writes to the run's folder and reads it.
"""

from __future__ import annotations

import atexit
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from alignprune._ranks import rank_and_world
from alignprune.bench.run.settings import MachineSettings, started_ranks, torch_device
from alignprune.errors import LostRank, UserError, ValueMistake

if TYPE_CHECKING:
    from alignprune.bench.run.fabric import Fabric

_Made = TypeVar("_Made")

PATIENCE = timedelta(seconds=15)
"""For which a rank that has failed waits for the first to say the same, before it says so itself."""

_FABRIC_PRECISION = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}


@contextmanager
def together(machine: MachineSettings) -> Iterator[Fabric]:
    """The ranks of a run while they are at work, one or several.

    Raises:
        LostRank: if another rank has ended, does not answer, or does not come at all.
        ValueError: for a GPU where torch sees none, and for another number of ranks than torchrun has started.
    """
    try:
        yield _launched(machine)
    except RuntimeError as error:
        if machine.devices == 1 or not _is_of_the_group(error):
            raise
        if torch.distributed.is_initialized() and torch.distributed.get_backend() == "gloo":
            _leave()  # NCCL would wait for the others
        raise _lost(machine, str(error)) from error
    atexit.register(_leave)  # not where this rank has failed, which would wait for the others then


def _launched(machine: MachineSettings) -> Fabric:
    from alignprune.bench.run.fabric import DDPStrategy, Fabric

    torch_device(machine.device)  # refuses a GPU that is not there
    started, world = started_ranks(), machine.devices
    if started not in (None, world):
        raise ValueMistake(
            f"devices={world} is given, but torchrun has started {started} ranks, expected as many: leave --devices "
            f"out, which then follows torchrun"
        )
    here = world if started is None else int(os.environ["LOCAL_WORLD_SIZE"])
    fabric = Fabric(
        accelerator=machine.device,
        devices=here,
        num_nodes=world // here,
        strategy=DDPStrategy(timeout=timedelta(minutes=machine.rank_timeout)) if world > 1 else "auto",
        precision=_FABRIC_PRECISION[machine.precision],  # type: ignore[arg-type]
    )
    if world > 1 and _has_store() and not torch.distributed.is_initialized():
        _meet("nccl" if fabric.device.type == "cuda" else "gloo", world, timedelta(minutes=machine.rank_timeout))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        fabric.launch()
    return fabric


def _meet(backend: str, world: int, timeout: timedelta) -> None:
    """Form the group before Lightning would.

    torchrun keeps one store for all starts of a run. What ranks of an earlier start have left there, such as their
    addresses, torch takes for that of the ranks of now, and waits for the dead (pytorch #135712); so each start has a
    part of the store to itself.
    """
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    rank, store = int(os.environ["RANK"]), _store(timeout)
    own = PrefixStore(f"alignprune/{_name_of_start(store, rank, world, timeout)}", store)
    torch.distributed.init_process_group(backend, store=own, rank=rank, world_size=world, timeout=timeout)


def _name_of_start(store: Any, rank: int, world: int, timeout: timedelta) -> str:
    """A name that all ranks of this start have, and none of an earlier one had.

    Every rank leaves a token. The first answers each that it finds with the name, those of the dead too, until all
    have said that they know it.
    """
    token = secrets.token_hex(8)
    if rank > 0:
        store.set(f"alignprune/token/{rank}", token)
        name: str = store.get(f"alignprune/name/{token}").decode()
        store.set(f"alignprune/{name}/known/{rank}", "")
        return name
    end = time.monotonic() + timeout.total_seconds()
    while not store.check([f"alignprune/{token}/known/{other}" for other in range(1, world)]):
        if time.monotonic() > end:
            raise torch.distributed.DistStoreError("timed out before all ranks had come")
        for other in range(1, world):
            if store.check([f"alignprune/token/{other}"]):
                store.set(f"alignprune/name/{store.get(f'alignprune/token/{other}').decode()}", token)
        time.sleep(0.02)
    return token


def _has_store() -> bool:
    """Whether torchrun keeps a store for its ranks, which is there before they have met."""
    return started_ranks() is not None and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _store(timeout: timedelta) -> Any:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timeout)


def _leave() -> None:
    """Leave the group of the ranks, whose threads would else abort the process now and then when it ends."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _is_of_the_group(error: RuntimeError) -> bool:
    """Whether it is about other ranks; Gloo raises no type of its own."""
    return not isinstance(error, UserError) and (isinstance(error, torch.distributed.DistError) or "gloo" in str(error))


def _lost(machine: MachineSettings, reason: str) -> LostRank:
    rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))  # it may not have met the others
    me, after = f"rank {rank} of {machine.devices}", "the same command with --resume goes on from the last checkpoint"
    if "timed out" in reason.lower() or "timeout" in reason.lower():
        return LostRank(
            f"rank_timeout={machine.rank_timeout:g} minutes have passed, in which {me} waited for another that did not "
            f"answer, expected all of them at work: see what the others printed last, or allow more with "
            f"--rank-timeout; {after}"
        )
    return LostRank(f"{me} has lost another, which has ended, expected all of them at work: see its error; {after}")


# -- what ranks do as one ----------------------------------------------------------------------------------


def agreed(work: Callable[[], _Made]) -> _Made:
    """Do some work on every rank; where it fails on one it ends on all of them.

    Returns:
        what this rank has made, when all have made theirs.

    Raises:
        LostRank: if it has failed on another rank, with the reason; what has failed on this rank is raised as it is.
    """
    made: _Made | None = None
    failure: Exception | None = None
    try:
        made = work()
    except Exception as error:  # raised below, when the others have heard of it
        failure = error
    reasons = of_all(None if failure is None else f"{type(failure).__name__}: {failure}")
    if failure is not None:
        raise failure
    for rank, reason in enumerate(reasons):
        if reason is not None:
            raise LostRank(f"rank {rank} of {len(reasons)} has failed ({reason}), expected none to: see its error")
    return cast(_Made, made)


def of_the_first(work: Callable[[], _Made]) -> _Made:
    """What the first rank makes, on every rank; raises as `agreed`."""
    rank, world = rank_and_world()
    made: list[Any] = [agreed(lambda: work() if rank == 0 else None)]
    if world > 1:
        torch.distributed.broadcast_object_list(made)
    return cast(_Made, made[0])


def of_all(own: _Made) -> list[_Made]:
    """What the ranks have, in their order, on every rank."""
    _, world = rank_and_world()
    found: list[Any] = [own] * world
    if world > 1:
        torch.distributed.all_gather_object(found, own)
    return found


# -- what ranks say as one ---------------------------------------------------------------------------------


def say_once(text: str, say: Callable[[str], object], *, own: bool = False) -> None:
    """Say why this process ends; where all ranks end for the same reason, the first alone says it.

    A rank that ends for another reason than the first says so too: it is silent only where the first has said the very
    same.

    Args:
        text: the reason.
        say: writes it.
        own: whether it is a reason of this rank alone, for sure.
    """
    if not _has_store():
        say(text)
    elif os.environ["RANK"] == "0":
        say(text)  # before the others hear of it and end, since torchrun then ends this one
        with suppress(torch.distributed.DistError):  # nobody hears of it where torchrun has ended
            _store(PATIENCE).set(_said(), text)
    elif own or _said_by_the_first() != text:
        say(text)


def _said_by_the_first() -> str | None:
    """Why the first rank ends; None if it does not."""
    end = time.monotonic() + PATIENCE.total_seconds()
    with suppress(torch.distributed.DistError):
        store = _store(PATIENCE)
        while time.monotonic() < end:
            if store.check([_said()]):
                said: bytes = store.get(_said())
                return said.decode()
            time.sleep(0.02)
    return None


def _said() -> str:
    return f"alignprune/said/{os.environ['TORCHELASTIC_RESTART_COUNT']}"
