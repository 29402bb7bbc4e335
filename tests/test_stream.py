"""The stream filter: a bit a sample, the same epoch as by the sampler, on one rank and on two."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import alignprune as ap
import launch
from alignprune.stream import StreamFilter

# This file is also the program of the ranks, see the end.

WORLD, N, EPOCHS, BATCH = 2, 61, 6, 4
TABLE = torch.rand(EPOCHS, N, generator=torch.Generator().manual_seed(0)) + 0.1
ORDER = torch.randperm(N, generator=torch.Generator().manual_seed(1)).tolist()  # of the stream
STOP = (3, 2)  # a state is taken in this epoch, after as many batches

without_distributed = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch is built without distributed"
)


def make(preset: str = "infobatch", **settings: Any) -> ap.Pruner:
    return ap.Pruner.from_preset(preset, num_samples=N, epochs=EPOCHS, **settings)


def batches(pruner: ap.Pruner, shard: list[int]) -> Iterator[torch.Tensor]:
    """What a loader over a rank's part of the stream yields."""
    kept = [sample for sample in shard if pruner.stream(sample)]
    for start in range(0, len(kept), BATCH):
        yield torch.tensor(kept[start : start + BATCH])


def train(pruner: ap.Pruner, shard: list[int], stop: tuple[int, int] | None = None) -> dict[str, Any]:
    log: dict[str, Any] = {"read": {}, "selected": {}, "state": None}
    for epoch in range(pruner.epoch, EPOCHS):
        log["selected"][epoch], log["read"][epoch] = pruner.selection.indices.tolist(), []
        for done, index in enumerate(batches(pruner, shard), 1):
            pruner.reduce(index, TABLE[epoch, index])
            log["read"][epoch] += index.tolist()
            if (epoch, done) == stop:
                log["state"] = pruner.state_dict()
        pruner.end_epoch()
    log["final"] = pruner.scores
    return log


def by_sampler() -> dict[str, Any]:
    pruner = make()
    selected = {}
    for epoch in range(EPOCHS):
        selected[epoch] = pruner.selection.indices.tolist()
        index = torch.tensor(list(pruner.sampler))
        pruner.reduce(index, TABLE[epoch, index])
        pruner.end_epoch()
    return {"selected": selected, "final": pruner.scores}


# One process.


@given(st.integers(1, 40), st.data())
def test_a_sample_passes_if_and_only_if_it_was_planned(size: int, data: st.DataObject) -> None:
    stream = StreamFilter(size)
    assert not any(stream(i) for i in range(size))
    for _ in range(2):
        planned = data.draw(st.sets(st.integers(0, size - 1)))
        out = data.draw(st.sets(st.integers(0, size - 1)))
        stream.plan(torch.tensor(sorted(planned), dtype=torch.int64))
        assert [stream(i) for i in range(size)] == [i in planned for i in range(size)]
        stream.leave_out(torch.tensor(sorted(out), dtype=torch.int64))
        expected = [i in planned - out for i in range(size)]
        assert [stream(np.int32(i)) for i in range(size)] == expected
        for ids in (torch.arange(size), np.arange(size, dtype=np.uint32), np.arange(size)):
            assert stream.of(ids).tolist() == expected


def test_an_epoch_by_the_stream_is_the_epoch_by_the_sampler() -> None:
    pruner = make()
    assert pruner.stream is pruner.stream
    by_stream, expected = train(pruner, ORDER), by_sampler()
    assert by_stream["selected"] == expected["selected"]
    assert torch.equal(by_stream["final"], expected["final"])
    assert min(len(kept) for kept in expected["selected"].values()) < N
    for epoch, kept in expected["selected"].items():
        assert by_stream["read"][epoch] == [sample for sample in ORDER if sample in set(kept)]
    assert not any(pruner.stream(i) for i in range(N))  # the training is over


def test_a_training_that_is_resumed_reads_what_it_had_not_read() -> None:
    whole_pruner = make()
    _ = whole_pruner.stream
    whole = train(whole_pruner, ORDER, STOP)
    resumed = make()
    _ = resumed.stream
    resumed.load_state_dict(whole["state"])
    rest = train(resumed, ORDER)
    epoch, done = STOP
    assert rest["read"][epoch] == whole["read"][epoch][done * BATCH :]
    for later in range(epoch + 1, EPOCHS):
        assert rest["read"][later] == whole["read"][later]
    assert torch.equal(rest["final"], whole["final"])


def test_progress_counts_the_stream_on_one_rank() -> None:
    pruner = make()
    index = next(batches(pruner, ORDER))
    pruner.reduce(index, TABLE[0, index])
    assert pruner.progress == Fraction(BATCH, N * EPOCHS)


def test_a_stream_that_was_read_in_part_or_twice_is_refused() -> None:
    pruner = make()
    for index in batches(pruner, ORDER[: N // 2]):
        pruner.reduce(index, TABLE[0, index])
    with pytest.raises(RuntimeError, match="epoch 0 was read in part: 30 of 61 selected samples, on 1 rank"):
        pruner.end_epoch()
    again = next(batches(pruner, ORDER))
    with pytest.raises(RuntimeError, match="which were read in epoch 0 already"):
        pruner.reduce(again, TABLE[0, again])


def test_the_stream_is_asked_for_before_the_first_step() -> None:
    pruner = make()
    pruner.reduce(torch.tensor([1, 2]), torch.ones(2))
    with pytest.raises(RuntimeError, match="pruner.stream is first asked for in epoch 0, after 2 samples were read"):
        _ = pruner.stream


def test_a_method_that_reads_pruned_samples_has_no_stream() -> None:
    with pytest.raises(ValueError, match="needs the losses of pruned samples too, expected one that does not"):
        _ = make("ies").stream


@pytest.mark.parametrize("sample", [N, -1])
def test_an_id_outside_of_the_data_set_is_refused(sample: int) -> None:
    stream = make().stream
    with pytest.raises(ValueError, match=f"id={sample} is out of range, expected 0 to 60: make the Pruner with num"):
        stream(sample)
    with pytest.raises(ValueError, match="ids reach from .*expected 0 to 60"):
        stream.of(torch.tensor([0, sample]))


def test_an_id_that_is_no_integer_is_refused() -> None:
    stream = make().stream
    with pytest.raises(TypeError, match="id='cat.jpg' is str, expected an integer.*integrations.streams.Keys"):
        stream("cat.jpg")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="ids are float64, expected integers"):
        stream.of(np.zeros(3))


def test_a_copy_is_the_filter_itself_and_a_pickle_is_refused() -> None:
    stream = make().stream
    assert copy.deepcopy({"filter": stream})["filter"] is stream
    with pytest.raises(RuntimeError, match="a StreamFilter was to be pickled, expected it to be shared"):
        pickle.dumps(stream)


def child(stream: StreamFilter, ask: Any, answer: Any) -> None:
    while ask.get():
        answer.put([stream(i) for i in range(N)])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_that_lives_on_sees_every_epoch(method: str) -> None:
    if method not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform does not start processes by {method}")
    pruner = make()
    context = torch.multiprocessing.get_context(method)
    ask, answer = context.Queue(), context.Queue()
    process = context.Process(target=child, args=(pruner.stream, ask, answer))
    process.start()
    for epoch in range(EPOCHS):
        ask.put(True)
        assert np.flatnonzero(answer.get()).tolist() == pruner.selection.indices.tolist()
        for index in batches(pruner, ORDER):
            pruner.reduce(index, TABLE[epoch, index])
        pruner.end_epoch()
    ask.put(False)
    process.join()
    assert process.exitcode == 0


# Two ranks, each with its own shards: uneven, and in another order.


def shard(rank: int) -> list[int]:
    return ORDER[:40] if rank == 0 else ORDER[40:]


def error_of(pruner: ap.Pruner, own: list[int]) -> str:
    for index in batches(pruner, own):
        pruner.reduce(index, TABLE[0, index])
    try:
        pruner.end_epoch()
    except RuntimeError as error:
        return str(error)
    return "no error"


def main(folder: Path, rank: int) -> None:
    launch.join(folder, rank, WORLD)
    pruner = make()
    found: dict[str, Any] = train(pruner, shard(rank), STOP)
    resumed = make()
    _ = resumed.stream
    resumed.load_state_dict(found["state"])
    found["resumed"] = train(resumed, shard(rank))
    found["everybody reads all"] = error_of(make(), ORDER)
    found["one shard is missing"] = error_of(make(), shard(rank)[:20])
    found["a batch is dropped"] = error_of(make(), shard(rank)[:-1])
    pruner = make()
    index = next(batches(pruner, shard(rank)))
    pruner.reduce(index, TABLE[0, index])
    found["progress"] = float(pruner.progress)
    launch.write(folder, rank, WORLD, found)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return launch.results(__file__, tmp_path_factory, WORLD)


@without_distributed
def test_ranks_with_their_own_shards_are_one_run(ranks: list[dict[str, Any]]) -> None:
    expected = by_sampler()
    for rank in ranks:
        assert rank["selected"] == expected["selected"]
        assert torch.equal(rank["final"], expected["final"])
    for epoch, kept in expected["selected"].items():
        assert sorted(ranks[0]["read"][epoch] + ranks[1]["read"][epoch]) == kept
        assert set(ranks[0]["read"][epoch]) <= set(shard(0))


@without_distributed
def test_ranks_that_are_resumed_read_the_rest_of_their_shards(ranks: list[dict[str, Any]]) -> None:
    epoch, done = STOP
    for rank in ranks:
        assert rank["resumed"]["read"][epoch] == rank["read"][epoch][done * BATCH :]
        assert rank["resumed"]["read"][EPOCHS - 1] == rank["read"][EPOCHS - 1]
        assert torch.equal(rank["resumed"]["final"], rank["final"])


@without_distributed
def test_what_is_lost_or_read_twice_is_reported_in_the_first_epoch_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert "61 samples were read by more than one of 2 ranks" in rank["everybody reads all"]
        assert "a stream is split by node first" in rank["everybody reads all"]
        assert "epoch 0 was read in part: 40 of 61 selected samples, on 2 ranks" in rank["one shard is missing"]
        assert rank["a batch is dropped"] == "no error"


@without_distributed
def test_the_learning_rates_of_ranks_cannot_differ_though_their_shards_do(ranks: list[dict[str, Any]]) -> None:
    assert [rank["progress"] for rank in ranks] == [0.0, 0.0]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
