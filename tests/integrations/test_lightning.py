"""Lightning and Fabric: every selected sample is read once, its loss at its index; a resume changes nothing."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, TensorDataset

import alignprune as ap
import launch

pytest.importorskip("lightning", reason="the extra alignprune[lightning] is not installed")

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities import CombinedLoader

from alignprune.integrations.lightning import DataPruning

# This file is also the program of the ranks (see the end).

pytestmark = [pytest.mark.filterwarnings("ignore:::lightning"), pytest.mark.filterwarnings("ignore:.*LeafSpec")]
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

N, EPOCHS, BATCH, WORLD = 53, 5, 5, 2
X = torch.randn(N + 20, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] + X[:, 1] > 0).long()
CONTENT = torch.arange(N) * 37 % N / N + 0.25  # what a sample holds, apart from its index
TRAIN, CLEAN = TensorDataset(X[:N], Y[:N], CONTENT), TensorDataset(X[N:], Y[N:])


def make(preset: str = "infobatch", **settings: Any) -> ap.Pruner:
    return ap.Pruner.from_preset(preset, num_samples=N, epochs=EPOCHS, delta=0.8, **settings)


class Module(L.LightningModule):
    """A linear classifier that notes what it reads: (epoch, batch, indices)."""

    def __init__(self, pruner: ap.Pruner, **settings: Any) -> None:
        super().__init__()
        self.pruner, self.settings = pruner, settings
        self.net = torch.nn.Linear(4, 2)
        with torch.no_grad():
            self.net.weight.copy_(torch.linspace(-0.1, 0.1, 8).view(2, 4))
            self.net.bias.zero_()
        self.read: list[tuple[int, int, list[int]]] = []
        self.chosen: dict[int, list[int]] = {}

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self(x), y, reduction="none")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        index, (x, y, _) = batch
        self.note(index, batch_idx)
        return self.pruner.reduce(index, self.losses(x, y))

    def note(self, index: Tensor, batch_idx: int) -> None:
        self.read.append((self.pruner.epoch, batch_idx, index.tolist()))
        self.chosen[self.pruner.epoch] = self.pruner.selection.indices.tolist()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.3, momentum=0.9)

    def train_dataloader(self) -> Any:
        return self.pruner.loader(TRAIN, **{"batch_size": BATCH} | self.settings)


class Known(Module):
    """Its recorded losses are a function of what the samples hold, and of the epoch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        index, (x, y, content) = batch
        self.note(index, batch_idx)
        return self.pruner.reduce(index, self.losses(x, y), record=content * (1 + self.pruner.epoch))


class Validated(Module):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", self.losses(*batch).mean())

    def val_dataloader(self) -> Any:
        return DataLoader(CLEAN, batch_size=10)


class Paced(Module):
    """With a schedule that follows the pruner."""

    def __init__(self, pruner: ap.Pruner, accumulate: int = 1, **settings: Any) -> None:
        super().__init__(pruner, **settings)
        self.accumulate = accumulate

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.3, momentum=0.9)
        self.steps = self.pruner.planned_steps(self.settings.get("batch_size", BATCH), accumulate=self.accumulate)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        self.scheduler = ap.PacedScheduler(cosine, self.pruner, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler, "interval": "step"}}


def trainer_for(pruner: ap.Pruner, *callbacks: Callback, reference: Any = None, **settings: Any) -> L.Trainer:
    return L.Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": pruner.epochs,
            "reload_dataloaders_every_n_epochs": 1,
            "callbacks": [DataPruning(pruner, reference), *callbacks],
            "logger": False,
            "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        | settings
    )


def fit(
    module: Module, *callbacks: Callback, checkpoint: str | Path | None = None, loader: Any = None, **settings: Any
) -> L.Trainer:
    trainer = trainer_for(module.pruner, *callbacks, **settings)
    trainer.fit(module, loader, ckpt_path=checkpoint)
    return trainer


class Saving(Callback):
    """Saves a checkpoint wherever one may be saved, with how much had been read by then."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, []  # type: ignore[var-annotated]

    def save(self, trainer: L.Trainer, module: Any) -> None:
        path = self.folder / f"{len(self.files)}.ckpt"
        trainer.save_checkpoint(path)
        self.files.append((path, len(module.read)))

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.save(trainer, module)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if not trainer.sanity_checking and trainer.fit_loop.batch_idx + 1 in (trainer.num_training_batches, 4):
            self.save(trainer, module)

    def on_train_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
        self.save(trainer, module)


class Stopping(Callback):
    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.should_stop = len(module.read) >= self.after


def read_by_epoch(module: Module) -> list[list[int]]:
    read: list[list[int]] = [[] for _ in range(module.pruner.epochs)]
    for epoch, _, index in module.read:
        read[epoch] += index
    return read


def found(module: Module) -> dict[str, Any]:
    """All that a training leaves behind, but for what it read."""
    pruner = module.pruner
    return {
        "weight": module.net.weight.detach().clone(),
        "bias": module.net.bias.detach().clone(),
        "scores": pruner.scores.nan_to_num(-9.0),
        "indices": pruner.selection.indices,
        "reference": pruner.reference.nan_to_num(-9.0),
        "passes": torch.tensor(pruner.forward_passes),
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def expected_bank(chosen: dict[int, list[int]]) -> Tensor:
    """Of `Known`: each sample's loss in the epochs that read it, -1 in the others."""
    rows = torch.full((EPOCHS, N), -1.0)
    for epoch in range(EPOCHS):
        rows[epoch, chosen[epoch]] = CONTENT[chosen[epoch]] * (1 + epoch)
    return rows


# -------------------------------------------------------------------------- one process


@pytest.mark.parametrize(
    "settings", [{}, {"even_batches": True}, {"num_workers": 1, "persistent_workers": True}], ids=str
)
def test_every_selected_sample_is_read_once_an_epoch_and_its_loss_lies_at_its_index(settings: dict[str, Any]) -> None:
    module = Known(make("infobatch+das", window=EPOCHS), **settings)
    fit(module, reference=ap.Reference.subset(CLEAN))
    assert [sorted(part) for part in read_by_epoch(module)] == [module.chosen[epoch] for epoch in range(EPOCHS)]
    assert min(map(len, module.chosen.values())) < len(module.chosen[EPOCHS - 1]) == N
    bank = module.pruner.memory(ap.TrajectoryBank).losses.nan_to_num(-1.0)
    assert torch.equal(bank, expected_bank(module.chosen))
    assert module.pruner.epoch == EPOCHS


def test_a_loader_may_be_given_to_fit_alone_or_among_others() -> None:
    wanted = Module(make())
    fit(wanted)
    alone = Module(make())
    fit(alone, loader=DataLoader(ap.Indexed(TRAIN), sampler=alone.pruner.sampler, batch_size=BATCH))
    assert alone.read == wanted.read
    among = Module(make())
    whole = Module.training_step
    among.training_step = lambda batch, batch_idx: whole(among, batch["pruned"], batch_idx)  # type: ignore[method-assign]
    others = DataLoader(torch.arange(10), batch_size=5)
    fit(among, loader={"other": others, "pruned": among.pruner.loader(TRAIN, batch_size=BATCH)})
    assert among.read == wanted.read
    assert same(found(among), found(wanted))


CASES: dict[str, tuple[Callable[[ap.Pruner], Module], Callable[[], dict[str, Any]]]] = {
    "plain": (Module, dict),
    "aligned": (Module, lambda: {"reference": ap.Reference.subset(CLEAN)}),
    "validated": (Validated, dict),
    "validated within epochs": (Validated, lambda: {"val_check_interval": 4, "check_val_every_n_epoch": None}),
    "accumulated": (lambda pruner: Paced(pruner, accumulate=3), lambda: {"accumulate_grad_batches": 3}),
    "even": (lambda pruner: Paced(pruner, even_batches=True), dict),
    "dropping": (lambda pruner: Module(pruner, drop_last=True), dict),
    "limited": (Module, lambda: {"limit_train_batches": 0.5}),
}


@pytest.mark.filterwarnings("ignore:limit_train_batches")
@pytest.mark.parametrize("case", CASES)
def test_a_training_resumed_from_any_checkpoint_is_one_that_never_stopped(case: str, tmp_path: Path) -> None:
    module_for, settings = CASES[case]
    preset = "infobatch+das" if case == "aligned" else "infobatch"
    saving = Saving(tmp_path)
    whole = module_for(make(preset))
    trainer = fit(whole, saving, **settings())
    assert len(saving.files) > 3 * EPOCHS
    assert len({len(part) for part in read_by_epoch(whole)}) > 1  # epochs differ in length
    for path, read in saving.files:
        rest = module_for(make(preset))
        again = fit(rest, checkpoint=path, **settings())
        assert rest.read == whole.read[read:], path
        assert rest.chosen.items() <= whole.chosen.items()
        assert same(found(rest), found(whole)), path
        assert again.global_step == trainer.global_step
        if isinstance(rest, Paced):
            assert rest.scheduler.taken == whole.scheduler.taken == whole.steps


def test_the_usual_checkpoints_resume(tmp_path: Path) -> None:
    whole = Module(make())
    fit(whole, ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1))
    files = sorted(tmp_path.glob("*.ckpt"))
    ends = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fit(Module(make()), ends)
    files += sorted(tmp_path.glob("epoch*.ckpt"))
    assert len(files) > 2 * EPOCHS
    for path in files:
        rest = Module(make())
        fit(rest, checkpoint=path)
        assert rest.read == whole.read[len(whole.read) - len(rest.read) :]
        assert same(found(rest), found(whole))


def test_a_schedule_that_follows_the_pruner_ends_with_the_training() -> None:
    module = Paced(make())
    trainer = fit(module)
    assert trainer.global_step < module.steps == module.scheduler.taken
    assert module.scheduler.get_last_lr()[0] == pytest.approx(0, abs=1e-12)


def test_a_schedule_by_steps_that_does_not_follow_is_reported_at_the_start() -> None:
    class Unpaced(Module):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.estimated_stepping_batches)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self.interval}}

    module = Unpaced(make())
    module.interval = "step"
    with pytest.warns(UserWarning, match="CosineAnnealingLR is stepped once a step.*ap.PacedScheduler"):
        fit(module)
    module = Unpaced(make())
    module.interval = "epoch"
    fit(module)  # and one that counts epochs is not


# -------------------------------------------------------------------------- the reference


@pytest.mark.parametrize(
    "precision, dtype", [("32-true", None), ("bf16-mixed", torch.bfloat16), ("bf16-true", None), ("64-true", None)]
)
def test_the_reference_is_measured_in_the_trainers_precision(precision: Any, dtype: torch.dtype | None) -> None:
    weights: list[tuple[Tensor, Tensor]] = []

    class Noting(Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
            weights.append((module.net.weight.detach().clone(), module.net.bias.detach().clone()))

    module = Module(make("infobatch+das"))
    fit(module, Noting(), reference=ap.Reference(DataLoader(CLEAN, batch_size=20)), precision=precision)
    assert len(weights) == EPOCHS
    for epoch, (weight, bias) in enumerate(weights):
        inputs = CLEAN.tensors[0].to(weight.dtype)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            expected = F.cross_entropy(F.linear(inputs, weight, bias), CLEAN.tensors[1], reduction="none")
        assert float(module.pruner.reference[epoch + 1]) == pytest.approx(float(expected.double().mean()), rel=1e-6)
    assert weight.dtype == {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision, torch.float32)
    assert module.training


# -------------------------------------------------------------------------- what is refused, and what is told


def refused(message: str, module: Module | None = None, error: type[Exception] = ValueError, **settings: Any) -> None:
    """Assert that `fit` refuses before the first step."""
    module = module or Module(make())
    with pytest.raises(error, match=message):
        fit(module, **settings)
    assert module.read == []


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"reload_dataloaders_every_n_epochs": 0},
            r"=0 keeps the number of.*Trainer\(reload_dataloaders_every_n_epochs=1",
        ),
        ({"max_epochs": EPOCHS + 1}, rf"max_epochs={EPOCHS + 1} is not.*expected {EPOCHS}"),
        ({"max_epochs": None}, "max_epochs=1000 is not"),
        ({"max_steps": 10}, "max_steps=10 is given, expected -1"),
        ({"overfit_batches": 2}, "overfit_batches=2 replaces the sampler, expected 0"),
    ],
    ids=str,
)
def test_settings_that_cannot_read_pruned_epochs_are_refused(settings: dict[str, Any], message: str) -> None:
    refused(message, **settings)


def test_a_loader_that_reads_by_another_sampler_is_refused() -> None:
    refused(
        "reads by RandomSampler, expected pruner.sampler", loader=DataLoader(ap.Indexed(TRAIN), BATCH, shuffle=True)
    )
    refused("reads by EpochSampler, expected pruner.sampler", loader=make().loader(TRAIN, batch_size=BATCH))


def test_what_the_callback_is_made_of_is_checked() -> None:
    with pytest.raises(ValueError, match="reference=None is given with Alignment, expected a Reference"):
        DataPruning(make("infobatch+das"))
    with pytest.raises(TypeError, match="pruner is EpochSampler, expected a Pruner"):
        DataPruning(make().sampler)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="reference is DataLoader, expected a Reference"):
        DataPruning(make(), DataLoader(CLEAN))  # type: ignore[arg-type]


def test_where_lightning_is_missing_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.delitem(sys.modules, "alignprune.integrations.lightning")
    with pytest.raises(ap.errors.MissingExtra, match=r"pip install 'alignprune\[lightning\]'"):
        importlib.import_module("alignprune.integrations.lightning")


def test_a_pruner_that_has_been_used_is_refused() -> None:
    module = Module(make())
    fit(module)
    module.read = []
    refused("the trainer is at epoch 0 and the pruner at epoch 5, expected the same", module, RuntimeError)


def test_a_checkpoint_without_the_pruner_is_refused(tmp_path: Path) -> None:
    class Unpruned(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.losses(*batch[1][:2]).mean()

    plain = Unpruned(make())
    trainer = trainer_for(plain.pruner, callbacks=[], max_epochs=1)
    trainer.fit(plain)
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    refused("the checkpoint was saved without this callback", checkpoint=tmp_path / "plain.ckpt")


@pytest.mark.parametrize("moment", ["in a step", "between steps"])
def test_a_checkpoint_that_training_cannot_go_on_from_says_so(moment: str, tmp_path: Path) -> None:
    class Inside(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            if moment == "in a step" and len(self.read) == 5:
                self.trainer.save_checkpoint(tmp_path / "it.ckpt")
            return loss

    class Between(Callback):
        def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if moment == "between steps" and len(module.read) == 5:
                trainer.save_checkpoint(tmp_path / "it.ckpt")

    with pytest.warns(UserWarning, match="in the middle of a step, or between batches whose gradients are added up"):
        fit(Inside(make()), Between(), accumulate_grad_batches=2)
    refused("the checkpoint was saved in the middle of a step", checkpoint=tmp_path / "it.ckpt")


def test_a_checkpoint_saved_before_the_callback_ended_the_epoch_is_refused(tmp_path: Path) -> None:
    class Early(Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
            if module.pruner.epoch == 1:
                trainer.save_checkpoint(tmp_path / "early.ckpt")

    module = Module(make())
    fit(module, callbacks=[Early(), DataPruning(module.pruner)])
    message = "the trainer is at epoch 2 and the pruner at epoch 1, expected the same"
    refused(message, error=RuntimeError, checkpoint=tmp_path / "early.ckpt")


def test_limited_batches_are_told_once_and_the_epochs_closed() -> None:
    module = Module(make())
    with pytest.warns(UserWarning, match="limit_train_batches=8 leaves selected samples of epoch 0 unread") as told:
        fit(module, limit_train_batches=8)
    assert len([warning for warning in told if "limit_train_batches" in str(warning.message)]) == 1
    assert max(Counter(epoch for epoch, _, _ in module.read).values()) == 8
    assert module.pruner.epoch == EPOCHS
    unlimited = Module(make())
    fit(unlimited, limit_train_batches=1000)  # a limit that cuts nothing is no reason for a warning
    assert [sorted(part) for part in read_by_epoch(unlimited)] == list(unlimited.chosen.values())


def test_an_epoch_that_is_cut_for_no_reason_that_lightning_was_given_is_refused() -> None:
    class Skipping(Module):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if batch_idx == 3 else None

    with pytest.raises(RuntimeError, match=f"epoch 0 was read in part: {3 * BATCH} of {N} selected samples"):
        fit(Skipping(make()))
    paired = Module(make())
    whole = Module.training_step
    paired.training_step = lambda batch, batch_idx: whole(paired, batch[0], batch_idx)  # type: ignore[method-assign]
    loaders = [paired.pruner.loader(TRAIN, batch_size=BATCH), DataLoader(torch.arange(10), batch_size=5)]
    with pytest.raises(RuntimeError, match=f"epoch 0 was read in part: {2 * BATCH} of {N} selected samples"):
        fit(paired, loader=CombinedLoader(loaders, "min_size"))


def test_a_training_that_is_stopped_closes_its_epoch_says_so_and_resumes_with_the_next(tmp_path: Path) -> None:
    module = Module(make())
    with pytest.warns(UserWarning, match="the trainer was stopped in the middle of epoch 1"):
        trainer = fit(module, Stopping(after=14), ModelCheckpoint(tmp_path, filename="stopped"))
    assert trainer.current_epoch == module.pruner.epoch == 2
    rest = Module(make())
    fit(rest, checkpoint=tmp_path / "stopped.ckpt")
    assert [sorted(part) for part in read_by_epoch(rest)][2:] == [rest.chosen[epoch] for epoch in range(2, EPOCHS)]
    assert read_by_epoch(rest)[:2] == [[], []]


def test_a_training_that_is_stopped_at_the_end_of_an_epoch_has_nothing_to_say() -> None:
    module = Module(make())
    fit(module, Stopping(after=-(-N // BATCH)))
    assert module.pruner.epoch == 1


@pytest.mark.filterwarnings("ignore:limit_train_batches")
def test_fast_dev_run_takes_its_step() -> None:
    module = Validated(make())
    fit(module, fast_dev_run=True)
    assert [epoch for epoch, _, _ in module.read] == [0]


def test_a_checkpoint_that_is_tested_leaves_the_pruner_as_it_is(tmp_path: Path) -> None:
    class Tested(Validated):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.validation_step(batch, batch_idx)

    module = Tested(make())
    trainer = fit(module, ModelCheckpoint(tmp_path, filename="first", monitor="epoch", save_top_k=1))
    expected = found(module)
    for measure in (trainer.test, trainer.validate):
        measure(module, DataLoader(CLEAN, batch_size=10), ckpt_path=tmp_path / "first.ckpt", verbose=False)
    assert module.pruner.epoch == EPOCHS
    assert torch.equal(module.pruner.scores.nan_to_num(-9.0), expected["scores"])


def test_the_state_in_a_checkpoint_loads_by_itself(tmp_path: Path) -> None:
    module = Module(make())
    trainer = fit(module)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    alone = make()
    alone.load_state_dict(torch.load(tmp_path / "end.ckpt", weights_only=True)["pruner"])
    assert torch.equal(alone.scores.nan_to_num(-9.0), module.pruner.scores.nan_to_num(-9.0))


# -------------------------------------------------------------------------- Fabric


def fabric_training(
    module: Module, folder: Path, *, devices: int, save_at: tuple[int, int] | None = None, resume: bool = False
) -> dict[str, Any]:
    """The loop of the page; saves after a batch of an epoch, or begins with what was saved."""
    fabric = L.Fabric(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto")
    fabric.launch()
    pruner, optimizer = module.pruner, module.configure_optimizers()
    model, optimizer = fabric.setup(module, optimizer)
    model.mark_forward_method("losses")
    loader = fabric.setup_dataloaders(pruner.loader(TRAIN, batch_size=BATCH))
    state = {"model": model, "optimizer": optimizer, "pruner": pruner}
    if resume:
        fabric.load(folder / "fabric.ckpt", state)
    for epoch in range(pruner.epoch, pruner.epochs):
        for batch_idx, (index, (x, y, _)) in enumerate(loader):
            module.note(index, batch_idx)
            optimizer.zero_grad()
            fabric.backward(pruner.reduce(index, model.losses(x, y)))
            optimizer.step()
            if (epoch, batch_idx) == save_at:
                fabric.save(folder / "fabric.ckpt", state)
        pruner.end_epoch()
    return found(module)


@pytest.mark.parametrize("save_at", [(0, 0), (1, 3), (EPOCHS - 1, 10)])
def test_a_fabric_loop_reads_each_sample_once_and_resumes(save_at: tuple[int, int], tmp_path: Path) -> None:
    whole, rest = Module(make()), Module(make())
    expected = fabric_training(whole, tmp_path, devices=1, save_at=save_at)
    assert [sorted(part) for part in read_by_epoch(whole)] == [whole.chosen[epoch] for epoch in range(EPOCHS)]
    assert same(fabric_training(rest, tmp_path, devices=1, resume=True), expected)
    indices = [index for _, _, index in whole.read]
    assert [index for _, _, index in rest.read] == indices[len(indices) - len(rest.read) :]
    assert 0 <= len(rest.read) < len(indices)


# -------------------------------------------------------------------------- two ranks


def error_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def results_of(module: Module) -> dict[str, Any]:
    return {"read": module.read, "chosen": module.chosen, **found(module)}


def rank_main(folder: Path, rank: int) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}  # a launcher has started the processes
    ddp: dict[str, Any] = {"devices": WORLD, "strategy": "ddp"}
    known = Known(make("infobatch+das", window=EPOCHS))  # before the ranks join, as in a script
    launch.join(folder, rank, WORLD)
    out: dict[str, Any] = {}
    fit(known, reference=ap.Reference.subset(CLEAN), **ddp)
    out["known"] = results_of(known) | {"bank": known.pruner.memory(ap.TrajectoryBank).losses.nan_to_num(-1.0)}
    content = Known(make())
    fit(content, **ddp)
    out["content"] = results_of(content)
    for name, accumulate in (("resumed", 1), ("accumulated", 2)):
        settings = ddp | {"accumulate_grad_batches": accumulate}
        saving = Saving(folder / f"{name}{rank}")  # only the first rank writes, and only one folder is read
        whole = Paced(make(), accumulate)
        saving.folder = folder / name
        fit(whole, saving, **settings)
        out[name] = {"whole": results_of(whole), "parts": []}
        last = [number for number, (_, read) in enumerate(saving.files) if read == len(whole.read) - 6]
        for path, read in [*saving.files[1:9:2], *(saving.files[number] for number in last)]:
            rest = Paced(make(), accumulate)
            fit(rest, checkpoint=path, **settings)
            out[name]["parts"].append({"done": read, "taken": rest.scheduler.taken == rest.steps, **results_of(rest)})
    hidden = make()
    batches = BatchSampler(hidden.sampler, BATCH, drop_last=False)
    inside = DataLoader(ap.Indexed(TRAIN), batch_sampler=batches)
    out["batch sampler"] = error_of(lambda: fit(Module(hidden), loader=inside, **ddp))
    kept = Module(make(), even_batches=True)
    fit(kept, use_distributed_sampler=False, **ddp)
    out["kept"] = results_of(kept)
    fabric = Module(make())
    fabric_training(fabric, folder, devices=WORLD, save_at=(1, 2))
    rest = Module(make())
    fabric_training(rest, folder, devices=WORLD, resume=True)
    out["fabric"] = {"whole": results_of(fabric), "rest": results_of(rest)}
    launch.write(folder, rank, WORLD, out)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found."""
    return launch.results(__file__, tmp_path_factory, WORLD)


def epochs_of(run: dict[str, Any]) -> Iterator[tuple[int, list[list[int]]]]:
    for epoch in range(EPOCHS):
        yield epoch, [index for at, _, index in run["read"] if at == epoch]


def assert_read_once(runs: list[dict[str, Any]]) -> None:
    """Each rank has as many batches, and all together read the selection, evened out by at most one sample."""
    for (epoch, first), (_, second) in zip(*map(epochs_of, runs), strict=True):
        chosen = runs[0]["chosen"][epoch]
        assert runs[1]["chosen"][epoch] == chosen
        assert [len(part) for part in first] == [len(part) for part in second]
        count = Counter(sample for part in first + second for sample in part)
        assert sorted(count) == chosen
        assert sum(count.values()) == len(chosen) + len(chosen) % WORLD


@pytest.mark.parametrize("case", ["known", "kept", "resumed", "accumulated", "fabric"])
def test_two_ranks_read_every_selected_sample_once(ranks: list[dict[str, Any]], case: str) -> None:
    runs = [result[case].get("whole", result[case]) for result in ranks]
    assert_read_once(runs)
    assert min(map(len, runs[0]["chosen"].values())) < N
    assert same({name: runs[0][name] for name in ("weight", "bias", "scores")}, runs[1])


def test_losses_of_two_ranks_lie_at_the_indices_of_their_samples(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        assert torch.equal(result["known"]["bank"], expected_bank(result["known"]["chosen"]))


def test_two_ranks_choose_as_one_process_does_whose_samples_have_the_same_losses(ranks: list[dict[str, Any]]) -> None:
    alone = Known(make())
    fit(alone)
    for result in ranks:
        assert result["content"]["chosen"] == alone.chosen
        assert torch.equal(result["content"]["scores"], alone.pruner.scores)


def test_every_rank_measures_the_same_reference(ranks: list[dict[str, Any]]) -> None:
    first, second = (result["known"] for result in ranks)
    x, y = CLEAN.tensors
    last = F.cross_entropy(F.linear(x, first["weight"], first["bias"]), y)
    assert float(first["reference"][-1]) == pytest.approx(float(last), rel=1e-6)
    assert torch.equal(first["reference"], second["reference"])


@pytest.mark.parametrize("case", ["resumed", "accumulated"])
def test_two_ranks_resumed_are_two_that_never_stopped(ranks: list[dict[str, Any]], case: str) -> None:
    for result in ranks:
        whole, parts = result[case]["whole"], result[case]["parts"]
        assert len(parts) >= 5
        for part in parts:
            assert part["read"] == whole["read"][part["done"] :]
            assert part["taken"]
            for name in ("weight", "bias", "scores", "indices"):
                assert torch.equal(part[name], whole[name]), (part["done"], name)


def test_a_sampler_that_two_ranks_would_replace_is_refused_on_both(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        said = result["batch sampler"]
        assert "reads by DistributedSampler, expected pruner.sampler" in said, said
        assert "Trainer(use_distributed_sampler=False) keeps it" in said


def test_two_ranks_of_a_fabric_loop_resume_in_the_middle_of_an_epoch(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        whole, rest = result["fabric"]["whole"], result["fabric"]["rest"]
        indices = [index for _, _, index in whole["read"]]
        assert [index for _, _, index in rest["read"]] == indices[len(indices) - len(rest["read"]) :]
        assert 0 < len(rest["read"]) < len(indices)
        for name in ("weight", "bias", "scores", "indices"):
            assert torch.equal(rest[name], whole[name])


if __name__ == "__main__":
    rank_main(Path(sys.argv[1]), int(sys.argv[2]))
