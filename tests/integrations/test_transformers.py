"""The Trainer of Transformers: what it reads, what it learns from, and how it goes on."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import alignprune as ap
import launch

transformers = pytest.importorskip("transformers", reason="the extra transformers is not installed")
pytest.importorskip("accelerate", reason="the extra transformers is not installed")

from transformers import (  # noqa: E402
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from alignprune.integrations.transformers import (  # noqa: E402
    INDEX,
    PRUNER_NAME,
    PrunedTrainer,
    PruningMixin,
)

# This file is also the program of two ranks (see the end): all that needs them runs in one start.

N, EPOCHS, BATCH, WORLD = 61, 5, 8, 2

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)


# -------------------------------------------------------------------------- what is trained


class Contents(Dataset[dict[str, Any]]):
    """Samples whose content says who they are, and whose loss under `Echo` is a known function of it."""

    def __init__(self, size: int = N) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"content": index / 10, "label": 0, "number": 7}


LOSSES = torch.log1p(torch.exp(torch.arange(N, dtype=torch.float64) / 10)).float()
"""The cross-entropy of logits (0, content) at class 0."""


class Echo(nn.Module):
    """Gives every sample the same logits, whatever it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(2))

    def forward(self, content: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = torch.stack([torch.zeros_like(content), content], 1) + 0 * self.idle
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Sentences(Dataset[dict[str, Any]]):
    """Sentences of six words that say their class, and some that lie."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> dict[str, Any]:
        label = index % 3
        words = torch.randint(5, 15, (6,), generator=torch.Generator().manual_seed(index)) + 10 * label
        return {"input_ids": words, "labels": label if index % 7 else (label + 1) % 3}


def bert(dropout: float = 0.1) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        num_labels=3,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return BertForSequenceClassification(config)


def a_pruner(preset: str = "infobatch", size: int = N, epochs: int = EPOCHS, **settings: Any) -> ap.Pruner:
    return ap.Pruner.from_preset(preset, num_samples=size, epochs=epochs, **{"delta": 1.0, **settings})


def arguments(folder: Path, **settings: Any) -> TrainingArguments:
    usual = {
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": BATCH,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "learning_rate": 1e-2,
        "logging_strategy": "no",
    }
    return TrainingArguments(str(folder), **{**usual, **settings})


class Watch(TrainerCallback):
    """Notes what each epoch selects."""

    def __init__(self, pruner: ap.Pruner) -> None:
        self.pruner, self.selected = pruner, {}

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.selected[self.pruner.epoch] = self.pruner.selection.indices.tolist()


class Rates(TrainerCallback):
    """Notes the learning rate after every step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_step_end(self, *_: Any, **others: Any) -> None:
        self.rates += others["lr_scheduler"].get_last_lr()[:1]


class Watched(PrunedTrainer):
    """Notes what each epoch reads, by the samples' content."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.read: dict[int, list[int]] = {}

    def sample_losses(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        contents = (inputs["content"] * 10).round().int().tolist()
        self.read.setdefault(self.pruner.epoch, []).extend(contents)
        return super().sample_losses(model, inputs)


def watched(folder: Path, dataset: Any, pruner: ap.Pruner | None = None, **settings: Any) -> tuple[Watched, Watch]:
    pruner = pruner or a_pruner()
    watch = Watch(pruner)
    trainer = Watched(Echo(), arguments(folder, **settings), train_dataset=dataset, pruner=pruner, callbacks=[watch])
    return trainer, watch


def sentences(folder: Path, pruner: ap.Pruner | None = None, **settings: Any) -> PrunedTrainer:
    """A training whose forward passes draw from the global generator, with a reference and evaluations."""
    pruner = pruner or a_pruner()
    args = arguments(folder, **{"gradient_accumulation_steps": 2, "eval_strategy": "epoch", **settings})
    clean = torch.utils.data.Subset(Sentences(), range(1, 14))
    return PrunedTrainer(bert(), args, train_dataset=Sentences(), eval_dataset=clean, pruner=pruner, reference=clean)


def result(trainer: PrunedTrainer) -> dict[str, Any]:
    return {
        "weights": {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()},
        "scores": trainer.pruner.scores.nan_to_num(-9.0),
        "reference": trainer.pruner.reference.nan_to_num(-9.0),
        "selected": trainer.pruner.selection.indices.tolist(),
        "passes": trainer.pruner.forward_passes,
        "steps": trainer.state.global_step,
        "epoch": trainer.state.epoch,
    }


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


def checkpoints(folder: Path) -> list[str]:
    return sorted(map(str, folder.glob("checkpoint-*")), key=lambda path: int(path.rpartition("-")[2]))


# -------------------------------------------------------------------------- what is read


def test_a_policy_that_reads_probabilities_gets_plain_losses_beside_smoothed_ones(tmp_path: Path) -> None:
    means = {}
    for preset in ("full", "robust"):
        pruner = a_pruner(preset, labels=[i % 2 for i in range(N)], epochs=1)
        args = arguments(tmp_path, num_train_epochs=1, label_smoothing_factor=0.3)
        model = Echo()
        model.config = BertConfig()  # the Trainer looks into it where labels are smoothed
        PrunedTrainer(model, args, train_dataset=Contents(), pruner=pruner).train()
        means[preset] = pruner.memory(ap.memory.Journal).mean_loss
    seen = ~means["robust"].isnan()
    torch.testing.assert_close(means["robust"][seen], LOSSES[seen])
    content = torch.arange(N) / 10
    smoothed = 0.85 * LOSSES + 0.15 * (LOSSES - content)  # a share of 0.15 of the other class
    torch.testing.assert_close(means["full"], smoothed)


def test_what_the_model_says_is_recorded_for_the_label_report(tmp_path: Path) -> None:
    pruner = a_pruner("full", labels=[0] * N)
    trainer = PrunedTrainer(Echo(), arguments(tmp_path), train_dataset=Contents(), pruner=pruner)
    trainer.train()
    journal = pruner.memory(ap.memory.Journal)
    assert (journal.predictions == EPOCHS).all()
    assert journal.agreeing.tolist() == [EPOCHS] + [0] * (N - 1)  # its second logit is the content, 0 for the first
    assert journal.alternative.tolist() == [-1] + [1] * (N - 1)


@pytest.mark.parametrize(
    "kind, workers, accumulate", [("torch", 0, 1), ("torch", 2, 3), ("datasets", 0, 2), ("datasets", 1, 1)]
)
def test_every_selected_sample_is_read_once_an_epoch_and_its_loss_lies_at_its_index(
    tmp_path: Path, kind: str, workers: int, accumulate: int
) -> None:
    dataset: Any = Contents()
    if kind == "datasets":
        datasets = pytest.importorskip("datasets", reason="datasets is not installed")
        dataset = datasets.Dataset.from_list([Contents()[index] for index in range(N)])
    settings = {"dataloader_num_workers": workers, "gradient_accumulation_steps": accumulate}
    trainer, watch = watched(tmp_path, dataset, **settings)
    trainer.train()
    assert {epoch: sorted(read) for epoch, read in trainer.read.items()} == watch.selected
    assert len(watch.selected) == EPOCHS
    assert min(map(len, watch.selected.values())) < N  # it did prune
    torch.testing.assert_close(trainer.pruner.memory(ap.TrajectoryBank).losses[-1], LOSSES)
    assert trainer.pruner.forward_passes == sum(map(len, watch.selected.values()))


def test_the_training_ends_with_the_pruners_epochs_and_its_length_is_the_planned_one(tmp_path: Path) -> None:
    trainer, watch = watched(tmp_path, Contents(), gradient_accumulation_steps=2)
    trainer.train()
    steps = [math.ceil(len(selected) / (2 * BATCH)) for selected in watch.selected.values()]
    assert trainer.state.global_step == sum(steps)
    assert (
        trainer.state.max_steps
        == EPOCHS * math.ceil(N / (2 * BATCH))
        == trainer.pruner.planned_steps(BATCH, accumulate=2)
    )
    assert trainer.state.global_step < trainer.state.max_steps
    assert trainer.state.epoch == EPOCHS == trainer.pruner.epoch


# -------------------------------------------------------------------------- what is learned


def by_hand(accumulate: int) -> tuple[dict[str, Tensor], list[float], list[float]]:
    """The same training by a plain loop: weights, the loss of every step, and the learning rate after it."""
    model, pruner = bert(dropout=0.0), a_pruner()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    losses, rates, data = [], [], Sentences()
    for epoch in range(EPOCHS):
        order, done = list(pruner.sampler), 0
        whole = math.ceil(len(order) / (BATCH * accumulate)) * accumulate
        for step in range(whole // accumulate):
            total = 0.0
            for batch in range(step * accumulate, (step + 1) * accumulate):
                index = order[len(order) * batch // whole : len(order) * (batch + 1) // whole]
                items = [data[i] for i in index]
                logits = model(torch.stack([item["input_ids"] for item in items])).logits
                labels = torch.tensor([item["labels"] for item in items])
                weights = pruner.selection.dense_weights()
                each = F.cross_entropy(logits, labels, reduction="none")
                loss = (each if weights is None else each * weights[index]).mean() / accumulate
                pruner.reduce(torch.tensor(index), each)
                loss.backward()
                total += loss.item()
                done += len(index)
            optimizer.step()
            optimizer.zero_grad()
            part = (epoch + done / len(order)) / EPOCHS
            planned = EPOCHS * math.ceil(N / (BATCH * accumulate))
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 - int(part * planned + 1e-9) / planned)
            losses.append(total)
            rates.append(optimizer.param_groups[0]["lr"])
        pruner.end_epoch()
    return model.state_dict(), losses, rates


@pytest.mark.parametrize("accumulate", [1, 3])
def test_weights_and_logged_losses_are_those_of_a_plain_loop(tmp_path: Path, accumulate: int) -> None:
    weights, losses, rates = by_hand(accumulate)
    settings = {"logging_strategy": "steps", "logging_steps": 1, "gradient_accumulation_steps": accumulate}
    args = arguments(tmp_path, optim="sgd", max_grad_norm=0.0, **settings)
    trainer = PrunedTrainer(bert(dropout=0.0), args, train_dataset=Sentences(), pruner=a_pruner())
    trainer.add_callback(seen := Rates())
    found = trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx(losses, abs=1e-4)  # older versions round it
    assert seen.rates == pytest.approx(rates, rel=1e-6)
    assert found.training_loss == pytest.approx(mean(losses), rel=1e-4)
    for name, tensor in trainer.model.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-4, atol=1e-6)


def test_a_schedule_with_a_warm_up_ends_with_the_training_and_one_that_waits_for_a_metric_is_left_alone(
    tmp_path: Path,
) -> None:
    trainer, _ = watched(tmp_path, Contents(), lr_scheduler_type="cosine", warmup_steps=10)
    trainer.add_callback(seen := Rates())
    trainer.train()
    rates = seen.rates
    assert max(rates) == pytest.approx(1e-2, rel=0.05)
    assert rates.index(max(rates)) < 15
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)
    waiting = sentences(tmp_path, lr_scheduler_type="reduce_lr_on_plateau", metric_for_best_model="loss")
    waiting.train()
    assert isinstance(waiting.lr_scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)


def test_samples_without_a_label_and_smoothed_labels_count_as_in_torch(tmp_path: Path) -> None:
    class Partly(Sentences):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return super().__getitem__(index) | ({"labels": -100} if index % 5 == 0 else {})

    pruner = a_pruner("full", epochs=1)
    settings = {"num_train_epochs": 1, "per_device_train_batch_size": N, "learning_rate": 0.0}
    args = arguments(tmp_path, label_smoothing_factor=0.1, logging_strategy="steps", logging_steps=1, **settings)
    model = bert(dropout=0.0)
    trainer = PrunedTrainer(model, args, train_dataset=Partly(), pruner=pruner, reference=Partly())
    trainer.train()
    items = [Partly()[index] for index in range(N)]
    labels = torch.tensor([item["labels"] for item in items])
    logits = model(torch.stack([item["input_ids"] for item in items])).logits
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1, ignore_index=-100).item()
    (logged,) = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx(expected, abs=1e-4)
    assert float(pruner.reference[1]) == pytest.approx(expected, rel=1e-5)


def test_the_reference_may_be_a_set_the_name_of_an_evaluation_set_or_a_reference(tmp_path: Path) -> None:
    clean = torch.utils.data.Subset(Sentences(), range(1, 14))

    def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch["input_ids"]).logits, batch["labels"], reduction="none")

    given = {"set": clean, "name": "clean", "reference": ap.Reference.subset(clean, losses=losses)}
    found = []
    for reference in given.values():
        pruner = a_pruner("infobatch+das", window=2)
        trainer = PrunedTrainer(
            bert(dropout=0.0),
            arguments(tmp_path),
            train_dataset=Sentences(),
            eval_dataset={"clean": clean},
            pruner=pruner,
            reference=reference,
        )
        trainer.train()
        found.append(pruner.reference[1:])
    model = trainer.model.eval()
    items = [Sentences()[index] for index in range(1, 14)]
    logits = model(torch.stack([item["input_ids"] for item in items])).logits
    last = F.cross_entropy(logits, torch.tensor([item["labels"] for item in items])).item()
    for values in found:
        torch.testing.assert_close(values, found[0])
        assert float(values[-1]) == pytest.approx(last, rel=1e-5)
    with pytest.raises(ValueError, match="reference='clear' is unknown, expected one of clean"):
        PrunedTrainer(bert(), arguments(tmp_path), eval_dataset={"clean": clean}, pruner=pruner, reference="clear")


def test_evaluations_logs_and_the_best_model_go_by_the_pruners_epochs(tmp_path: Path) -> None:
    every_epoch = dict.fromkeys(("eval_strategy", "save_strategy", "logging_strategy"), "epoch")
    trainer = sentences(tmp_path, load_best_model_at_end=True, **every_epoch)
    trainer.train()
    for key in ("eval_loss", "loss"):
        epochs = [entry["epoch"] for entry in trainer.state.log_history if key in entry]
        assert epochs == list(range(1, EPOCHS + 1))
    evaluated = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    best = min(evaluated, key=lambda entry: entry["eval_loss"])
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best['step']}")
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best["eval_loss"], rel=1e-6)


def test_a_training_that_saves_and_evaluates_by_steps_does_so_at_its_end(tmp_path: Path) -> None:
    by_steps = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1000, "save_steps": 1000}
    trainer = sentences(tmp_path, **by_steps)
    trainer.train()
    assert checkpoints(tmp_path) == [str(tmp_path / f"checkpoint-{trainer.state.global_step}")]
    (entry,) = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert entry["step"] == trainer.state.global_step


# -------------------------------------------------------------------------- interrupted


def test_a_training_resumed_at_any_step_is_one_that_was_never_stopped(tmp_path: Path) -> None:
    whole = sentences(tmp_path, save_strategy="steps", save_steps=1)
    whole.train()
    expected, steps = result(whole), whole.state.global_step
    assert len(checkpoints(tmp_path)) == steps
    assert expected["passes"] < 0.95 * EPOCHS * N  # it did prune
    assert steps < whole.state.max_steps
    for checkpoint in checkpoints(tmp_path):
        resumed = sentences(tmp_path / "resumed")
        resumed.train(resume_from_checkpoint=checkpoint)
        assert same(result(resumed), expected), checkpoint
        evaluated = [entry for entry in resumed.state.log_history if "eval_loss" in entry]
        if checkpoint != checkpoints(tmp_path)[-1]:  # of a finished training the model is evaluated once more
            assert [entry["epoch"] for entry in evaluated] == list(range(1, EPOCHS + 1))


def test_a_training_that_a_callback_stops_goes_on_where_it_stopped(tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = control.should_save = state.global_step == 6

    expected = sentences(tmp_path / "whole")
    expected.train()
    stopped = sentences(tmp_path / "stopped")
    stopped.add_callback(Stop())
    stopped.train()
    assert 0 < stopped.pruner.progress < 1
    assert (stopped.pruner.progress * EPOCHS).denominator > 1  # in the middle of an epoch
    resumed = sentences(tmp_path / "stopped")
    resumed.train(resume_from_checkpoint=True)
    assert same(result(resumed), result(expected))


def test_an_epoch_that_a_callback_cuts_is_closed_and_the_next_one_begins(tmp_path: Path) -> None:
    class Cut(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_epoch_stop = state.global_step == 3

    trainer, watch = watched(tmp_path, Contents())
    trainer.add_callback(Cut())
    trainer.train()
    read = trainer.read.pop(0)
    assert len(read) == len(set(read)) < N == len(watch.selected.pop(0))
    assert {epoch: sorted(read) for epoch, read in trainer.read.items()} == watch.selected
    assert trainer.pruner.epoch == EPOCHS


def test_a_finished_training_that_is_resumed_trains_nothing_more(tmp_path: Path) -> None:
    whole = sentences(tmp_path, save_strategy="epoch")
    whole.train()
    again = sentences(tmp_path, save_strategy="epoch")
    again.train(resume_from_checkpoint=True)
    assert same(result(again), result(whole))


def test_what_cannot_be_resumed_is_refused(tmp_path: Path) -> None:
    trainer = sentences(tmp_path, save_strategy="epoch")
    trainer.train()
    with pytest.raises(RuntimeError, match="the pruner has done 100% of its training, expected one that begins"):
        trainer.train()
    with pytest.raises(RuntimeError, match="expected one a pruner: search with a function that makes a Trainer"):
        trainer.train(trial={})
    first = checkpoints(tmp_path)[0]
    with pytest.raises(ValueError, match="seed"):
        sentences(tmp_path, a_pruner(seed=1)).train(resume_from_checkpoint=first)
    (Path(first) / PRUNER_NAME).unlink()
    with pytest.raises(FileNotFoundError, match="pruner.pt is not there, expected the pruner's state"):
        sentences(tmp_path).train(resume_from_checkpoint=first)
    with pytest.raises(ValueError, match="No valid checkpoint"):
        sentences(tmp_path / "empty").train(resume_from_checkpoint=True)


def test_an_epoch_resumed_with_an_accumulation_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    whole = sentences(tmp_path, save_strategy="steps", save_steps=1)
    whole.train()
    other = sentences(tmp_path, gradient_accumulation_steps=3)
    with pytest.raises(ValueError, match="batches left on this rank, expected a multiple of gradient_accumulation"):
        other.train(resume_from_checkpoint=checkpoints(tmp_path)[1])


# -------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "name, value",
    [
        ("max_steps", 10),
        ("num_train_epochs", 3),
        ("train_sampling_strategy", "group_by_length"),
        ("train_sampling_strategy", "batch_rebalance"),
        ("train_sampling_strategy", "sequential"),
        ("dataloader_drop_last", True),
        ("dataloader_in_order", False),
        ("auto_find_batch_size", True),
        ("enable_jit_checkpoint", True),
        ("accelerator_config", {"split_batches": True}),
        ("accelerator_config", {"dispatch_batches": True}),
    ],
)
def test_a_setting_that_breaks_the_pruning_is_refused_at_the_start(tmp_path: Path, name: str, value: Any) -> None:
    if name not in TrainingArguments.__dataclass_fields__:
        pytest.skip(f"this version has no {name}")
    (named, given), *_ = value.items() if isinstance(value, dict) else [(name, value)]
    with pytest.raises(ValueError, match=rf"{named}={given!r}.*expected .*: "):
        PrunedTrainer(Echo(), arguments(tmp_path, **{name: value}), train_dataset=Contents(), pruner=a_pruner())


def test_a_stream_is_refused_and_streams_are_pointed_to(tmp_path: Path) -> None:
    class Stream(IterableDataset[dict[str, Any]]):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            yield from map(Contents().__getitem__, range(N))

    streams: list[Any] = [Stream()]
    try:
        import datasets
    except ImportError:
        pass
    else:
        streams.append(datasets.IterableDataset.from_generator(Stream().__iter__))
    for stream in streams:
        with pytest.raises(TypeError, match="expected a map-style data set.*alignprune.integrations.streams"):
            PrunedTrainer(Echo(), arguments(tmp_path), train_dataset=stream, pruner=a_pruner())


def test_a_data_set_of_another_size_is_refused_before_the_first_step(tmp_path: Path) -> None:
    trainer, _ = watched(tmp_path, Contents(N - 1))
    with pytest.raises(ValueError, match=f"train_dataset has {N - 1} samples .* expected num_samples={N}"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_methods_that_need_other_passes_and_a_missing_reference_are_refused(tmp_path: Path) -> None:
    for preset, said in (
        ("ies", "SecondDifference needs forward passes that the Trainer does not make"),
        ("divbs", "DivBS needs forward passes that the Trainer does not make"),
        ("infobatch+das", "reference=None is missing, expected a small clean data set, which Alignment compares"),
    ):
        with pytest.raises(ValueError, match=said):
            PrunedTrainer(Echo(), arguments(tmp_path), train_dataset=Contents(), pruner=a_pruner(preset))


def test_a_loss_of_ones_own_that_would_not_be_called_is_refused(tmp_path: Path) -> None:
    class Own(Trainer):
        def compute_loss(self, *_: Any, **__: Any) -> Any:
            raise AssertionError

    class PrunedOwn(PruningMixin, Own):
        pass

    class Mended(PruningMixin, Own):
        def sample_losses(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
            return inputs["content"] * (1 + 0 * model.idle.sum()), inputs["labels"] == 0

    settings = {"train_dataset": Contents(), "args": arguments(tmp_path)}
    with pytest.raises(TypeError, match="compute_loss of your own is one number a batch.* override sample_losses"):
        PrunedOwn(Echo(), pruner=a_pruner(), **settings)
    with pytest.raises(TypeError, match="compute_loss_func of your own .* override sample_losses"):
        PrunedTrainer(Echo(), pruner=a_pruner(), compute_loss_func=lambda *_, **__: None, **settings)
    trainer = Mended(Echo(), pruner=a_pruner(), **settings)
    trainer.train()
    contents = torch.arange(N) / 10
    torch.testing.assert_close(trainer.pruner.memory(ap.TrajectoryBank).losses[-1], contents)


def test_outputs_that_are_no_classification_are_refused_with_what_to_override(tmp_path: Path) -> None:
    class Regression(Contents):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return super().__getitem__(index) | {"label": 0.5}

    trainer, _ = watched(tmp_path, Regression())
    with pytest.raises(TypeError, match="labels is torch.float32.* override sample_losses"):
        trainer.train()


class Relaid(Watched):
    """A Trainer whose loader is exchanged for another one."""

    relaid: Any = None

    def get_train_dataloader(self) -> Any:
        return type(self).relaid(super().get_train_dataloader())


def test_a_loader_without_the_index_and_one_that_loses_batches_are_reported_in_the_first_epoch(tmp_path: Path) -> None:
    class Bare(Relaid):
        @staticmethod
        def relaid(loader: Any) -> Any:
            return DataLoader(Contents(), batch_size=BATCH)

    class Halved(DataLoader[Any]):
        def __init__(self, loader: Any) -> None:
            super().__init__(loader.dataset)
            self.loader = loader

        def __len__(self) -> int:
            return len(self.loader)

        def __iter__(self) -> Any:
            return islice(iter(self.loader), 0, None, WORLD)

    class Sharded(Relaid):
        relaid = Halved

    for kind, error, said in (
        (Bare, ValueError, f"inputs has .* and no {INDEX}, expected the index of every sample: leave"),
        (Sharded, RuntimeError, f"epoch 0 was read in part: 3. of {N} selected samples.* shards"),
    ):
        trainer = kind(Echo(), arguments(tmp_path), train_dataset=Contents(), pruner=a_pruner())
        with pytest.raises(error, match=said):
            trainer.train()
        assert trainer.pruner.epoch == 0


def test_a_collator_that_returns_no_dict_or_takes_the_key_is_refused(tmp_path: Path) -> None:
    for collate, said in (
        (lambda items: torch.zeros(len(items)), "the collated batch is Tensor, expected a dict"),
        (lambda items: {INDEX: torch.zeros(len(items))}, f"the collated batch has a key {INDEX}"),
    ):
        args = arguments(tmp_path, remove_unused_columns=False)
        trainer = PrunedTrainer(Echo(), args, data_collator=collate, train_dataset=Contents(), pruner=a_pruner())
        with pytest.raises(TypeError, match=said):
            trainer.train()


def test_an_epoch_too_small_for_a_step_is_refused(tmp_path: Path) -> None:
    trainer, _ = watched(tmp_path, Contents(10), a_pruner(size=10), gradient_accumulation_steps=11)
    with pytest.raises(ValueError, match="epoch 0 has 10 batches left .* gradient_accumulation_steps=11: lower it"):
        trainer.train()


# -------------------------------------------------------------------------- two ranks


def rank_main(folder: Path, rank: int) -> None:
    pruner = a_pruner()  # as in a script, before the Trainer's arguments set up the ranks
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}  # asked for, and not used: the ranks are joined
    launch.join(folder, rank, WORLD)
    trainer, watch = watched(folder / "contents", Contents(), pruner, gradient_accumulation_steps=2)
    trainer.train()
    bank = trainer.pruner.memory(ap.TrajectoryBank).losses[-1]
    out = {"read": trainer.read, "selected": watch.selected, "bank": bank, "resumed": {}}
    whole = sentences(folder / "whole", save_strategy="steps", save_steps=1)
    whole.train()
    out["whole"] = result(whole)
    for checkpoint in checkpoints(folder / "whole")[::2]:
        resumed = sentences(folder / "resumed")
        resumed.train(resume_from_checkpoint=checkpoint)
        out["resumed"][checkpoint] = result(resumed)
    launch.write(folder, rank, WORLD, out)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found."""
    return launch.results(__file__, tmp_path_factory, WORLD)


def test_two_ranks_together_read_every_selected_sample_once(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["selected"] == ranks[1]["selected"]
    sizes = [len(selected) for selected in ranks[0]["selected"].values()]
    assert len(sizes) == EPOCHS
    assert min(sizes) < N
    for epoch, selected in ranks[0]["selected"].items():
        parts = [rank["read"][epoch] for rank in ranks]
        assert len(parts[0]) == len(parts[1]) == math.ceil(len(selected) / WORLD)
        assert sorted(set(parts[0] + parts[1])) == selected


def test_two_ranks_hold_every_loss_at_its_index_and_the_same_weights(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        torch.testing.assert_close(rank["bank"], LOSSES)
        assert same(rank["whole"], ranks[0]["whole"])
        assert rank["whole"]["passes"] < 0.95 * EPOCHS * N


def test_two_ranks_resumed_at_any_step_are_two_that_were_never_stopped(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert len(rank["resumed"]) >= EPOCHS
        for checkpoint, resumed in rank["resumed"].items():
            assert same(resumed, rank["whole"]), checkpoint


if __name__ == "__main__":
    rank_main(Path(sys.argv[1]), int(sys.argv[2]))
