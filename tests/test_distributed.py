"""Two ranks are one run: the same selections, scores and weights as in a single process, from few collectives."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import alignprune as ap
import launch

# This file is also the program of the ranks (see the end): all that needs two processes runs in one start of them.

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is built without distributed"),
    pytest.mark.filterwarnings("ignore:.*losses of epoch"),  # the bad losses in TABLE
]

WORLD, N, EPOCHS, BATCH = 2, 43, 8, 4
TABLE = torch.rand(EPOCHS, N, generator=torch.Generator().manual_seed(0)) + 0.1
TABLE[2, 7] = TABLE[4, 20:26] = float("nan")
COLLECTIVES = ("all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object", "broadcast", "barrier")
STOP = (4, 2)  # a state is taken in this epoch, after as many batches of each rank

METHODS: dict[str, Callable[[], ap.Pruner]] = {
    "infobatch+das": lambda: ap.Pruner.from_preset("infobatch+das", num_samples=N, epochs=EPOCHS, window=4),
    "seta+das": lambda: ap.Pruner.from_preset("seta+das", num_samples=N, epochs=EPOCHS, window=4, groups=3, alpha=0.7),
    "ies": lambda: ap.Pruner(N, EPOCHS, ap.scores.SecondDifference(smoothing=1), ap.policies.IES(threshold=0.5)),
    "robust": lambda: ap.Pruner.from_preset("robust", num_samples=N, epochs=EPOCHS, ramp=1),
    "rs2": lambda: ap.Pruner.from_preset("rs2", num_samples=N, epochs=EPOCHS, prune_ratio=0.32),
    "orderdp": lambda: ap.Pruner.from_preset("orderdp", num_samples=N, epochs=EPOCHS, prune_ratio=0.32),
    "rcap": lambda: ap.Pruner.from_preset(
        "rcap", num_samples=N, epochs=EPOCHS, labels=torch.arange(N) % 3, prune_ratio=0.32
    ),
    "repb": lambda: ap.Pruner.from_preset("repb", num_samples=N, epochs=EPOCHS, batches=2),
}
every_method = pytest.mark.parametrize("name", METHODS)


def batches(order: list[int], size: int) -> Iterator[Tensor]:
    for start in range(0, len(order), size):
        yield torch.tensor(order[start : start + size])


def train(pruner: ap.Pruner, size: int, stop: tuple[int, int] | None = None) -> dict[str, Any]:
    """Train to the end with losses that are a function of (epoch, index); returns all that a run shows."""
    log: dict[str, Any] = {"epochs": {}, "state": None}
    for epoch in range(pruner.epoch, EPOCHS):
        order, selection = list(pruner.sampler), pruner.selection
        parts = list(batches(order, size))
        for done, index in enumerate(parts, 1):
            pruner.reduce(index, TABLE[epoch, index])
            if (epoch, done) == stop:
                log["state"] = pruner.state_dict()
        if pruner.score.needs_pruned:
            for index in batches(list(pruner.pruned_sampler), size):
                pruner.record(index, TABLE[epoch, index])
        pruner.end_epoch(2.0 / (epoch + 1) if pruner.needs_reference else None)
        log["epochs"][epoch] = {
            "batches": [index.tolist() for index in parts],
            "indices": selection.indices.tolist(),
            "weights": None if selection.weights is None else selection.weights.tolist(),
            "suspects": None if selection.suspects is None else selection.suspects.tolist(),
            "scores": pruner.scores.nan_to_num(-9.0).tolist(),
            "nonfinite": pruner.nonfinite,
            "forward_passes": pruner.forward_passes,
        }
    log["final"] = pruner.state_dict()
    return log


def single(name: str) -> dict[str, Any]:
    """The same run in one process, with batches as large as those of all ranks together."""
    out = train(METHODS[name](), WORLD * BATCH, STOP)
    last = (STOP[0], len(out["epochs"][STOP[0]]["batches"]))
    out["last state"] = train(METHODS[name](), WORLD * BATCH, last)["state"]
    return out


def toy_set() -> TensorDataset:
    y = torch.arange(48) % 2
    return TensorDataset(torch.randn(48, 4, generator=torch.Generator().manual_seed(0)) + 3.0 * (y[:, None] * 2 - 1), y)


def toy_model() -> nn.Module:
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-0.1, 0.1, 8).view(2, 4))
        model.bias.zero_()
    return model


def train_a_model(model: nn.Module, size: int) -> dict[str, Any]:
    pruner = ap.Pruner.from_preset("infobatch", num_samples=48, epochs=3, delta=1.0)
    loader = pruner.loader(toy_set(), batch_size=size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    parameters, lengths, kept = [], [], []
    for _epoch in range(3):
        lengths.append(len(loader))
        kept.append(pruner.selection.indices.tolist())
        for index, (x, y) in loader:
            optimizer.zero_grad()
            pruner.reduce(index, F.cross_entropy(model(x), y, reduction="none")).backward()
            optimizer.step()
        pruner.end_epoch()
        parameters.append([p.detach().clone() for p in model.parameters()])
    return {"parameters": parameters, "lengths": lengths, "kept": kept, "scores": pruner.scores}


# -------------------------------------------------------------------------- what every rank runs


def counted() -> dict[str, int]:
    """Counts every call of a collective from here on."""
    calls = dict.fromkeys(COLLECTIVES, 0)

    def counting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted_call(*args: Any, **settings: Any) -> Any:
            calls[name] += 1
            return call(*args, **settings)

        return counted_call

    for name in COLLECTIVES:
        setattr(torch.distributed, name, counting(name, getattr(torch.distributed, name)))
    return calls


def collectives_per_epoch() -> dict[str, list[int]]:
    calls, out = counted(), {"reduce": [], "end_epoch": [], "state": []}
    pruner = METHODS["infobatch+das"]()
    for epoch in range(5):
        before = sum(calls.values())
        for index in batches(list(pruner.sampler), BATCH):
            pruner.reduce(index, TABLE[epoch, index])
        len(pruner.sampler)
        out["reduce"].append(sum(calls.values()) - before)
        pruner.end_epoch(1.0 / (epoch + 1))
        out["end_epoch"].append(sum(calls.values()) - before - out["reduce"][-1])
        before = sum(calls.values())
        pruner.state_dict()
        out["state"].append(sum(calls.values()) - before)
    return out


def error_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def an_epoch(pruner: ap.Pruner, shard: int | None = None, *, last: bool = True) -> None:
    """One epoch; of a trainer that shards the sampler once more, or whose loader drops its last batch."""
    order = list(pruner.sampler)
    parts = list(batches(order if shard is None else order[shard::WORLD], BATCH))
    for index in parts if last else parts[:-1]:
        pruner.reduce(index, TABLE[pruner.epoch, index])
    pruner.end_epoch()


def an_epoch_of_one(rank: int) -> None:
    pruner = ap.Pruner.from_preset("full", num_samples=N, epochs=3)
    if rank:
        pruner.end_epoch()
    else:
        an_epoch(pruner)


def with_other_scores(rank: int) -> ap.Pruner:
    """A pruner in its second epoch whose state was loaded on one rank from another run."""
    pruner = ap.Pruner.from_preset("infobatch", num_samples=N, epochs=3)
    an_epoch(pruner)
    state = pruner.state_dict()
    if rank:
        selection = state["selection"]
        state["selection"] = ap.Selection(torch.arange(0, N, 2), None, N).state_dict() if selection else selection
        pruner.load_state_dict(state)
    return pruner


def mapped(folder: Path, rank: int) -> dict[str, Any]:
    """A run whose bank lies in a file, under the same path on both ranks."""
    path = str(folder / "bank")
    pruner = ap.Pruner.from_preset("infobatch", num_samples=N, epochs=4, bank_path=path)
    selections = []
    for _ in range(4):
        selections.append(pruner.selection.indices.tolist())
        an_epoch(pruner)
    return {"selections": selections, "own": Path(f"{path}.rank{rank}").exists()}


def journalled(size: int, stop: tuple[int, int] | None = None) -> dict[str, Any]:
    """The journal of a run with labels and predictions, and of one that is resumed in the middle of an epoch."""

    def make() -> ap.Pruner:
        return ap.Pruner.from_preset("infobatch", num_samples=N, epochs=EPOCHS, labels=[i % 5 for i in range(N)])

    def go(pruner: ap.Pruner) -> dict[str, Any]:
        state: dict[str, Any] = {}
        for epoch in range(pruner.epoch, EPOCHS):
            for done, index in enumerate(batches(list(pruner.sampler), size), 1):
                pruner.reduce(index, TABLE[epoch, index], predictions=(index * 3 + epoch // 3) % 5)
                if (epoch, done) == stop:
                    state = pruner.state_dict()
            pruner.end_epoch()
        return {"journal": pruner.memory(ap.memory.Journal).state_dict(), "state": state}

    out = go(make())
    if stop:
        resumed = make()
        resumed.load_state_dict(out.pop("state"))
        out["resumed"] = go(resumed)["journal"]
    return out


def rank_main(folder: Path, rank: int) -> None:
    alone = {name: single(name) for name in METHODS}
    early = METHODS["infobatch+das"]()  # as where a trainer sets up the ranks
    launch.join(folder, rank, WORLD)
    out: dict[str, Any] = {"made early": train(early, BATCH)["epochs"]}
    for name, make in METHODS.items():
        out[name] = train(make(), BATCH, STOP)
        resumed = make()
        resumed.load_state_dict(out[name]["state"])
        out[name]["length left"] = len(resumed.sampler)
        out[name]["resumed"] = train(resumed, BATCH)
        # with the last batch done and the epoch not closed
        last = (STOP[0], len(out[name]["epochs"][STOP[0]]["batches"]))
        out[name]["last state"] = train(make(), BATCH, last)["state"]
        for what in ("state", "last state"):
            resumed = make()
            resumed.load_state_dict(alone[name][what])
            out[name][f"resumed from one, {what}"] = train(resumed, BATCH)
        resumed = make()
        resumed.load_state_dict(out[name]["last state"])
        out[name]["resumed at the last"] = train(resumed, BATCH)
    out["other seeds"] = error_of(
        lambda: an_epoch(ap.Pruner.from_preset("infobatch", num_samples=N, epochs=3, seed=rank))
    )
    out["other methods"] = error_of(
        lambda: an_epoch(ap.Pruner.from_preset(("infobatch", "seta")[rank], num_samples=N, epochs=3))
    )
    out["other labels"] = error_of(
        lambda: an_epoch(ap.Pruner.from_preset("robust", num_samples=N, epochs=3, labels=(None, [0] * N)[rank]))
    )
    out["other states"] = error_of(lambda: an_epoch(with_other_scores(rank)))
    out["sharded once more"] = error_of(lambda: an_epoch(ap.Pruner.from_preset("full", num_samples=N, epochs=3), rank))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        error_of(lambda: an_epoch(ap.Pruner.from_preset("full", num_samples=N, epochs=3), rank))
    out["said before the ranks meet"] = [str(warning.message) for warning in caught]
    out["one rank reads nothing"] = error_of(lambda: an_epoch_of_one(rank))
    out["a dropped batch"] = error_of(
        lambda: an_epoch(ap.Pruner.from_preset("full", num_samples=N, epochs=3), last=False)
    )
    out["bank files"] = mapped(folder, rank)
    out["journalled"] = journalled(BATCH, STOP)
    model = nn.parallel.DistributedDataParallel(toy_model())
    out["model"] = train_a_model(model, 8)
    out["collectives"] = collectives_per_epoch()
    launch.write(folder, rank, WORLD, out)


# -------------------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found."""
    return launch.results(__file__, tmp_path_factory, WORLD)


SHOWN = ("indices", "weights", "suspects", "scores", "nonfinite")


@every_method
def test_selections_weights_and_scores_are_those_of_a_single_process(ranks: list[dict[str, Any]], name: str) -> None:
    alone = single(name)["epochs"]
    lengths = [len(alone[epoch]["indices"]) for epoch in range(EPOCHS)]
    assert min(lengths) < N  # it did prune
    assert any(length % WORLD for length in lengths)  # and sizes were odd
    for result in ranks:
        for epoch in range(EPOCHS):
            for what in SHOWN:
                assert result[name]["epochs"][epoch][what] == alone[epoch][what], (epoch, what)


@every_method
def test_ranks_read_as_many_batches_and_together_the_selection(ranks: list[dict[str, Any]], name: str) -> None:
    for epoch in range(EPOCHS):
        first, second = (result[name]["epochs"][epoch]["batches"] for result in ranks)
        kept = ranks[0][name]["epochs"][epoch]["indices"]
        assert [len(part) for part in first] == [len(part) for part in second]
        read = sorted(i for part in first + second for i in part)
        assert sorted(set(read)) == kept
        assert len(read) == len(kept) + len(kept) % WORLD  # padded by at most one


@every_method
def test_batches_of_all_ranks_are_those_of_a_single_process_with_twice_the_size(
    ranks: list[dict[str, Any]], name: str
) -> None:
    alone = single(name)["epochs"]
    for epoch in range(EPOCHS):
        first, second = (result[name]["epochs"][epoch]["batches"] for result in ranks)
        padding = alone[epoch]["batches"][0][:1] if len(alone[epoch]["indices"]) % WORLD else []
        whole = [*alone[epoch]["batches"]]
        if padding and len(whole[-1]) == WORLD * BATCH:
            whole.append(padding)
        elif padding:
            whole[-1] = whole[-1] + padding
        assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == [sorted(part) for part in whole]


def test_a_pruner_that_was_made_before_the_ranks_joined_trains_like_any(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        assert result["made early"] == result["infobatch+das"]["epochs"]


@every_method
def test_forward_passes_count_what_all_ranks_read(ranks: list[dict[str, Any]], name: str) -> None:
    read = 0
    for epoch in range(EPOCHS):
        read += sum(len(part) for result in ranks for part in result[name]["epochs"][epoch]["batches"])
        if name == "ies":  # which also forwards what it left out
            read += WORLD * -(-(N - len(ranks[0][name]["epochs"][epoch]["indices"])) // WORLD)
        assert all(result[name]["epochs"][epoch]["forward_passes"] == read for result in ranks)


def tensors_of(state: dict[str, Any]) -> dict[str, Tensor]:
    every = dict(state) | state["selection"]
    for memory in state["memories"]:
        every |= memory
    return {key: value for key, value in every.items() if isinstance(value, Tensor)}


def bits(tensor: Tensor) -> Tensor:
    """The bits of a tensor, with one pattern for NaN."""
    tensor = tensor.masked_fill(tensor.isnan(), float("nan")) if tensor.is_floating_point() else tensor
    return tensor.view({torch.float32: torch.int32, torch.float64: torch.int64}.get(tensor.dtype, tensor.dtype))


@every_method
def test_states_are_those_of_a_single_process_at_the_same_moment(ranks: list[dict[str, Any]], name: str) -> None:
    alone = single(name)
    for moment in ("state", "final"):
        expected = tensors_of(alone[moment])
        assert len(expected) >= 4
        for result in ranks:
            found = tensors_of(result[name][moment])
            assert found.keys() == expected.keys()
            for key in found:
                assert torch.equal(bits(found[key]), bits(expected[key])), key
    assert {result[name]["state"]["read"] for result in ranks} == {alone["state"]["read"]}


@every_method
def test_two_ranks_resume_in_the_middle_of_an_epoch(ranks: list[dict[str, Any]], name: str) -> None:
    for result in ranks:
        whole, rest = result[name], result[name]["resumed"]["epochs"]
        assert rest[STOP[0]]["batches"] == whole["epochs"][STOP[0]]["batches"][STOP[1] :]
        assert result[name]["length left"] == sum(map(len, rest[STOP[0]]["batches"]))
        assert {e: rest[e] for e in range(STOP[0] + 1, EPOCHS)} == {
            e: whole["epochs"][e] for e in range(STOP[0] + 1, EPOCHS)
        }
        assert rest[STOP[0]]["scores"] == whole["epochs"][STOP[0]]["scores"]


@every_method
def test_two_ranks_resume_between_the_last_batch_and_the_end_of_the_epoch(
    ranks: list[dict[str, Any]], name: str
) -> None:
    for result in ranks:
        rest = result[name]["resumed at the last"]["epochs"]
        assert rest[STOP[0]]["batches"] == []
        assert {e: rest[e] for e in range(STOP[0] + 1, EPOCHS)} == {
            e: result[name]["epochs"][e] for e in range(STOP[0] + 1, EPOCHS)
        }


@every_method
def test_one_process_resumes_what_two_ranks_began(ranks: list[dict[str, Any]], name: str) -> None:
    alone = single(name)["epochs"]
    for result in ranks:
        pruner = METHODS[name]()
        pruner.load_state_dict(result[name]["state"])
        rest = train(pruner, WORLD * BATCH)["epochs"]
        assert rest[STOP[0]]["batches"] == alone[STOP[0]]["batches"][STOP[1] :]
        assert {e: rest[e] for e in range(STOP[0] + 1, EPOCHS)} == {
            e: alone[e] | {"forward_passes": rest[e]["forward_passes"]} for e in range(STOP[0] + 1, EPOCHS)
        }


@every_method
def test_one_process_closes_the_epoch_that_two_ranks_read_to_its_padded_end(
    ranks: list[dict[str, Any]], name: str
) -> None:
    alone = single(name)["epochs"]
    pruner = METHODS[name]()
    pruner.load_state_dict(ranks[0][name]["last state"])
    assert len(pruner.sampler) == 0
    rest = train(pruner, WORLD * BATCH)["epochs"]
    assert rest[STOP[0]]["batches"] == []
    for epoch in range(STOP[0] + 1, EPOCHS):
        for what in SHOWN:
            assert rest[epoch][what] == alone[epoch][what], (epoch, what)


@every_method
@pytest.mark.parametrize("moment", ["state", "last state"])
def test_two_ranks_resume_what_one_process_began(ranks: list[dict[str, Any]], name: str, moment: str) -> None:
    alone = single(name)["epochs"]
    for result in ranks:
        rest = result[name][f"resumed from one, {moment}"]["epochs"]
        begun = result[name]["epochs"][STOP[0]]["batches"]
        assert rest[STOP[0]]["batches"] == (begun[STOP[1] :] if moment == "state" else [])
        for epoch in range(STOP[0] + 1, EPOCHS):
            for what in SHOWN:
                assert rest[epoch][what] == alone[epoch][what], (epoch, what)


@pytest.mark.parametrize(
    "case, what",
    [
        ("other seeds", "settings"),
        ("other methods", "settings"),
        ("other labels", "labels"),
        ("other states", "selections"),
    ],
)
def test_ranks_that_differ_are_reported_on_every_rank_in_that_epoch(
    ranks: list[dict[str, Any]], case: str, what: str
) -> None:
    for result in ranks:
        assert f"the ranks hold different {what}" in result[case], result[case]


def test_a_rank_that_ends_an_epoch_in_part_says_so_before_the_ranks_meet(ranks: list[dict[str, Any]]) -> None:
    for rank, result in enumerate(ranks):
        (said,) = result["said before the ranks meet"]
        assert f"rank {rank} ends epoch 0 with 11 of its 22 samples read" in said, said
        assert "alignprune.integrations has the line that mends it" in said


def test_an_epoch_that_is_sharded_once_more_is_refused_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    read = len(range(0, 22, 2)) * 2
    for result in ranks:
        said = result["sharded once more"]
        assert f"epoch 0 was read in part: {read} of {N} selected samples, on 2 ranks" in said, said
        assert "shards pruner.sampler once more" in said


def test_a_rank_that_reads_nothing_is_reported_on_both(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        assert "epoch 0 was read in part: 22 of 43" in result["one rank reads nothing"]


def test_each_rank_may_drop_a_last_batch(ranks: list[dict[str, Any]]) -> None:
    assert [result["a dropped batch"] for result in ranks] == ["no error"] * WORLD


def test_ranks_that_are_given_one_bank_path_use_a_file_each(ranks: list[dict[str, Any]]) -> None:
    pruner = ap.Pruner.from_preset("infobatch", num_samples=N, epochs=4)
    expected = []
    for _ in range(4):
        expected.append(pruner.selection.indices.tolist())
        an_epoch(pruner)
    for result in ranks:
        assert result["bank files"] == {"selections": expected, "own": True}


def test_a_model_in_ddp_trains_like_one_in_a_single_process(ranks: list[dict[str, Any]]) -> None:
    first, second = (result["model"] for result in ranks)
    for one, other in zip(first["parameters"], second["parameters"], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert first["kept"] == second["kept"]
    assert first["lengths"] == second["lengths"]
    assert len(first["kept"][1]) < 48
    assert torch.equal(first["scores"], second["scores"])
    alone = train_a_model(toy_model(), 16)
    assert first["kept"] == alone["kept"]
    assert first["lengths"][0] == alone["lengths"][0] == 3
    for a, b in zip(first["parameters"][0], alone["parameters"][0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_collectives_are_a_fixed_few_per_epoch_and_none_per_step(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        assert result["collectives"]["reduce"] == [0] * 5
        assert result["collectives"]["state"] == [0] * 5  # between epochs
        assert len(set(result["collectives"]["end_epoch"])) == 1
        assert 1 <= result["collectives"]["end_epoch"][0] <= 2


def test_every_rank_has_the_journal_of_the_whole_run_also_after_a_resume(ranks: list[dict[str, Any]]) -> None:
    alone = journalled(WORLD * BATCH)["journal"]
    assert alone["predictions"].max() == EPOCHS
    assert 0 < alone["agreeing"].sum() < alone["predictions"].sum()
    for rank in ranks:
        for which in ("journal", "resumed"):
            for name, values in alone.items():
                assert torch.equal(rank["journalled"][which][name].nan_to_num(-1), values.nan_to_num(-1)), (which, name)


if __name__ == "__main__":
    rank_main(Path(sys.argv[1]), int(sys.argv[2]))
