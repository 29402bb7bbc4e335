"""A sweep: many jobs, each run once, on the processes of one machine or on the nodes of a Ray cluster.

A job is a folder, complete when ``result.json`` is in it. That file and the folder's lock are all that sweeps know of
each other: one that was killed goes on when it is called again, and two that run at the same time share the work.
What a job does is no matter here: a function makes its folder complete or raises.

log.txt     what the job printed, native output too
error.json  why the last attempt failed; gone once one succeeds
.lock       held by the process that works on the job: `alignprune.bench.run.lock`
"""

from __future__ import annotations

import faulthandler
import json
import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, fields
from graphlib import CycleError, TopologicalSorter
from multiprocessing import connection
from pathlib import Path
from typing import Any, Literal, get_args

from alignprune._checks import choice, integer, number
from alignprune.bench.files import write_json
from alignprune.bench.run.listing import ERROR
from alignprune.bench.run.lock import HOLDER, FolderInUse, locked
from alignprune.errors import MissingExtra, UserError, ValueMistake

Engine = Literal["local", "ray"]

POLL = 1.0  # seconds between two looks at what gives no sign: a job held elsewhere, a process that died in silence
GRACE = 10.0  # seconds that a stopped process has to clean up before it is killed

_LASTING = (UserError, ImportError)  # what another attempt meets again: a user mends it


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        name: for people: "cifar100n-real-infobatch-P50 seed 0".
        folder: where it leaves its files; complete when ``result.json`` is there.
        key: of its settings; see `alignprune.bench.grid.cells.key_of`.
        protocol: how large it is; see `alignprune.bench.grid.cells.Protocol`.
        seed: of the run.
        settings: what the work function needs to know; plain values.
        needs: folders that must be complete before it starts.
        alongside: jobs that the work function may complete together with it, if nobody else works on them.
    """

    name: str
    folder: Path
    key: str
    protocol: str
    seed: int
    settings: Mapping[str, Any]
    needs: tuple[Path, ...] = ()
    alongside: tuple[Job, ...] = ()


Work = Callable[[Job], None]


@dataclass(frozen=True)
class Summary:
    """What came of the jobs; each stands in one of the four.

    Attributes:
        done: completed by this sweep.
        skipped: complete before, or completed by another sweep meanwhile.
        failed: with the error of the last attempt, "Type: message".
        blocked: not started, since something that they need failed.
    """

    done: tuple[Job, ...] = ()
    skipped: tuple[Job, ...] = ()
    failed: tuple[tuple[Job, str], ...] = ()
    blocked: tuple[Job, ...] = ()


class Report:
    """What happens, as it happens. Override what you want to show."""

    def started(self, job: Job) -> None:
        """A process begins an attempt at the job."""

    def finished(self, job: Job, seconds: float) -> None:
        """The job is complete; its last attempt took this long."""

    def skipped(self, job: Job) -> None:
        """The job is complete already, or another sweep completed it."""

    def failed(self, job: Job, error: str, attempt: int, final: bool) -> None:
        """An attempt, from 1, failed; ``final``: there is no other."""


def run(
    jobs: Sequence[Job],
    work: Work,
    *,
    engine: Engine = "local",
    workers: int = 1,
    retries: int = 1,
    threads: int | None = None,
    gpus: float = 0.0,
    cpus: float = 1.0,
    address: str | None = None,
    report: Report | None = None,
) -> Summary:
    """Run the jobs that are not complete, each as soon as what it needs is complete and a worker is free.

    Otherwise jobs that others need go first, then the order is that given. A job that fails costs nobody else's work,
    not even if its process dies. What may pass is tried again, such as a process that was killed; a mistake that a user
    has to mend is not. A job that another sweep works on is left to it, and looked after at the end.

    Args:
        jobs: in the order to take them; a job that occurs twice is run once.
        work: makes a job's folder complete or raises; a function at the top level of a module, since other processes
            import it. After an interruption it is called again on the same folder.
        engine: "local" for processes of this machine, "ray" for a Ray cluster whose nodes share the file system.
        workers: local: number of processes. Ray runs as many jobs at once as its nodes have room for.
        retries: how often a job is tried again after a failure that may pass.
        threads: OMP and MKL threads of a job; None for an even share of the cores, with Ray for ``cpus``.
        gpus: ray: GPUs of a job, 0.25 for four jobs on each; with 0 a job sees none.
        cpus: ray: CPUs of a job.
        address: ray: of the cluster; None for the one that Ray finds or else starts here.
        report: hears what happens.

    Returns:
        what came of each job.

    Raises:
        ValueError: before anything runs, if jobs need each other in a circle, need what no job provides, or want the
            same folder for different things.
        ImportError: if ``engine`` is "ray" and Ray is not installed.
        KeyboardInterrupt: after the running jobs have been stopped; the next call goes on from there.
    """
    _check(engine, workers, retries, threads, gpus, cpus, address)
    report = report or Report()
    plan = _plan(jobs)
    todo = {place: job for place, job in plan.items() if not complete(job.folder)}
    sweep = _Sweep(todo, retries, report)
    for place, job in plan.items():
        if place not in todo:
            sweep.skip(job)
    if todo:
        executor: _Executor
        if engine == "local":
            executor = _Processes(work, workers, threads or max(1, _cores() // workers))
        else:
            executor = _Ray(work, cpus, gpus, threads or max(1, int(cpus)), address)
        with closing(executor):
            sweep.drive(executor)
    return sweep.summary()


def complete(folder: Path) -> bool:
    """Whether the job of this folder is done."""
    return (folder / "result.json").exists()


# -- before anything runs ----------------------------------------------------------------------------------


def _check(
    engine: str, workers: int, retries: int, threads: int | None, gpus: float, cpus: float, address: str | None
) -> None:
    choice("engine", engine, get_args(Engine))
    integer("workers", workers, at_least=1, remedy="the number of processes")
    integer("retries", retries, at_least=0, remedy="0 tries every job once")
    if threads is not None:
        integer("threads", threads, at_least=1, remedy="None shares the cores out evenly")
    number("gpus", gpus, low=0, high=math.inf, remedy="the GPUs of one job")
    number("cpus", cpus, low=0, high=math.inf, remedy="the CPUs of one job")
    if engine == "local" and (gpus, cpus, address) != (0.0, 1.0, None):
        raise ValueMistake(
            f"gpus={gpus!r}, cpus={cpus!r} and address={address!r} are for engine='ray': leave them out, or choose it"
        )
    if engine == "ray" and workers != 1:
        raise ValueMistake(
            f"workers={workers!r} is for engine='local'; Ray runs as many jobs at once as fit: set the cpus and gpus "
            f"of one job instead"
        )


def _plan(jobs: Sequence[Job]) -> dict[Path, Job]:
    """The jobs by their place, those that others need first; refused if they cannot all be run."""
    plan: dict[Path, Job] = {}
    for job in jobs:
        _refuse_other(plan.setdefault(_place(job.folder), job), job)
    needs = {place: {_place(need) for need in job.needs} for place, job in plan.items()}
    _refuse_circle(plan, needs)
    _refuse_missing(plan, needs)
    needed = set().union(*needs.values())
    return dict(sorted(plan.items(), key=lambda item: item[0] not in needed))


def _place(folder: Path) -> Path:
    return Path(os.path.abspath(folder))


def _refuse_other(first: Job, second: Job) -> None:
    differing = [field.name for field in fields(Job) if getattr(first, field.name) != getattr(second, field.name)]
    if differing:
        raise ValueMistake(
            f"jobs {first.name!r} and {second.name!r} want the same folder {first.folder} but differ in "
            f"{', '.join(differing)}: give each its own"
        )


def _refuse_circle(plan: Mapping[Path, Job], needs: Mapping[Path, set[Path]]) -> None:
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        circle = " -> ".join(repr(plan[place].name) for place in error.args[1])
        raise ValueMistake(f"jobs need each other in a circle: {circle}: take one of these needs away") from None


def _refuse_missing(plan: Mapping[Path, Job], needs: Mapping[Path, set[Path]]) -> None:
    for place, job in plan.items():
        missing = [str(need) for need in needs[place] - plan.keys() if not complete(need)]
        if missing and not complete(job.folder):
            raise ValueMistake(
                f"job {job.name!r} needs {', '.join(sorted(missing))}, which is not complete and which no job "
                f"provides: add the job"
            )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# -- which job is next, and what becomes of it -------------------------------------------------------------


@dataclass(frozen=True)
class _Event:
    """What a process says of its job. All but "started" end the attempt; "died" is said on its behalf.

    Attributes:
        kind: what has happened.
        error: of an attempt that failed or died.
        lasting: whether the next attempt would fail for the same reason.
        seconds: that the attempt took.
    """

    kind: Literal["started", "done", "skipped", "held", "failed", "died"]
    error: str = ""
    lasting: bool = False
    seconds: float = 0.0


class _Executor(ABC):
    """Runs attempts; knows nothing of needs, retries and other sweeps."""

    @abstractmethod
    def free(self) -> bool:
        """Whether another job may be submitted."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Start an attempt, or queue it."""

    @abstractmethod
    def wait(self) -> tuple[Job, _Event] | None:
        """The next event of the submitted jobs; None if none came within `POLL` seconds."""

    @abstractmethod
    def close(self) -> None:
        """Stop what runs, and leave no process behind."""


class _Sweep:
    """The state of one call of `run`."""

    def __init__(self, todo: Mapping[Path, Job], retries: int, report: Report) -> None:
        self.retries = retries
        self.report = report
        self.waiting = dict(todo)
        self.needs = {place: {_place(need) for need in job.needs} for place, job in todo.items()}
        self.incomplete = set(todo)
        self.running = 0
        self.together: set[Path] = set()  # may have been completed with another job of this sweep
        self.held: dict[Path, Job] = {}  # another sweep works on them
        self.attempts: Counter[Path] = Counter()
        self.done: list[Job] = []
        self.skipped: list[Job] = []
        self.failed: list[tuple[Job, str]] = []

    def drive(self, executor: _Executor) -> None:
        """Run all that can be run."""
        while True:
            while executor.free() and (job := self._next()):
                executor.submit(job)
                self.running += 1
            if self.running:
                news = executor.wait()
            elif self.held:
                time.sleep(POLL)
                news = None
            else:
                return
            if news:
                self._note(*news)
            else:  # a quiet moment: ask again for what others hold
                self.waiting |= self.held
                self.held.clear()

    def skip(self, job: Job) -> None:
        """Note a job that is complete without this sweep, and take away what a process left that died just then."""
        if any((job.folder / name).exists() for name in (HOLDER, ERROR)):
            with suppress(FolderInUse, OSError), locked(job.folder):  # as of runs that may only be read
                (job.folder / ERROR).unlink(missing_ok=True)
        self.skipped.append(job)
        self.report.skipped(job)

    def summary(self) -> Summary:
        """What came of the jobs; those still waiting when nothing more can run are blocked."""
        return Summary(tuple(self.done), tuple(self.skipped), tuple(self.failed), tuple(self.waiting.values()))

    def _next(self) -> Job | None:
        for place in self.waiting:
            if self.needs[place].isdisjoint(self.incomplete):
                return self.waiting.pop(place)
        return None

    def _note(self, job: Job, event: _Event) -> None:
        if event.kind == "started":
            self.report.started(job)
            return
        self.running -= 1
        place = _place(job.folder)
        if event.kind == "held":
            self.held[place] = job
        elif event.kind == "done":
            self.together |= {_place(other.folder) for other in job.alongside}
            self._finish(place, job, event.seconds)
        elif event.kind == "skipped" and place in self.together:
            self._finish(place, job, event.seconds)
        elif event.kind == "skipped":
            self.incomplete.discard(place)
            self.skip(job)
        else:
            error = _record_death(job.folder, event.error) if event.kind == "died" else event.error
            self._fail(place, job, error, event.lasting)

    def _finish(self, place: Path, job: Job, seconds: float) -> None:
        self.incomplete.discard(place)
        self.done.append(job)
        self.report.finished(job, seconds)

    def _fail(self, place: Path, job: Job, error: str, lasting: bool) -> None:
        self.attempts[place] += 1
        final = lasting or self.attempts[place] > self.retries
        if final:
            self.failed.append((job, error))
        else:
            self.waiting[place] = job
        self.report.failed(job, error, self.attempts[place], final)


# -- an attempt, in the process that does the work ---------------------------------------------------------


def _attempt(job: Job, work: Work) -> Iterator[_Event]:
    """One attempt at a job: says that it starts, and last, when the folder is free again, what came of it."""
    try:
        with locked(job.folder):
            if complete(job.folder):
                outcome = _Event("skipped")
            else:
                yield _Event("started")
                outcome = _outcome(job, work)
    except FolderInUse:
        outcome = _Event("held")
    except OSError as error:  # the folder cannot be made, or not be locked
        outcome = _Event("failed", _named(error))
    yield outcome


def _outcome(job: Job, work: Work) -> _Event:
    start = time.monotonic()
    try:
        with _output_to(job.folder / "log.txt"):
            try:
                work(job)
                if not complete(job.folder):
                    raise RuntimeError(f"the work function returned, but {job.folder / 'result.json'} is not there")
            except Exception:
                traceback.print_exc()
                raise
    except Exception as error:
        written = _record_error(job.folder, _named(error), traceback.format_exc())
        return _Event("failed", written, lasting=isinstance(error, _LASTING) and not isinstance(error, FolderInUse))
    (job.folder / ERROR).unlink(missing_ok=True)
    return _Event("done", seconds=time.monotonic() - start)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _record_error(folder: Path, error: str, trace: str) -> str:
    """Write error.json; returns the error, and where that could not be written also why."""
    file = folder / ERROR
    try:
        write_json(file, {"error": error, "traceback": trace, "attempts": _attempts(file) + 1})
    except OSError as unwritten:
        return f"{error} (and {file} could not be written: {unwritten.strerror})"
    return error


def _attempts(file: Path) -> int:
    """How many attempts error.json counts; 0 where it is not there, and where it is damaged, since it is only told."""
    try:
        found = json.loads(file.read_text())
    except (FileNotFoundError, ValueError, RecursionError):  # no JSON, no text, or JSON deeper than Python reads
        return 0
    count = found.get("attempts") if isinstance(found, dict) else None
    return count if type(count) is int and count > 0 else 0


def _record_death(folder: Path, error: str) -> str:
    """Record the error of a process that could not; not if another sweep has taken the job over by now."""
    with suppress(FolderInUse, OSError), locked(folder):
        if not complete(folder):
            return _record_error(folder, error, "")
    return error


@contextmanager
def _output_to(file: Path) -> Iterator[None]:
    """Append all output to a file: that of Python, and what libraries and child processes write to descriptors 1, 2."""
    with open(file, "a", buffering=1, encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        before = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
        for descriptor in before:
            os.dup2(log.fileno(), descriptor)
        try:
            yield
        finally:
            for descriptor, copy in before.items():
                os.dup2(copy, descriptor)
                os.close(copy)


# -- local: processes of this machine ----------------------------------------------------------------------


@dataclass(eq=False)
class _Worker:
    """A process that takes one job after another."""

    process: multiprocessing.process.BaseProcess
    pipe: connection.Connection
    job: Job | None = None

    def end(self) -> int | None:
        """See the process out; returns its exit code."""
        self.pipe.close()
        self.process.join(GRACE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return self.process.exitcode


class _Processes(_Executor):
    """Spawned processes, started when they are needed and kept from job to job, since importing torch takes seconds.

    Spawned, not forked: CUDA does not survive a fork. Not daemons: those may not have data loaders' processes.
    """

    def __init__(self, work: Work, workers: int, threads: int) -> None:
        self._work = work
        self._limit = workers
        self._environment = _thread_variables(threads)
        self._workers: list[_Worker] = []

    def free(self) -> bool:
        return len(self._busy()) < self._limit

    def submit(self, job: Job) -> None:
        worker = self._idle() or self._start()
        worker.job = job
        with suppress(ConnectionError):  # it has just died: `wait` finds out
            worker.pipe.send(job)

    def wait(self) -> tuple[Job, _Event] | None:
        busy = self._busy()
        ready = connection.wait([worker.pipe for worker in busy], timeout=POLL)
        for worker in busy:
            # Processes that a dead worker has left may hold its pipe open: then only this shows it.
            if worker.pipe in ready or not worker.process.is_alive():
                return self._event(worker)
        return None

    def close(self) -> None:
        for worker in self._workers:
            worker.pipe.close()  # an idle worker leaves
            if worker.job:
                worker.process.terminate()
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.job]

    def _idle(self) -> _Worker | None:
        for worker in [worker for worker in self._workers if not worker.job]:
            if worker.process.is_alive():
                return worker
            self._bury(worker)
        return None

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, self._work))
        with _environment(self._environment):  # read when the child loads its libraries, before any code of ours
            process.start()
        there.close()  # else the end of the child would not end the pipe
        self._workers.append(_Worker(process, here))
        return self._workers[-1]

    def _event(self, worker: _Worker) -> tuple[Job, _Event]:
        job = worker.job
        assert job is not None
        try:
            if not worker.pipe.poll():
                raise EOFError
            event: _Event = worker.pipe.recv()
        except (EOFError, OSError):
            event = _Event("died", f"WorkerDied: {_last_words(self._bury(worker))}; its output is in log.txt")
        if event.kind == "failed" and not event.lasting:  # the process may be unfit, as it is after CUDA errors
            self._bury(worker)
        elif event.kind != "started":
            worker.job = None
        return job, event

    def _bury(self, worker: _Worker) -> int | None:
        self._workers.remove(worker)
        return worker.end()


def _serve(pipe: connection.Connection, work: Work) -> None:
    """A worker process: takes jobs until its pipe closes."""
    faulthandler.enable()  # a segmentation fault says where, in log.txt
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # an exception: what the job has opened is closed
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        with suppress(EOFError, ConnectionError):
            while True:
                for event in _attempt(pipe.recv(), work):
                    pipe.send(event)
    except KeyboardInterrupt:  # a run that was asked to end has stored where it stands
        sys.exit(1)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


def _last_words(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the process of the job was killed by {name}{hint}"
    return f"the process of the job ended with exit code {exitcode}"


def _thread_variables(threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# -- ray: the nodes of a cluster ---------------------------------------------------------------------------


class _Ray(_Executor):
    """Tasks of a Ray cluster. All that can run is submitted at once; Ray queues it, and a cluster may grow with it."""

    def __init__(self, work: Work, cpus: float, gpus: float, threads: int, address: str | None) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingExtra(
                "engine='ray' is given, but Ray is not installed, expected it: pip install 'alignprune[ray]'"
            ) from error
        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        self._arguments = (work, os.getcwd())
        # A generator: the task is heard of when it starts, which is not when it is submitted.
        self._task = ray.remote(_task).options(
            num_returns="streaming",
            num_cpus=cpus,
            num_gpus=gpus,
            max_retries=0,
            runtime_env={"env_vars": _thread_variables(threads)},
        )
        self._running: dict[Any, Job] = {}

    def free(self) -> bool:
        return True

    def submit(self, job: Job) -> None:
        self._running[self._task.remote(job, *self._arguments)] = job

    def wait(self) -> tuple[Job, _Event] | None:
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=POLL)
        if not ready:
            return None
        task: Any = ready[0]
        try:
            event: _Event = self._ray.get(next(task))
        except self._ray.exceptions.RayError as error:
            event = _Event("died", f"{type(error).__name__}: {error}")
        job = self._running[task]
        if event.kind != "started":
            del self._running[task]
        return job, event

    def close(self) -> None:
        for task in self._running:
            self._ray.cancel(task, force=True)
        if self._ours:
            self._ray.shutdown()


def _task(job: Job, work: Work, directory: str) -> Iterator[_Event]:
    os.chdir(directory)  # relative paths mean the same on every node
    yield from _attempt(job, work)
