"""Ranks of a run: killed, failed and hanging ones, another number of them, and what they do and say as one."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import launch
from alignprune.bench.run import checkpoint, ranks
from alignprune.bench.run.config import configure
from alignprune.bench.run.folder import RunFolder
from alignprune.bench.run.progress import Progress
from alignprune.bench.run.settings import MachineSettings
from alignprune.bench.run.training import train
from alignprune.cli import main
from alignprune.errors import ExistingFile, LostRank, UserError, ValueMistake

# This file is also the program of the ranks (see the end): a start of them takes seconds, so each does several things.

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is built without distributed")

TRAIN, TEST, EPOCHS, BATCH = 360, 90, 6, 60  # even shares for one, two and three ranks
KILLED, HANGS, FAILS = "killed", "hangs", "fails"


def make_data(file: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(TRAIN + TEST) % 3
    x = (rng.normal(size=(3, 5))[y] + rng.normal(size=(len(y), 5))).astype(np.float32)
    np.savez(file, x_train=x[:TRAIN], y_train=y[:TRAIN], x_test=x[TRAIN:], y_test=y[TRAIN:])


def settings(folder: Path, name: str) -> dict[str, Any]:
    """A run in a folder of that name; `robust` leaves out half of the samples, by what it has seen of their losses."""
    return {
        "dataset": str(folder / "own.npz"),
        "method": "robust",
        "noise": "symmetric",
        "noise_rate": 0.3,
        "device": "cpu",
        "out": str(folder / name),
        "resume": True,
        "recipe.epochs": EPOCHS,
        "recipe.batch_size": BATCH,
        "recipe.lr": 0.02,
    }


def words(folder: Path, name: str) -> list[str]:
    """The same as words for the command line."""
    pairs = dict(settings(folder, name))
    del pairs["resume"]
    options = [word for option, value in pairs.items() if option != "dataset" for word in _option(option, value)]
    return ["train", pairs["dataset"], *options, "--resume"]


def _option(name: str, value: Any) -> tuple[str, str]:
    return f"--{name.replace('_', '-')}", str(value)


# -------------------------------------------------------------------------- what the ranks run


def befalls(fault: str, epoch: int) -> None:
    """Let something happen to this rank, which is not the first, in the middle of an epoch, counted from 0."""

    def step(self: Progress, at: int, number: int, steps: int) -> None:
        if (at, number) != (epoch, 1):
            return
        if fault == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == FAILS:
            raise RuntimeError("a fault of one rank")
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        while True:
            time.sleep(1)

    Progress.step = step  # type: ignore[method-assign]


def written(folder: Path) -> list[str]:
    """A list that grows with the files and folders that this process writes into a folder."""
    found: list[str] = []

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
        opened = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if (changes or opened) and str(arguments[0]).startswith(str(folder)):
            found.append(f"{event} {arguments[0]}")

    sys.addaudithook(look)
    return found


def under_torchrun(folder: Path) -> int:
    """Something befalls the second rank in every start but the last, in which mistakes are made."""
    start, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])
    if start == 3:
        return mistaken(folder, rank)

    seen = written(folder / "disturbed") if rank else []
    if rank and start < 2:
        befalls(*((KILLED, 2), (HANGS, 4))[start])
    patience = ["--rank-timeout", "0.15"] if start == 1 else []
    code = main([*words(folder, "disturbed"), "--devices", "2", *patience])
    if code:
        return code
    assert main(words(folder, "undisturbed")) == 0
    (folder / f"seen{rank}.json").write_text(json.dumps(seen))
    if rank:
        befalls(FAILS, 2)
    return main(words(folder, "elastic"))


def without_torchrun(folder: Path) -> int:
    """Three ranks that nobody watches finish a run; in another the last one is killed."""
    assert main([*words(folder, "elastic"), "--devices", "3"]) == 0
    if os.environ["LOCAL_RANK"] == "2":
        befalls(KILLED, 1)
    return main([*words(folder, "abandoned"), "--devices", "3", "--batch-size", "64"])


def mistaken(folder: Path, rank: int) -> int:
    """A mistake that both ranks make, and one that only the second makes."""
    assert main([*words(folder, "mistaken"), "--recipe.momentun", "1"]) == 2
    assert rank == 0 or main([*words(folder, "mistaken"), "--recipe.lr", "fast"]) == 2
    as_one(folder, rank)
    return 0


def failure_of(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def mistake_of(rank: int, *mistaken: int) -> None:
    if rank in mistaken:
        raise ValueMistake("lr=-1 is out of range")


def draws() -> list[float]:
    return [float(torch.rand(())), float(np.random.rand()), random.random()]


def as_one(folder: Path, rank: int) -> None:
    launch.join(folder, rank, 2)
    out: dict[str, Any] = {
        "nobody": failure_of(lambda: ranks.agreed(lambda: mistake_of(rank))),
        "everybody": failure_of(lambda: ranks.agreed(lambda: mistake_of(rank, 0, 1))),
        "the second": failure_of(lambda: ranks.agreed(lambda: mistake_of(rank, 1))),
        "own": ranks.agreed(lambda: rank),
        "of the first": ranks.of_the_first(lambda: {"rank": rank, "values": torch.arange(3)}),
        "the first fails": failure_of(lambda: ranks.of_the_first(lambda: mistake_of(rank, 0))),
        "of all": ranks.of_all(rank),
    }
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(rank)
    out["state"] = checkpoint.collect({})
    out["draws"] = draws()
    checkpoint.restore({}, out["state"])
    out["draws again"] = draws()
    launch.save(folder, rank, 2, out)


# -------------------------------------------------------------------------- the tests


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def untimed(record: dict[str, Any]) -> dict[str, Any]:
    own = ("seal", "metrics_digest")  # of files that hold times
    return {name: value for name, value in record.items() if "second" not in name and name not in own}


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """The folder of the runs, what torchrun returned, and all that was printed."""
    folder = tmp_path_factory.mktemp("disturbed")
    make_data(folder / "own.npz")
    return folder, *launch.torchrun(__file__, folder, 2, "torchrun", restarts=3)


def test_a_run_whose_ranks_are_killed_and_hang_ends_as_one_that_nothing_befell(
    disturbed: tuple[Path, int, str],
) -> None:
    folder, code, said = disturbed
    assert code == 0, said
    results = [json.loads((folder / name / "result.json").read_text()) for name in ("disturbed", "undisturbed")]
    assert untimed(results[0]) == untimed(results[1])
    runs = [[untimed(row) for row in rows_of(folder / name)] for name in ("disturbed", "undisturbed")]
    assert runs[0] == runs[1]
    assert [row["epoch"] for row in runs[0]] == [1, 2, 3, 4, 5, 6]


def test_a_rank_that_hangs_is_reported_by_the_one_that_waits_for_it(disturbed: tuple[Path, int, str]) -> None:
    said = disturbed[2]
    assert "error: rank_timeout=0.15 minutes have passed, in which rank 0 of 2 waited for another" in said, said


def test_every_start_says_whether_it_begins_or_goes_on(disturbed: tuple[Path, int, str]) -> None:
    folder, _, said = disturbed
    assert said.count(f"no run in {folder / 'disturbed'}: beginning one\n") == 1, said
    assert f"going on in epoch 3 of 6, from {folder / 'disturbed'}\n" in said
    assert f"no run in {folder / 'undisturbed'}: beginning one\n" in said


def test_the_first_rank_alone_writes_to_the_folder(disturbed: tuple[Path, int, str]) -> None:
    assert json.loads((disturbed[0] / "seen1.json").read_text()) == []


class Stop(Exception):
    """What a killed run looks like to this test."""


class StopIn(Progress):
    """Interrupts a run in an epoch, counted from 0, and keeps what is noted."""

    def __init__(self, epoch: int) -> None:
        self.epoch_of_stop, self.notes = epoch, list[str]()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, epoch: int, step: int, steps: int) -> None:
        if epoch == self.epoch_of_stop:
            raise Stop


def test_a_run_of_two_ranks_goes_on_on_one_and_ends_on_three(
    disturbed: tuple[Path, int, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, _, said = disturbed
    assert "RuntimeError: a fault of one rank" in said, said
    assert len(rows_of(folder / "elastic")) == 2
    stopped = StopIn(4)
    with pytest.raises(Stop):
        train(configure(settings(folder, "elastic")), stopped)
    assert stopped.notes[-1] == f"going on in epoch 3 of 6, from {folder / 'elastic'}"
    assert len(rows_of(folder / "elastic")) == 4

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environments = [where | {"LOCAL_RANK": str(rank)} for rank in range(3)]
    codes, said = launch.started(__file__, folder, 3, "alone", environments=environments)
    assert codes == [1, 1, -signal.SIGKILL], said  # the end of a run that the last rank was killed in
    for rank in (0, 1):
        assert f"error: rank {rank} of 3 has lost another, which has ended" in said, said
    assert said.count("batches of 63 samples in place of 64: 21 on each of 3 ranks\n") == 1, said

    alone = train(configure(settings(folder, "one rank")))
    elastic = json.loads((folder / "elastic" / "result.json").read_text())
    assert elastic["accuracy"] == pytest.approx(alone["accuracy"], abs=0.03)
    for name in ("forward_passes", "trained_fraction", "pruned_share", "kept_noise", "epochs"):
        assert elastic[name] == alone[name], name
    for one, other in zip(rows_of(folder / "elastic"), rows_of(folder / "one rank"), strict=True):
        for name in ("forward_passes", "pruned_share", "kept_noise", "suspects"):
            assert one[name] == other[name], (one["epoch"], name)
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)


def test_a_mistake_of_all_ranks_is_said_once_and_that_of_one_rank_is_said(disturbed: tuple[Path, int, str]) -> None:
    folder, _, said = disturbed
    assert said.count("Unrecognized options: --recipe.momentun") == 1, said
    assert said.count("fast") == 1, said
    assert not (folder / "mistaken").exists()


@pytest.fixture(scope="module")
def pair(disturbed: tuple[Path, int, str]) -> list[dict[str, Any]]:
    """What each of two ranks found."""
    return [torch.load(disturbed[0] / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_work_that_fails_on_one_rank_ends_on_all(pair: list[dict[str, Any]]) -> None:
    own = "ValueMistake: lr=-1 is out of range"
    others = [f"LostRank: rank {rank} of 2 has failed ({own}), expected none to: see its error" for rank in (0, 1)]
    assert [rank["nobody"] for rank in pair] == ["none", "none"]
    assert [rank["everybody"] for rank in pair] == [own, own]
    assert [rank["the second"] for rank in pair] == [others[1], own]
    assert [rank["the first fails"] for rank in pair] == [own, others[0]]


def test_ranks_have_their_own_and_what_the_first_has(pair: list[dict[str, Any]]) -> None:
    assert [rank["own"] for rank in pair] == [0, 1]
    assert [rank["of all"] for rank in pair] == [[0, 1], [0, 1]]
    for rank in pair:
        assert rank["of the first"]["rank"] == 0
        assert rank["of the first"]["values"].tolist() == [0, 1, 2]


def test_every_rank_draws_on_as_it_would_have_and_a_new_one_as_the_first(pair: list[dict[str, Any]]) -> None:
    assert pair[0]["draws"] != pair[1]["draws"]
    for rank in pair:
        assert rank["draws again"] == rank["draws"]
    for rank in pair:  # the state is the same on both
        checkpoint.restore({}, rank["state"])
        assert draws() == pair[0]["draws"]


def test_a_rank_that_does_not_come_ends_the_run_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "LOCAL_RANK": "0", "NODE_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    machine = MachineSettings(device="cpu", devices=2, rank_timeout=0.02)
    with pytest.raises(LostRank, match="rank_timeout=0.02 minutes have passed, in which rank 0 of 2 waited"):
        with ranks.together(machine):
            raise AssertionError("one rank is not two")


def test_ranks_are_as_many_as_torchrun_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MachineSettings().devices == 1
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert MachineSettings().devices == 3
    with pytest.raises(UserError, match="devices=2 is given, but torchrun has started 3 ranks, expected as many"):
        with ranks.together(MachineSettings(device="cpu", devices=2)):
            raise AssertionError("two ranks are not three")


def test_what_needs_all_samples_on_one_rank_is_refused_by_name_on_several(tmp_path: Path) -> None:
    full = settings(tmp_path, "run") | {"method": "full", "devices": 2}
    for name, value in {"trace": True, "collect": True, "folds": 3}.items():
        with pytest.raises(ValueError, match=f"{name}={value} is given .*on 2 devices, .*expected"):
            configure(full | {name: value})


# -------------------------------------------------------------------------- --resume, on one rank


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_from_its_start(tmp_path: Path) -> None:
    make_data(tmp_path / "own.npz")
    for stop in (StopIn(0), StopIn(0)):
        with pytest.raises(Stop):
            train(configure(settings(tmp_path, "run")), stop)
    last = StopIn(EPOCHS)
    begun = train(configure(settings(tmp_path, "run")), last)
    whole = train(configure(settings(tmp_path, "whole") | {"resume": False}))
    assert untimed(begun) == untimed(whole)
    assert last.notes == [f"no checkpoint in {tmp_path / 'run'}: beginning one"]

    again = StopIn(EPOCHS)
    assert train(configure(settings(tmp_path, "run") | {"devices": 1, "rank_timeout": 1}), again) == begun
    assert again.notes == [f"all epochs of the run in {tmp_path / 'run'} are done"]


@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint.previous.pt", "result.json"])
@pytest.mark.parametrize("resume", [True, False])
def test_a_part_of_a_run_without_its_settings_is_refused(name: str, resume: bool, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ExistingFile, match=f"holds {name} without the config.json of its run, expected both or none"):
        RunFolder(tmp_path, {"seed": 0}, resume=resume)
    assert {file.name for file in tmp_path.iterdir()} <= {name, ".lock"}


if __name__ == "__main__":
    sys.exit({"torchrun": under_torchrun, "alone": without_torchrun}[sys.argv[-1]](Path(sys.argv[1])))
