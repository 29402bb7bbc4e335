"""Accelerate on one process and on two: what is read, what is recorded, what is saved, and what mistakes report."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

import alignprune as ap
import launch

pytest.importorskip("accelerate", reason="the extra of Accelerate is not installed")
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, GradientState

from alignprune.integrations.accelerate import prepare

# This file is also the program of the ranks (see the end): they are started once for all that needs two of them, and
# once for what ends them.

WORLD, N, EPOCHS, BATCH = 2, 77, 3, 8
EVEN = 72
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3
MISTAKES: dict[str, dict[str, Any]] = {
    "default": {},
    "split": {"split_batches": True},
    "dispatch": {"dispatch_batches": True},
}


def network(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


def pruner_of(size: int = N) -> ap.Pruner:
    """InfoBatch, and no pruning where the size is that of `EVEN`, so that ranks read as much as each other."""
    preset = "full" if size == EVEN else "infobatch"
    return ap.Pruner.from_preset(preset, num_samples=size, epochs=EPOCHS, delta=1.0)


def warm_cosine(step: int, steps: int) -> float:
    return float(0.1 + 0.9 * torch.cos(torch.tensor(step / steps * 1.5)))


class Training:
    """A training by Accelerate; what it has read, and where it has been saved."""

    def __init__(self, size: int = N, *, accumulate: int = 1, dropout: float = 0.0, precision: str = "no") -> None:
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate, mixed_precision=precision)
        self.pruner = pruner_of(size)
        loader = self.pruner.loader(TensorDataset(X[:size], Y[:size]), batch_size=BATCH, generator=torch.Generator())
        self.loader = prepare(self.accelerator, self.pruner, loader)
        model = network(dropout)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
        steps = self.pruner.planned_steps(BATCH, accumulate=accumulate)
        schedule = LambdaLR(optimizer, lambda step: warm_cosine(step, steps))
        paced = ap.PacedScheduler(schedule, self.pruner, steps)
        self.model, self.optimizer, self.schedule = self.accelerator.prepare(model, optimizer, paced)
        self.read: dict[int, list[list[int]]] = {}
        self.kept: dict[int, list[int]] = {}
        self.rates: list[float] = []

    def train(self, save: Callable[[int, int | str], object] = lambda epoch, moment: None) -> Training:
        """Train to the end; ``save`` is called after every batch and after every epoch."""
        for epoch in range(self.pruner.epoch, EPOCHS):
            self.kept[epoch], self.read[epoch] = self.pruner.selection.indices.tolist(), []
            for index, (x, y) in self.loader:
                with self.accelerator.accumulate(self.model):
                    losses = F.cross_entropy(self.model(x), y, reduction="none")
                    self.accelerator.backward(self.pruner.reduce(index, losses))
                    if self.accelerator.sync_gradients:
                        self.rates.append(self.schedule.get_last_lr()[0])
                    self.optimizer.step()
                    self.schedule.step()
                    self.optimizer.zero_grad()
                self.read[epoch].append(index.tolist())
                save(epoch, len(self.read[epoch]))
            self.pruner.end_epoch()
            save(epoch, "end")
        return self

    @property
    def weights(self) -> dict[str, Tensor]:
        model = self.accelerator.unwrap_model(self.model)
        return {name: value.detach().clone() for name, value in model.state_dict().items()}


def by_hand(size: int = N, *, accumulate: int = 1, bf16: bool = False, batch_size: int = BATCH) -> dict[str, Any]:
    """The same training without Accelerate, its learning rate worked out from what was read."""
    pruner, model = pruner_of(size), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    steps = EPOCHS * math.ceil(math.ceil(size / batch_size) / accumulate)
    rates, kept, done = [], {}, Fraction(0)
    for epoch in range(EPOCHS):
        data = ap.Indexed(TensorDataset(X[:size], Y[:size]))
        batches = list(DataLoader(data, sampler=pruner.sampler, batch_size=batch_size))
        kept[epoch], read = pruner.selection.indices.tolist(), 0
        for number, (index, (x, y)) in enumerate(batches, 1):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = model(x)
            losses = F.cross_entropy(logits.float(), y, reduction="none")
            (pruner.reduce(index, losses) / accumulate).backward()
            read += len(index)
            if number % accumulate and number < len(batches):
                continue
            rates.append(0.3 * warm_cosine(int(done * steps), steps))
            optimizer.param_groups[0]["lr"] = rates[-1]
            optimizer.step()
            optimizer.zero_grad()
            done = (epoch + Fraction(read, len(kept[epoch]))) / EPOCHS
        pruner.end_epoch()
    return {"weights": model.state_dict(), "kept": kept, "rates": rates}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def content_losses() -> dict[str, Any]:
    """A training whose losses are the samples' first numbers: what was read in each epoch, and the bank's last row."""
    accelerator = Accelerator(cpu=True)
    pruner = pruner_of()
    loader = prepare(accelerator, pruner, pruner.loader(TensorDataset(X, Y), batch_size=BATCH))
    model = accelerator.prepare(network())
    read, kept, rows = [], [], []
    for _ in range(EPOCHS):
        kept.append(pruner.selection.indices.tolist())
        read.append([])
        for index, (x, _) in loader:
            accelerator.backward(pruner.reduce(index, x[:, 0] + 0.0 * model(x)[:, 0]))
            read[-1].append(index.tolist())
        pruner.end_epoch()
        rows.append(pruner.memory(ap.TrajectoryBank).losses[-1].clone())
    return {"read": read, "kept": kept, "rows": rows}


def resumed(folder: Path, moments: list[tuple[int, int | str]], **settings: Any) -> dict[str, Any]:
    """A training that is saved at some moments, and those that go on from each."""
    straight = Training(**settings).train()
    saved = Training(**settings)
    saved.train(lambda *moment: saved.accelerator.save_state(str(folder / f"{moment}")) if moment in moments else None)
    out = {"straight": straight, "saved": saved, "resumed": {}}
    for moment in moments:
        again = Training(**settings)
        again.accelerator.load_state(str(folder / f"{moment}"))
        out["resumed"][moment] = again.train()
    return out


def moments_of(training: Training) -> list[tuple[int, int | str]]:
    """Every moment at which a training like this one can be saved."""
    return [(epoch, moment) for epoch in range(EPOCHS) for moment in (*range(1, len(training.read[epoch]) + 1), "end")]


def error_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def an_epoch_of(accelerator: Accelerator, pruner: ap.Pruner, loader: Any) -> None:
    """One epoch over a loader that the user has prepared in one way or another."""
    model = accelerator.prepare(network())
    for index, (x, y) in loader:
        accelerator.backward(pruner.reduce(index, F.cross_entropy(model(x), y, reduction="none")))
    pruner.end_epoch()


def mistaken(settings: dict[str, Any], size: int) -> None:
    """The mistake: the loader is given to `Accelerator.prepare`."""
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**settings))
    pruner = pruner_of(size)
    loader = pruner.loader(TensorDataset(X[:size], Y[:size]), batch_size=BATCH)
    an_epoch_of(accelerator, pruner, accelerator.prepare(loader))


def prepared_twice() -> None:
    accelerator, pruner = Accelerator(cpu=True), pruner_of(64)
    loader = prepare(accelerator, pruner, pruner.loader(TensorDataset(X[:64], Y[:64]), batch_size=BATCH))
    an_epoch_of(accelerator, pruner, accelerator.prepare(loader))


def skipped_twice(folder: Path) -> None:
    """The mistake: batches that the pruner's state says are done are skipped by hand as well."""
    saved = Training()
    saved.train(lambda *moment: saved.accelerator.save_state(str(folder / "skip")) if moment == (1, 2) else None)
    again = Training()
    again.accelerator.load_state(str(folder / "skip"))
    again.loader = again.accelerator.skip_first_batches(again.loader, 2)
    again.train()


# -------------------------------------------------------------------------- what every rank runs


def shown(training: Training) -> dict[str, Any]:
    return {"weights": training.weights, "kept": training.kept, "read": training.read, "rates": training.rates}


def main(folder: Path, rank: int, *words: str) -> None:
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{WORLD}", "LOCAL_WORLD_SIZE": f"{WORLD}"}
    launch.join(folder, rank, WORLD)
    if words:
        mistaken({"even_batches": False}, N)
    out: dict[str, Any] = {"processes": Accelerator(cpu=True).num_processes, "content": content_losses()}
    out["accumulated"] = shown(Training(EVEN, accumulate=2).train())
    every = resumed(folder, [(0, 2), (1, 1), (1, 3), (1, "end")])
    out["straight"], out["saved"] = shown(every["straight"]), shown(every["saved"])
    out["resumed"] = {f"{moment}": shown(training) for moment, training in every["resumed"].items()}
    out["mistakes"] = {name: error_of(lambda s=settings: mistaken(s, 64)) for name, settings in MISTAKES.items()}
    out["mistakes"]["default, read again"] = error_of(lambda: mistaken({}, N - 1))
    out["mistakes"]["prepared twice"] = error_of(prepared_twice)
    launch.write(folder, rank, WORLD, out)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks found."""
    return launch.results(__file__, tmp_path_factory, WORLD)


@pytest.fixture(autouse=True)
def _settings_of_one_test() -> Iterator[None]:
    """Accelerate keeps its settings for the whole process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


# -------------------------------------------------------------------------- what is read and recorded


def check_content(results: list[dict[str, Any]]) -> None:
    """Every selected sample was read once by one of the ranks, and its loss stands in its column."""
    for epoch in range(EPOCHS):
        kept = results[0]["kept"][epoch]
        read = sorted(sample for result in results for batch in result["read"][epoch] for sample in batch)
        assert sorted(set(read)) == kept
        assert len(read) == len(kept) + -len(kept) % len(results)
        for result in results:
            assert torch.equal(result["rows"][epoch][kept], X[kept, 0])
    assert min(len(kept) for kept in results[0]["kept"]) < N


def test_one_process_reads_every_selected_sample_once_and_records_its_own_loss() -> None:
    check_content([content_losses()])


def test_two_processes_read_every_selected_sample_once_and_record_its_own_loss(ranks: list[dict[str, Any]]) -> None:
    assert [result["processes"] for result in ranks] == [WORLD] * WORLD
    check_content([result["content"] for result in ranks])


def test_batches_are_put_on_the_accelerators_device() -> None:
    class Elsewhere(Accelerator):
        device = torch.device("meta")

    pruner = pruner_of()
    loader = pruner.loader(TensorDataset(X, Y), batch_size=BATCH)
    index, (x, y) = next(iter(prepare(Elsewhere(cpu=True), pruner, loader)))
    assert {index.device.type, x.device.type, y.device.type} == {"meta"}
    index, (x, y) = next(iter(prepare(Elsewhere(cpu=True, device_placement=False), pruner, loader)))
    assert {index.device.type, x.device.type, y.device.type} == {"cpu"}


def test_even_batches_of_the_pruner_are_kept() -> None:
    pruner = pruner_of()
    loader = pruner.loader(TensorDataset(X, Y), batch_size=BATCH, even_batches=True)
    sizes = [len(index) for index, _ in prepare(Accelerator(cpu=True), pruner, loader)]
    assert sum(sizes) == N
    assert max(sizes) - min(sizes) == 1


# -------------------------------------------------------------------------- what is trained


@pytest.mark.parametrize("accumulate", [1, 3, 4])
def test_a_training_is_the_one_written_by_hand_with_its_last_batches_and_its_schedule(accumulate: int) -> None:
    training, hand = Training(accumulate=accumulate).train(), by_hand(accumulate=accumulate)
    assert any(len(batches) % accumulate for batches in training.read.values()) or accumulate == 1
    assert training.kept == hand["kept"]
    assert training.rates == pytest.approx(hand["rates"])
    for name, weight in training.weights.items():
        torch.testing.assert_close(weight, hand["weights"][name])


def test_in_bf16_a_training_is_the_one_written_by_hand() -> None:
    training, hand = Training(precision="bf16").train(), by_hand(bf16=True)
    assert training.kept == hand["kept"]
    assert not same(hand["weights"], by_hand()["weights"])
    for name, weight in training.weights.items():
        torch.testing.assert_close(weight, hand["weights"][name])


def test_two_processes_accumulate_to_the_end_of_an_epoch_and_train_as_one_with_batches_twice_as_large(
    ranks: list[dict[str, Any]],
) -> None:
    hand = by_hand(EVEN, accumulate=2, batch_size=WORLD * BATCH)
    for result in ranks:
        accumulated = result["accumulated"]
        assert [len(batches) for batches in accumulated["read"].values()] == [5] * EPOCHS  # the fifth is a step alone
        assert accumulated["rates"] == pytest.approx(hand["rates"])
        assert same(accumulated["weights"], ranks[0]["accumulated"]["weights"])
        for name, weight in accumulated["weights"].items():
            torch.testing.assert_close(weight, hand["weights"][name])


# -------------------------------------------------------------------------- save_state and load_state


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_training_goes_on_bit_for_bit_from_every_moment_at_which_it_was_saved(tmp_path: Path, dropout: float) -> None:
    moments = moments_of(Training(dropout=dropout).train())
    assert len(moments) > 2 * EPOCHS
    out = resumed(tmp_path, moments, dropout=dropout)
    straight: Training = out["straight"]
    assert same(out["saved"].weights, straight.weights)
    for moment, training in out["resumed"].items():
        assert same(training.weights, straight.weights), moment
        check_resumed(moment, shown(training), shown(straight))


def check_resumed(moment: tuple[int, int | str], part: dict[str, Any], whole: dict[str, Any]) -> None:
    """Epochs, selections, batches and learning rates are those of the whole training, from the moment on."""
    epoch, batch = moment if moment[1] != "end" else (moment[0] + 1, 0)
    assert list(part["kept"]) == list(range(epoch, EPOCHS))
    for later in part["kept"]:
        assert part["kept"][later] == whole["kept"][later]
        assert part["read"][later] == whole["read"][later][batch if later == epoch else 0 :]
    assert part["rates"] == whole["rates"][len(whole["rates"]) - len(part["rates"]) :]


def test_an_accumulation_that_a_resume_begins_anew_ends_with_the_epoch_too(tmp_path: Path) -> None:
    out = resumed(tmp_path, [(0, 4), (1, 2), (1, "end")], accumulate=2)  # after a step of the optimizer, as Accelerate
    for moment, training in out["resumed"].items():  # saves no gradients
        assert same(training.weights, out["straight"].weights), moment


def test_two_processes_go_on_bit_for_bit_in_the_middle_and_at_the_end_of_an_epoch(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        straight = result["straight"]
        assert any(len(kept) < N for kept in straight["kept"].values())
        assert same(straight["weights"], ranks[0]["straight"]["weights"])
        assert same(straight["weights"], result["saved"]["weights"])
        for moment in ((0, 2), (1, 1), (1, 3), (1, "end")):
            part = result["resumed"][f"{moment}"]
            assert same(part["weights"], straight["weights"]), moment
            check_resumed(moment, part, straight)


# -------------------------------------------------------------------------- mistakes

MENDS = "alignprune.integrations has the line that mends it"


@pytest.mark.parametrize("mistake", [*MISTAKES, "prepared twice"])
def test_a_loader_given_to_accelerator_prepare_is_reported_in_the_first_epoch(
    ranks: list[dict[str, Any]], mistake: str
) -> None:
    for result in ranks:
        said = result["mistakes"][mistake]
        assert said.startswith("CallMistake: epoch 0 was read in part: 32 of 64 selected samples, on 2 ranks"), said
        assert MENDS in said


def test_samples_that_accelerate_reads_again_to_fill_a_batch_are_reported(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        said = result["mistakes"]["default, read again"]
        assert said.startswith("CallMistake: index holds"), said
        assert "read in epoch 0 already" in said
        assert MENDS in said


def test_ranks_that_read_different_numbers_of_batches_say_so_before_they_abort(tmp_path: Path) -> None:
    codes, said = launch.started(__file__, tmp_path, WORLD, "uneven")
    assert all(codes)
    assert "UserWarning: rank 1 ends epoch 0 with 16 of its 39 samples read" in said, said
    assert MENDS in said


@pytest.mark.parametrize("setting", ["split_batches", "dispatch_batches"])
def test_an_accelerator_that_deals_batches_out_is_refused(setting: str) -> None:
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**{setting: True}))
    pruner = pruner_of()
    with pytest.raises(ValueError, match=f"{setting}=True, expected False"):
        prepare(accelerator, pruner, pruner.loader(TensorDataset(X, Y), batch_size=BATCH))


@pytest.mark.parametrize("processes, tensor_parallel", [(8, 1), (8, 8), (4, 2)])
def test_processes_that_do_not_each_read_data_as_ranks_of_torch_are_refused(
    processes: int, tensor_parallel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stand-ins: a TPU, whose processes are no ranks of torch, and GPUs that share their data."""
    pruner = pruner_of()
    loader = pruner.loader(TensorDataset(X, Y), batch_size=BATCH)
    accelerator = Accelerator(cpu=True)
    shared = SimpleNamespace(non_data_parallel_size=tensor_parallel)
    monkeypatch.setattr(Accelerator, "num_processes", processes)
    monkeypatch.setattr(Accelerator, "parallelism_config", shared)
    world = 1 if tensor_parallel == 1 else processes
    monkeypatch.setattr("alignprune.integrations.accelerate.rank_and_world", lambda: (0, world))
    readers = processes // tensor_parallel
    with pytest.raises(ValueError, match=f"accelerator has {readers} .* that read data of their own, expected {world}"):
        prepare(accelerator, pruner, loader)


def test_a_loader_over_another_sampler_is_refused() -> None:
    with pytest.raises(ValueError, match="loader reads by SequentialSampler, expected pruner.sampler"):
        prepare(Accelerator(cpu=True), pruner_of(), DataLoader(TensorDataset(X, Y), batch_size=BATCH))


def test_batches_that_are_skipped_by_hand_after_load_state_are_reported(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="epoch 1 was read in part"):
        skipped_twice(tmp_path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
