"""Loaders and data sets of every make: the index always belongs to the data, and only selected samples are read."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Subset, TensorDataset, default_collate, random_split

import alignprune as ap

N, BATCH = 37, 8
X = torch.arange(N * 3, dtype=torch.float32).view(N, 3)
Y = torch.arange(N) % 4
LOSSES = torch.rand(12, N, generator=torch.Generator().manual_seed(0))


class Tuples(Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return X[i], Y[i]


class Dicts(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"x": X[i], "y": Y[i]}


class Tensors(Dataset[Tensor]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Tensor:
        return X[i]


@dataclass
class Example:
    x: Tensor
    y: Tensor


class Examples(Dataset[Example]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Example:
        return Example(X[i], Y[i])


def stack_examples(items: list[Example]) -> Example:
    assert all(isinstance(item, Example) for item in items)  # plain items, without their indices
    return Example(torch.stack([item.x for item in items]), torch.stack([item.y for item in items]))


def pruned_pruner(n: int = N, seed: int = 0) -> ap.Pruner:
    """In its second epoch: some samples left out, some with weight 2."""
    pruner = ap.Pruner.from_preset("infobatch", num_samples=n, epochs=12, seed=seed)
    pruner.reduce(torch.arange(n), torch.rand(n, generator=torch.Generator().manual_seed(5)))
    pruner.end_epoch()
    assert 2 * BATCH < len(pruner.selection) < n
    return pruner


def train(pruner: ap.Pruner, loader: Any) -> Iterator[tuple[Tensor, Any]]:
    """One epoch; yields what the user gets, and checks that the epoch read exactly the selection."""
    read: list[int] = []
    for index, batch in loader:
        yield index, batch
        pruner.reduce(index, LOSSES[pruner.epoch, index])
        read += index.tolist()
    assert sorted(read) == pruner.selection.indices.tolist()
    pruner.end_epoch()


# -------------------------------------------------------------------------- batches of every kind


def xy_of_tuple(batch: Any) -> tuple[Tensor, Tensor]:
    x, y = batch
    return x, y


KINDS: dict[str, tuple[Callable[[], Any], dict[str, Any], Callable[[Any], tuple[Tensor, Tensor | None]]]] = {
    "tuple": (Tuples, {}, xy_of_tuple),
    "dict": (Dicts, {}, lambda batch: (batch["x"], batch["y"])),
    "tensor": (Tensors, {}, lambda batch: (batch, None)),
    "dataclass": (Examples, {"collate_fn": stack_examples}, lambda batch: (batch.x, batch.y)),
    "tensor data set": (lambda: TensorDataset(X, Y), {}, xy_of_tuple),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_every_kind_belong_to_their_indices(kind: str, workers: int) -> None:
    make, settings, xy = KINDS[kind]
    settings = settings | {"batch_size": BATCH, "num_workers": workers}
    if workers:
        settings |= {"multiprocessing_context": "fork"}
    pruner = pruned_pruner()
    for index, batch in train(pruner, pruner.loader(make(), **settings)):
        x, y = xy(batch)
        assert index.dtype == torch.int64
        assert torch.equal(x, X[index])
        assert y is None or torch.equal(y, Y[index])


@pytest.mark.parametrize("kind", KINDS)
def test_a_hand_made_loader_gives_the_same_batches(kind: str) -> None:
    make, settings, xy = KINDS[kind]
    pruner = pruned_pruner()
    own = DataLoader(
        ap.Indexed(make()),
        sampler=pruner.sampler,
        batch_size=BATCH,
        collate_fn=ap.IndexedCollate(settings["collate_fn"]) if settings else None,
    )
    pairs = list(zip(own, pruner.loader(make(), batch_size=BATCH, **settings), strict=True))
    assert sum(len(index) for (index, _), _ in pairs) == len(pruner.selection)
    for (index, batch), (other_index, other) in pairs:
        assert torch.equal(index, other_index)
        assert torch.equal(xy(batch)[0], xy(other)[0])


def test_a_collate_function_of_none_is_the_default_one_as_in_torch() -> None:
    pruner = pruned_pruner()
    for index, (x, _) in pruner.loader(Tuples(), batch_size=BATCH, collate_fn=None):
        assert torch.equal(x, X[index])


# -------------------------------------------------------------------------- data sets underneath


def test_a_subset_underneath_gives_its_own_data_and_labels() -> None:
    positions = torch.randperm(N, generator=torch.Generator().manual_seed(1))[:30].tolist()
    part = Subset(TensorDataset(X, Y), positions)
    pruner = pruned_pruner(30)
    for index, (x, y) in train(pruner, pruner.loader(part, batch_size=BATCH)):
        assert torch.equal(x, X[positions][index])
        assert torch.equal(y, Y[positions][index])
        assert all(torch.equal(x[k], part[i][0]) for k, i in enumerate(index.tolist()))


def test_a_random_split_underneath_gives_its_own_data_and_labels() -> None:
    part, _ = random_split(Tuples(), [30, N - 30], generator=torch.Generator().manual_seed(2))
    pruner = pruned_pruner(30)
    for index, (x, y) in train(pruner, pruner.loader(part, batch_size=BATCH)):
        assert torch.equal(x, torch.stack([part[i][0] for i in index.tolist()]))
        assert torch.equal(y, torch.stack([part[i][1] for i in index.tolist()]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_hugging_face_data_set_underneath_gives_its_own_rows(workers: int) -> None:
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is a source of rows that fetches batches")
    rows = datasets.Dataset.from_dict({"x": X.tolist(), "y": Y.tolist()}).with_format("torch")
    settings: dict[str, Any] = {"multiprocessing_context": "fork"} if workers else {}
    pruner = pruned_pruner()
    for index, batch in train(pruner, pruner.loader(rows, batch_size=BATCH, num_workers=workers, **settings)):
        assert torch.equal(batch["x"], X[index])
        assert torch.equal(batch["y"], Y[index])
        assert all(torch.equal(batch["x"][k], rows[i]["x"]) for k, i in enumerate(index.tolist()))


# -------------------------------------------------------------------------- workers and settings of the loader

# the data sets that travel to fresh processes are torch's own, so that those need not import this file
MAKERS = [("fork", True), ("spawn", True), ("forkserver", False)]


@pytest.mark.parametrize("method, persistent", MAKERS, ids=[method for method, _ in MAKERS])
def test_workers_of_every_start_method_read_three_epochs(method: str, persistent: bool) -> None:
    if method not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"this system starts no processes by {method}")
    positions = torch.randperm(N, generator=torch.Generator().manual_seed(1)).tolist()
    pruner = pruned_pruner()
    loader = pruner.loader(
        Subset(TensorDataset(X, Y), positions),
        batch_size=BATCH,
        num_workers=2 if persistent else 1,
        persistent_workers=persistent,
        multiprocessing_context=method,
    )
    lengths = []
    for _ in range(3 if persistent else 1):
        lengths.append(0)
        for index, (x, y) in train(pruner, loader):
            assert torch.equal(x, X[positions][index])
            assert torch.equal(y, Y[positions][index])
            lengths[-1] += len(index)
    assert all(2 * BATCH < length < N for length in lengths)
    if persistent:
        assert pruner.epoch == 4


def test_the_number_of_workers_changes_nothing() -> None:
    read = []
    for workers in (0, 1, 2):
        pruner = pruned_pruner()
        settings: dict[str, Any] = {"multiprocessing_context": "fork", "prefetch_factor": 5} if workers else {}
        loader = pruner.loader(Tuples(), batch_size=3, num_workers=workers, **settings)
        read.append([[index.tolist() for index, _ in train(pruner, loader)] for _ in range(2)])
    assert read[0] == read[1] == read[2]


@pytest.mark.parametrize(
    "size, drop_last", [(1, False), (1, True), (5, False), (5, True), (BATCH, False), (BATCH, True), (1000, False)]
)
def test_the_final_partial_batch_is_kept_or_dropped(size: int, drop_last: bool) -> None:
    pruner = pruned_pruner()
    kept = len(pruner.selection)
    loader = pruner.loader(Tuples(), batch_size=size, drop_last=drop_last)
    sizes = []
    for index, (x, _) in loader:
        losses = torch.rand(len(index))
        weights = pruner.selection.dense_weights()[index]  # type: ignore[index]
        assert pruner.reduce(index, losses).item() == pytest.approx(float((weights * losses).mean()), rel=1e-6)
        assert torch.equal(x, X[index])
        sizes.append(len(index))
    whole, rest = divmod(kept, size)
    assert sizes == [size] * whole + ([rest] if rest and not drop_last else [])
    assert len(loader) == len(sizes)
    before = pruner.forward_passes
    pruner.end_epoch()
    assert pruner.forward_passes - before == sum(sizes)


def test_a_batch_sampler_over_the_sampler_works_for_several_epochs() -> None:
    pruner = pruned_pruner()
    loader = DataLoader(ap.Indexed(Tuples()), batch_sampler=BatchSampler(pruner.sampler, BATCH, drop_last=False))
    for _ in range(3):
        for index, (x, _) in train(pruner, loader):
            assert torch.equal(x, X[index])
    assert pruner.epoch == 4


@pytest.mark.parametrize("size", [1, 7, 8, 10_000])
def test_even_batches_differ_by_one_at_most_and_are_as_many(size: int) -> None:
    pruner = pruned_pruner()
    loader = pruner.loader(Tuples(), batch_size=size, even_batches=True)
    for _ in range(3):
        order, kept = list(pruner.sampler), len(pruner.selection)
        batches = [index.tolist() for index, _ in train(pruner, loader)]
        sizes = [len(batch) for batch in batches]
        assert [index for batch in batches for index in batch] == order
        assert len(sizes) == math.ceil(kept / size)
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1


def test_even_batches_of_a_resumed_epoch_are_those_of_the_whole_one() -> None:
    def batches(pruner: ap.Pruner) -> Iterator[list[int]]:
        for index, _ in pruner.loader(Tuples(), batch_size=BATCH, even_batches=True):
            pruner.reduce(index, torch.ones(len(index)))
            yield index.tolist()

    pruner, whole, states = pruned_pruner(), [], []
    for batch in batches(pruner):
        whole.append(batch)
        states.append(copy.deepcopy(pruner.state_dict()))
    for done, state in enumerate(states, 1):
        resumed = pruned_pruner()
        resumed.load_state_dict(state)
        assert len(resumed.loader(Tuples(), batch_size=BATCH, even_batches=True)) == len(whole) - done
        assert list(batches(resumed)) == whole[done:]


@pytest.mark.parametrize("accumulate", [1, 2, 5, 10_000])
def test_even_batches_are_a_whole_number_of_accumulated_steps(accumulate: int) -> None:
    pruner = pruned_pruner()
    order = list(pruner.sampler)
    batches = list(ap.EvenBatches(pruner.sampler, 7, accumulate=accumulate))
    sizes = [len(batch) for batch in batches]
    assert [index for batch in batches for index in batch] == order
    assert 1 <= min(sizes) <= max(sizes) <= 7
    assert max(sizes) - min(sizes) <= 1
    fewest = math.ceil(len(order) / 7)
    expected = next(count for count in range(fewest, fewest + accumulate) if count % accumulate == 0)
    assert len(sizes) == min(expected, len(order))  # no batch is empty


def test_even_batches_refuse_what_contradicts_them() -> None:
    pruner = pruned_pruner()
    with pytest.raises(ValueError, match="drop_last=True is given with even_batches=True"):
        pruner.loader(Tuples(), batch_size=BATCH, even_batches=True, drop_last=True)
    with pytest.raises(ValueError, match="batch_size=0 is out of range, expected an integer >= 1"):
        pruner.loader(Tuples(), batch_size=0, even_batches=True)


def test_a_loader_without_batches_of_its_own_can_be_batched_by_hand() -> None:
    pruner = pruned_pruner()
    loader = DataLoader(ap.Indexed(Tuples()), sampler=pruner.sampler, batch_size=None)
    pairs = [(torch.as_tensor([index]), (x[None], y[None])) for index, (x, y) in loader]
    for index, (x, _) in train(pruner, pairs):
        assert torch.equal(x, X[index])


def test_pinning_is_off_unless_it_is_asked_for() -> None:
    pruner = pruned_pruner()
    assert not pruner.loader(Tuples(), batch_size=BATCH).pin_memory
    for index, (x, _) in train(pruner, pruner.loader(Tuples(), batch_size=BATCH, pin_memory=False)):
        assert torch.equal(x, X[index])


def test_the_loader_of_pruned_samples_reads_exactly_what_is_left_out() -> None:
    pruner = pruned_pruner()
    for _ in range(3):
        read = []
        for index, (x, _) in pruner.loader(Tuples(), pruned=True, batch_size=BATCH):
            assert torch.equal(x, X[index])
            read += index.tolist()
        assert sorted(read + pruner.selection.indices.tolist()) == list(range(N))
        list(train(pruner, pruner.loader(Tuples(), batch_size=BATCH)))


def test_one_loader_serves_all_epochs() -> None:
    pruner = ap.Pruner.from_preset("infobatch", num_samples=N, epochs=9)
    loader = pruner.loader(Tuples(), batch_size=BATCH)
    lengths = []
    for _ in range(9):
        announced = len(loader)
        lengths.append(sum(len(index) for index, _ in train(pruner, loader)))
        assert announced == math.ceil(lengths[-1] / BATCH)
    assert lengths[0] == lengths[7] == lengths[8] == N > max(lengths[1:7])


def test_accumulated_gradients_are_those_of_one_big_batch() -> None:
    def gradient(size: int) -> Tensor:
        pruner = pruned_pruner()
        model = torch.nn.Linear(3, 4)
        with torch.no_grad():
            model.weight.copy_(torch.linspace(-0.02, 0.02, 12).view(4, 3))
            model.bias.zero_()
        total = len(pruner.selection)
        for index, (x, y) in pruner.loader(Tuples(), batch_size=size):
            loss = pruner.reduce(index, F.cross_entropy(model(x), y, reduction="none"))
            (loss * len(index) / total).backward()
        pruner.end_epoch()
        assert model.weight.grad is not None
        return model.weight.grad

    assert gradient(N).abs().max() > 0.1
    torch.testing.assert_close(gradient(4), gradient(N), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_indexed_data_sets_and_collates_can_be_copied(make_copy: Callable[[Any], Any]) -> None:
    indexed = make_copy(ap.Indexed(Subset(TensorDataset(X, Y), list(range(N))[::-1])))
    index, (x, y) = indexed[3]
    assert index == 3
    assert torch.equal(x, X[N - 4])
    assert y == Y[N - 4]
    collate = make_copy(ap.IndexedCollate(default_collate))
    indices, (xs, _) = collate(indexed.__getitems__([3, 0]))
    assert indices.tolist() == [3, 0]
    assert torch.equal(xs, X[[N - 4, N - 1]])


# -------------------------------------------------------------------------- on an accelerator

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def no_waiting() -> Iterator[Callable[[], None]]:
    """Call it, and from then on a step that waits for the device raises."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@cuda
@pytest.mark.parametrize("index_on", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_never_waits_for_the_device(index_on: str, dtype: torch.dtype, no_waiting: Callable[[], None]) -> None:
    pruner = pruned_pruner()
    assert pruner.selection.weights is not None
    steps = torch.tensor(list(pruner.sampler)).split(BATCH)
    indices = [index.to(index_on) for index in steps]
    losses = [torch.rand(len(index), dtype=dtype, device="cuda", requires_grad=True) for index in steps]
    torch.cuda.synchronize()
    no_waiting()
    out = [pruner.reduce(index, values) for index, values in zip(indices, losses, strict=True)]
    for loss in out:
        loss.backward()
    torch.cuda.set_sync_debug_mode("default")
    for index, values, loss in zip(steps, losses, out, strict=True):
        weights = pruner.selection.dense_weights()[index]  # type: ignore[index]
        assert loss.device.type == "cuda"
        assert loss.item() == pytest.approx(float((weights * values.detach().cpu().float()).mean()), rel=1e-5)
        torch.testing.assert_close(values.grad.cpu(), (weights / len(index)).to(dtype))  # type: ignore[union-attr]
    pruner.end_epoch()


@cuda
@pytest.mark.parametrize("name", ["infobatch", "seta", "infobatch+das", "seta+das"])
@pytest.mark.parametrize("index_on", ["cpu", "cuda"])
def test_losses_on_the_device_lead_to_the_same_selections(name: str, index_on: str) -> None:
    table = torch.rand(6, N, generator=torch.Generator().manual_seed(0))
    table[2, 3] = math.inf
    runs = []
    for device in ("cpu", "cuda"):
        pruner, kept = ap.Pruner.from_preset(name, num_samples=N, epochs=8), []
        for epoch in range(6):
            for index in torch.tensor(list(pruner.sampler)).split(BATCH):
                pruner.reduce(index.to(index_on if device == "cuda" else "cpu"), table[epoch, index].to(device))
            if epoch == 2:
                with pytest.warns(UserWarning, match="1 losses of epoch 2"):
                    pruner.end_epoch(1.0 / (epoch + 1) if pruner.needs_reference else None)
            else:
                pruner.end_epoch(1.0 / (epoch + 1) if pruner.needs_reference else None)
            kept.append(pruner.selection.indices.tolist())
        runs.append((kept, pruner.nonfinite, pruner.scores.nan_to_num(-9.0).tolist()))
    assert runs[0] == runs[1]


@cuda
@pytest.mark.parametrize(
    "index, message",
    [([0, N], r"1 indices were outside"), ([-1, 2], r"1 indices were outside"), ([4, 4], r"1 were repeated")],
)
def test_bad_indices_on_the_device_are_raised_at_the_end_of_the_epoch(index: list[int], message: str) -> None:
    pruner = ap.Pruner.from_preset("infobatch", num_samples=N, epochs=3)
    pruner.reduce(torch.tensor(index, device="cuda"), torch.tensor([0.25, 0.75], device="cuda"))
    with pytest.raises(ValueError, match=message):
        pruner.end_epoch()


@cuda
def test_trajectories_may_live_on_the_device() -> None:
    scores = []
    for device in ("cpu", "cuda"):
        pruner = ap.Pruner(N, 8, ap.scores.Alignment(window=4), ap.policies.DynamicRandom(), device=device)
        table = torch.rand(6, N, generator=torch.Generator().manual_seed(0))
        for epoch in range(6):
            for index in torch.tensor(list(pruner.sampler)).split(BATCH):
                pruner.reduce(index, table[epoch, index].cuda())
            pruner.end_epoch(1.0 / (epoch + 1))
        scores.append(pruner.scores)
    torch.testing.assert_close(scores[0], scores[1], equal_nan=True)
