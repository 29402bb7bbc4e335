"""Sweeps run every job once, in the order of their needs, whatever fails, dies or is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from alignprune import errors
from alignprune.bench.grid.sweep import Job, Report, Summary, Work, run

# This file is also the module that workers import `work` from, and the program of the sweeps that are killed.

PATIENCE = 600  # seconds after which a process that answers within a few is taken to hang, however busy the machine is


def work(job: Job) -> None:
    """Do what the job's settings say, and write down each attempt and what it finds."""
    with open(job.folder / "attempts", "a") as file:
        file.write(f"{os.getpid()}\n")
    attempt = attempts(job)
    print(f"attempt {attempt}")
    os.system("echo native")
    settings = job.settings
    if attempt <= settings.get("die", 0):
        os.kill(os.getpid(), signal.SIGKILL)
    if "write" in settings:
        for name, content in settings["write"].items():
            (job.folder / name).write_text(content)
    if attempt <= settings.get("fail", 0):
        raise ValueError(f"attempt {attempt} of {job.name}")
    if "mistake" in settings:
        raise getattr(errors, settings["mistake"])(f"attempt {attempt} of {job.name}")
    if "import" in settings:
        import_module(settings["import"])
    if "touch" in settings:
        Path(settings["touch"]).touch()
    if settings.get("interrupt"):
        os.kill(os.getpid(), signal.SIGINT)
    if "await" in settings:
        try:
            (job.folder / "waits").touch()
            wait_for(Path(settings["await"]))
        finally:
            (job.folder / "cleaned up").touch()
    if "kill" in settings:
        os.kill(settings["kill"], signal.SIGKILL)
    result = {
        "threads": os.environ["OMP_NUM_THREADS"],
        "needs": [(need / "result.json").exists() for need in job.needs],
        "node": ray_node() if settings.get("ray") else None,
    }
    (job.folder / "result.json").write_text(json.dumps(result))


def ray_node() -> str:
    import ray

    return ray.get_runtime_context().get_node_id()


def wait_for(file: Path) -> None:
    until = time.monotonic() + PATIENCE
    while not file.exists():
        assert time.monotonic() < until, f"{file} does not appear"
        time.sleep(0.02)


def job(name: str, root: Path, *needs: str, **settings: Any) -> Job:
    return Job(name, root / name, f"key of {name}", "test", 0, settings, tuple(root / need for need in needs))


def processes(job: Job) -> list[str]:
    """The process of each attempt."""
    return (job.folder / "attempts").read_text().split()


def attempts(job: Job) -> int:
    return len(processes(job))


def result(job: Job) -> dict[str, Any]:
    return json.loads((job.folder / "result.json").read_text())


def names(jobs: tuple[Job, ...]) -> set[str]:
    return {job.name for job in jobs}


class Diary(Report):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.entries: list[tuple[Any, ...]] = []

    def started(self, job: Job) -> None:
        self.entries.append(("started", job.name))

    def finished(self, job: Job, seconds: float) -> None:
        assert 0 < seconds < PATIENCE
        self.entries.append(("finished", job.name))

    def skipped(self, job: Job) -> None:
        self.entries.append(("skipped", job.name))

    def failed(self, job: Job, error: str, attempt: int, final: bool) -> None:
        self.entries.append(("failed", job.name, error, attempt, final))

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [(what, *rest) for what, about, *rest in self.entries if about == name]


@pytest.fixture(scope="module")
def importable() -> Iterator[Work]:
    """`work` by a name under which another process finds it, which is not the one that pytest gives this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        yield import_module(Path(__file__).stem).work


# -- one sweep with everything that can happen to a job ----------------------------------------------------


class Swept:
    """A sweep of two workers over good and bad jobs."""

    def __init__(self, root: Path, work: Work) -> None:
        jobs = [
            job("last", root, "left", "right"),
            job("left", root, "base"),
            job("right", root, "base", "old"),
            job("hopeless", root, fail=9),
            job("blocked", root, "hopeless"),
            job("blocked too", root, "blocked", "base"),
            job("base", root, interrupt=True),
            job("flaky", root, fail=1),
            job("fatal", root, die=1),
            job("old", root),
            job("mistaken", root, mistake="MissingFile"),
            job("without a library", root, **{"import": "no_such_library"}),
        ]
        self.jobs = {job.name: job for job in jobs}
        old = self.jobs["old"].folder
        old.mkdir()
        (old / "result.json").write_text("{}")
        for left in ("error.json", ".holder"):  # its process died before it took these away
            (old / left).write_text("{}")
        self.diary = Diary()
        environment = dict(os.environ)
        self.summary = run([*jobs, jobs[0]], work, workers=2, retries=1, threads=3, report=self.diary)
        assert os.environ == environment

    def __getitem__(self, name: str) -> Job:
        return self.jobs[name]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, importable: Work) -> Swept:
    return Swept(tmp_path_factory.mktemp("swept"), importable)


def test_a_job_starts_when_all_that_it_needs_is_complete(swept: Swept) -> None:
    for name, needs in {"last": 2, "left": 1, "right": 2}.items():
        assert result(swept[name])["needs"] == [True] * needs


def test_every_job_ends_in_one_of_four_ways(swept: Swept) -> None:
    assert names(swept.summary.done) == {"base", "left", "right", "last", "flaky", "fatal"}
    assert names(swept.summary.skipped) == {"old"}
    assert {job.name: error for job, error in swept.summary.failed} == {
        "hopeless": "ValueError: attempt 2 of hopeless",
        "mistaken": "MissingFile: attempt 1 of mistaken",
        "without a library": "ModuleNotFoundError: No module named 'no_such_library'",
    }
    assert names(swept.summary.blocked) == {"blocked", "blocked too"}
    assert not swept["blocked"].folder.exists()


def test_a_job_given_twice_runs_once_and_a_complete_one_never(swept: Swept) -> None:
    assert attempts(swept["last"]) == 1
    assert not (swept["old"].folder / "attempts").exists()


def test_a_failed_job_is_tried_again_as_often_as_told(swept: Swept) -> None:
    assert attempts(swept["flaky"]) == attempts(swept["fatal"]) == attempts(swept["hopeless"]) == 2


def test_a_mistake_that_a_user_has_to_mend_is_not_tried_again(swept: Swept) -> None:
    assert attempts(swept["mistaken"]) == attempts(swept["without a library"]) == 1
    assert swept.diary.of("mistaken") == [("started",), ("failed", "MissingFile: attempt 1 of mistaken", 1, True)]


def test_an_interrupt_that_reaches_a_worker_is_left_to_the_sweep(swept: Swept) -> None:
    assert attempts(swept["base"]) == 1


def test_the_error_stays_in_the_folder_until_the_job_succeeds(swept: Swept) -> None:
    error = json.loads((swept["hopeless"].folder / "error.json").read_text())
    assert error["error"] == "ValueError: attempt 2 of hopeless"
    assert error["attempts"] == 2
    assert 'raise ValueError(f"attempt {attempt} of {job.name}")' in error["traceback"]
    for name in ("flaky", "fatal", "old"):
        assert not (swept[name].folder / "error.json").exists()
        assert not (swept[name].folder / ".holder").exists()


def test_the_report_hears_of_every_attempt(swept: Swept) -> None:
    assert swept.diary.of("base") == [("started",), ("finished",)]
    assert swept.diary.of("old") == [("skipped",)]
    assert swept.diary.of("hopeless") == [
        ("started",),
        ("failed", "ValueError: attempt 1 of hopeless", 1, False),
        ("started",),
        ("failed", "ValueError: attempt 2 of hopeless", 2, True),
    ]
    started, (failed, error, *which), *rest = swept.diary.of("fatal")
    assert (started, failed, which, rest) == (("started",), "failed", [1, False], [("started",), ("finished",)])
    assert "WorkerDied: the process of the job was killed by SIGKILL" in error


def test_the_log_holds_the_output_of_all_attempts(swept: Swept) -> None:
    lines = (swept["flaky"].folder / "log.txt").read_text().splitlines()
    assert lines[:2] == ["attempt 1", "native"]
    assert "ValueError: attempt 1 of flaky" in lines
    assert lines[-2:] == ["attempt 2", "native"]


def test_processes_are_kept_from_job_to_job_until_one_may_be_unfit(swept: Swept) -> None:
    failed = [job for job, _ in swept.summary.failed]
    failures = [processes(swept["flaky"])[0], processes(swept["fatal"])[0], *processes(swept["hopeless"])]
    assert len(set(failures)) == 4
    assert len({process for job in [*swept.summary.done, *failed] for process in processes(job)}) <= 2 + 4


def test_processes_have_the_threads_that_they_are_told(swept: Swept) -> None:
    assert {result(job)["threads"] for job in swept.summary.done} == {"3"}


# -- what a failure leaves, and finds ----------------------------------------------------------------------

DAMAGED = ["", '{"error": "x", "atte', "[1, 2]", "null", '"text"', "7", "{}", '{"attempts": "3"}', '{"attempts": null}']


def test_a_damaged_error_file_counts_as_none(tmp_path: Path, importable: Work) -> None:
    contents = {f"job {i}": text for i, text in enumerate([*DAMAGED, "[" * 100_000])} | {"whole": '{"attempts": 4}'}
    jobs = [job(name, tmp_path, mistake="ValueMistake", write={"error.json": text}) for name, text in contents.items()]
    summary = run(jobs, importable)
    assert [error for _, error in summary.failed] == [f"ValueMistake: attempt 1 of {job.name}" for job in jobs]
    counted = {job.name: json.loads((job.folder / "error.json").read_text())["attempts"] for job in jobs}
    assert counted == {name: 5 if name == "whole" else 1 for name in contents}


def test_a_folder_in_which_nothing_can_be_written_fails_its_own_job_alone(tmp_path: Path, importable: Work) -> None:
    (tmp_path / "file").touch()
    record = job("record", tmp_path, mistake="ValueMistake")
    log, below = job("log", tmp_path), job("file/below", tmp_path)
    (log.folder / "log.txt").mkdir(parents=True)
    (record.folder / "error.json").mkdir(parents=True)
    summary = run([record, log, below, job("good", tmp_path)], importable, retries=0)
    assert names(summary.done) == {"good"}
    said, *others = [error for _, error in summary.failed]
    assert said.startswith("ValueMistake: attempt 1 of record (and ")
    assert "record/error.json could not be written" in said
    assert [error.partition(":")[0] for error in others] == ["IsADirectoryError", "NotADirectoryError"]


# -- sweeps that are interrupted, and sweeps at the same time ----------------------------------------------


def start_elsewhere(root: Path, jobs: list[Job], workers: int) -> subprocess.Popen[str]:
    """A sweep in a process of its own."""
    plan = [(job.name, [need.name for need in job.needs], job.settings) for job in jobs]
    return subprocess.Popen(
        [sys.executable, __file__, str(root), str(workers), json.dumps(plan)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def all_gone(process: subprocess.Popen[str]) -> str:
    """Wait until no process is left that has the sweep's output open, its workers among them; returns its errors."""
    return process.communicate(timeout=PATIENCE)[1]


def test_two_sweeps_never_run_a_job_twice_and_one_takes_over_when_the_other_is_killed(
    tmp_path: Path, importable: Work
) -> None:
    shared = job("shared", tmp_path, **{"await": str(tmp_path / "go")})
    left = job("left", tmp_path, **{"await": str(tmp_path / "never")})
    other = start_elsewhere(tmp_path, [shared, left], workers=2)
    for held in (shared, left):
        wait_for(held.folder / "waits")
    # Lets the other sweep finish one job, then kills it in the middle of the second.
    steps = {"touch": str(tmp_path / "go"), "await": str(shared.folder / "result.json"), "kill": other.pid}
    killer = job("killer", tmp_path, **steps)
    left, after = job("left", tmp_path), job("after", tmp_path, "shared")
    summary = run([shared, left, killer, after], importable)
    all_gone(other)
    assert summary == Summary(done=summary.done, skipped=(shared,))
    assert names(summary.done) == {"killer", "after", "left"}
    assert attempts(shared) == 1
    assert attempts(left) == 2
    # The orphan went at once; it did not run into its own time limit.
    assert (left.folder / "log.txt").read_text().split("\n") == ["attempt 1", "native", "attempt 2", "native", ""]


def test_an_interrupted_sweep_leaves_no_process_and_the_next_call_goes_on(tmp_path: Path, importable: Work) -> None:
    first, third = job("first", tmp_path), job("third", tmp_path)
    second = job("second", tmp_path, "first", **{"await": str(tmp_path / "go")})
    jobs = [second, third, first]  # what others need goes first
    interrupted = start_elsewhere(tmp_path, jobs, workers=1)
    wait_for(second.folder / "waits")
    os.killpg(interrupted.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
    errors = all_gone(interrupted)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1  # the workers leave without a word
    assert (second.folder / "cleaned up").exists()
    assert not third.folder.exists()

    (tmp_path / "go").touch()
    assert run(jobs, importable) == Summary(done=(second, third), skipped=(first,))
    assert [attempts(each) for each in (first, second, third)] == [1, 2, 1]


# -- refused before anything runs --------------------------------------------------------------------------


def refuse(jobs: list[Job], match: str, **settings: Any) -> None:
    with pytest.raises(ValueError, match=match):
        run(jobs, work, **settings)
    assert not any(job.folder.exists() for job in jobs)


def test_needs_in_a_circle_are_refused(tmp_path: Path) -> None:
    circle = [job("free", tmp_path), job("a", tmp_path, "c"), job("b", tmp_path, "a"), job("c", tmp_path, "b")]
    refuse(circle, r"in a circle: ('[abc]' -> ){3}'[abc]': take one")
    refuse([job("self", tmp_path, "self")], "circle: 'self' -> 'self'")


def test_needs_that_no_job_provides_are_refused(tmp_path: Path) -> None:
    refuse([job("free", tmp_path), job("a", tmp_path, "free", "b")], r"job 'a' needs .*/b, which is not complete")


def test_one_folder_for_two_different_jobs_is_refused(tmp_path: Path) -> None:
    one = job("a", tmp_path)
    refuse([one, replace(one, seed=1, key="other")], "'a' and 'a' want the same folder .*/a but differ in key, seed")


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"engine": "rai"}, "engine='rai' is unknown, expected one of local, ray; did you mean 'ray'"),
        ({"workers": 0}, "workers=0 is out of range"),
        ({"retries": -1}, "retries=-1 is out of range"),
        ({"threads": 0}, "threads=0 is out of range"),
        ({"gpus": 1.0}, "gpus=1.0.* are for engine='ray'"),
        ({"engine": "ray", "workers": 4}, "workers=4 is for engine='local'"),
    ],
)
def test_settings_out_of_place_are_refused(tmp_path: Path, settings: dict[str, Any], match: str) -> None:
    refuse([job("a", tmp_path)], match, **settings)


def test_a_sweep_without_anything_to_do_starts_nothing(tmp_path: Path) -> None:
    done = job("a", tmp_path, "gone")
    done.folder.mkdir()
    (done.folder / "result.json").write_text("{}")
    assert run([done], lambda job: None) == Summary(skipped=(done,))  # no process could be given a lambda
    assert run([], work) == Summary()


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'alignprune\[ray\]'"):
        run([job("a", tmp_path)], work, engine="ray")


# -- ray: two nodes in this machine ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(importable: Work) -> Iterator[str]:
    """The address of two nodes with one CPU each."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'alignprune[ray]'")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        nodes = Cluster()
        try:
            try:
                for _ in range(2):
                    nodes.add_node(**node)
                nodes.wait_for_nodes()
            except Exception as error:  # Ray's own start: too little shared memory, no free ports, ...
                pytest.skip(f"Ray cannot start two nodes on this machine: {type(error).__name__}: {error}")
            yield nodes.address
        finally:
            nodes.shutdown()


def test_ray_runs_jobs_on_all_nodes_and_survives_what_fails_and_dies(
    tmp_path: Path, importable: Work, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.chdir(tmp_path)
    here = Path()  # relative paths mean the same to every process
    # A node has one CPU, and each of the two waits until the other has started.
    left = job("left", here, ray=True, **{"await": "right/attempts"})
    right = job("right", here, ray=True, **{"await": "left/attempts"})
    last = job("last", here, "left", "right", "flaky", "fatal")
    flaky, fatal, hopeless = job("flaky", here, fail=1), job("fatal", here, die=1), job("hopeless", here, fail=9)
    blocked = job("blocked", here, "hopeless")
    diary = Diary()
    jobs = [last, left, right, flaky, fatal, hopeless, blocked]
    summary = run(jobs, importable, engine="ray", address=cluster, threads=2, report=diary)

    assert summary == Summary(summary.done, (), ((hopeless, "ValueError: attempt 2 of hopeless"),), (blocked,))
    assert names(summary.done) == {"left", "right", "last", "flaky", "fatal"}
    assert result(left)["node"] != result(right)["node"]
    assert result(last)["needs"] == [True] * 4
    assert result(last)["threads"] == "2"
    assert attempts(flaky) == attempts(fatal) == attempts(hopeless) == 2
    assert diary.of("left") == [("started",), ("finished",)]
    assert [entry[0] for entry in diary.of("fatal")] == ["started", "failed", "started", "finished"]
    assert (left.folder / "log.txt").read_text().splitlines() == ["attempt 1", "native"]
    assert json.loads((hopeless.folder / "error.json").read_text())["attempts"] == 2
    assert not (fatal.folder / "error.json").exists()
    assert not ray.is_initialized()


if __name__ == "__main__":
    # As a terminal starts it: what a script runs in the background inherits that SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    root, workers, plan = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    run([job(name, root, *needs, **settings) for name, needs, settings in plan], work, workers=workers)
