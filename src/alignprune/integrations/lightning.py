"""Lightning: a callback that ends the pruner's epochs, measures the reference, and lives in the checkpoint.

The training step itself records the losses, by `Pruner.reduce`. A trainer that cannot read epochs of different lengths
is refused before the first step, with the flag to set.
"""

from __future__ import annotations

from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from alignprune.errors import CallMistake, MissingExtra, TypeMistake, ValueMistake
from alignprune.pruner import Pruner
from alignprune.reference import Reference
from alignprune.schedule import PacedScheduler

try:
    import lightning.pytorch as pl
    from lightning.pytorch.utilities import CombinedLoader, rank_zero_warn
except ImportError as error:
    raise MissingExtra("lightning is not installed, expected it here: pip install 'alignprune[lightning]'") from error

_KEY = "pruner"
"""Under which a checkpoint holds the pruner's state."""


class DataPruning(pl.Callback):
    """Ends every epoch of the pruner, and saves and loads the pruner with the trainer's checkpoints.

    A checkpoint holds the pruner's state under ``"pruner"``. It is loaded by ``trainer.fit(..., ckpt_path=...)`` and
    not by validate, test or predict.

    Args:
        pruner: whose `Pruner.reduce` the training step calls.
        reference: for methods that align; measured on every rank at the end of each epoch, by calling the module in
            evaluation mode and in the trainer's precision.

    Raises:
        TypeMistake, ValueMistake: for what is no pruner or reference, and for a method that lacks its reference. By
            ``fit``, before the first step: for a trainer whose settings or loader cannot read pruned epochs.
        CallMistake: by ``fit``, if trainer and pruner are not at the same epoch, or an epoch was read in part.

    Example:
        >>> trainer = L.Trainer(
        ...     max_epochs=pruner.epochs,
        ...     reload_dataloaders_every_n_epochs=1,
        ...     callbacks=[DataPruning(pruner, ap.Reference.subset(clean_set, size=100))],
        ... )
    """

    def __init__(self, pruner: Pruner, reference: Reference | None = None) -> None:
        if not isinstance(pruner, Pruner):
            raise TypeMistake(f"pruner is {type(pruner).__name__}, expected a Pruner: make one with ap.Pruner")
        if reference is not None and not isinstance(reference, Reference):
            raise TypeMistake(
                f"reference is {type(reference).__name__}, expected a Reference: such as ap.Reference.subset(clean_set)"
            )
        if reference is None and pruner.needs_reference:
            raise ValueMistake(
                f"reference=None is given with {type(pruner.score).__name__}, expected a Reference, which it compares "
                f"trajectories with: such as ap.Reference.subset(clean_set, size=100)"
            )
        self.pruner, self.reference = pruner, reference
        self._whole_step = True  # no batch's gradient is waiting for its step
        self._warned_of_limit = False

    # ------------------------------------------------------------------ the start

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a trainer that cannot read pruned epochs."""
        if stage != "fit":
            return
        _refuse_settings(trainer, self.pruner)
        self.pruner.sampler.counts_whole = True  # Lightning adds the batches before a resume to those it reads after it

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a pruner that another training has used."""
        if trainer.ckpt_path is None:
            self._refuse_other_epoch(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a loader that the pruner's sampler does not feed, and a resumed trainer that is at another epoch."""
        self._refuse_other_epoch(trainer)
        _pruned_loader(trainer, self.pruner)
        for config in trainer.lr_scheduler_configs:
            _warn_of_unpaced(config.scheduler, config.interval)

    def _refuse_other_epoch(self, trainer: pl.Trainer) -> None:
        if trainer.current_epoch != self.pruner.epoch:
            raise CallMistake(
                f"the trainer is at epoch {trainer.current_epoch} and the pruner at epoch {self.pruner.epoch}, "
                f"expected the same: make a new Pruner for a new training, and resume by trainer.fit(..., "
                f"ckpt_path=...) from a checkpoint that was saved with this callback"
            )

    # ------------------------------------------------------------------ every step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note that a step has begun."""
        self._whole_step = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note whether the gradients of all batches so far are used up."""
        self._whole_step = trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0

    # ------------------------------------------------------------------ once per epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the reference and end the pruner's epoch."""
        cut = self._cut(trainer)
        self.pruner.end_epoch(self._reference_loss(trainer, pl_module), partial=cut)

    def _cut(self, trainer: pl.Trainer) -> bool:
        """Whether the trainer was told to leave a part of this epoch unread; says so."""
        if trainer.should_stop and not trainer.is_last_batch:
            rank_zero_warn(
                f"the trainer was stopped in the middle of epoch {self.pruner.epoch}; the samples that were not read "
                f"keep what is known of them"
            )
            return True
        limited = isinstance(trainer.limit_train_batches, int) or trainer.limit_train_batches < 1
        if not limited or trainer.num_training_batches >= len(_pruned_loader(trainer, self.pruner)):
            return False
        if not self._warned_of_limit:
            self._warned_of_limit = True
            rank_zero_warn(
                f"limit_train_batches={trainer.limit_train_batches} leaves selected samples of epoch "
                f"{self.pruner.epoch} unread, and may of later ones; they keep what is known of them"
            )
        return True

    def _reference_loss(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> float | None:
        if self.reference is None:
            return None
        convert, losses = trainer.precision_plugin.convert_input, self.reference.losses
        converted = Reference(self.reference.loader, lambda model, batch: losses(model, convert(batch)))
        with trainer.precision_plugin.val_step_context():
            return converted.loss(pl_module)

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the pruner's state; Lightning calls this on every rank, as the state needs in the middle of an epoch."""
        checkpoint[_KEY] = self.pruner.state_dict() if self._whole_step else None
        if not self._whole_step:
            rank_zero_warn(
                "a checkpoint is saved in the middle of a step, or between batches whose gradients are added up: it "
                "holds the weights, but training cannot go on from it. Save after whole steps, as "
                "ModelCheckpoint(every_n_train_steps=...) does"
            )

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Load the pruner's state if training goes on from the checkpoint."""
        if not trainer.training:
            return
        if checkpoint.get(_KEY) is None:
            how = "in the middle of a step" if _KEY in checkpoint else "without this callback"
            raise ValueMistake(
                f"the checkpoint was saved {how}, expected one with the pruner's state: resume from another one, saved "
                f"after a whole step of a training with this callback"
            )
        self.pruner.load_state_dict(checkpoint[_KEY])
        self._finish_last_batch(checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"])

    def _finish_last_batch(self, progress: dict[str, Any]) -> None:
        """Let an epoch end whose last batch is the last thing that a checkpoint holds.

        Lightning would begin the next epoch without ending this one, since the batch is processed and not completed,
        and leave a part of the next one out where that is longer.
        """
        if progress["is_last_batch"] and progress["current"]["completed"] < progress["current"]["processed"]:
            for counts in (progress["current"], progress["total"]):
                counts["completed"] = counts["processed"]
            self.pruner.sampler.start = self.pruner.sampler.epoch_length  # limit_train_batches may leave some unread


def _refuse_settings(trainer: Any, pruner: Pruner) -> None:  # some of its settings have no declared type
    if trainer.reload_dataloaders_every_n_epochs != 1:
        raise ValueMistake(
            f"reload_dataloaders_every_n_epochs={trainer.reload_dataloaders_every_n_epochs} keeps the number of "
            f"batches of another epoch, expected 1, since pruned epochs differ in length: "
            f"Trainer(reload_dataloaders_every_n_epochs=1)"
        )
    if trainer.max_steps != -1 and not trainer.fast_dev_run:
        raise ValueMistake(
            f"max_steps={trainer.max_steps} is given, expected -1: how many steps a pruned training takes is not known "
            f"before, and with max_steps Lightning miscounts the epochs of a resumed training. Leave it out, and stop "
            f"earlier by Trainer(max_time=...)"
        )
    if trainer.overfit_batches:
        raise ValueMistake(
            f"overfit_batches={trainer.overfit_batches} replaces the sampler, expected 0: train without this callback, "
            f"or Trainer(limit_train_batches=...)"
        )
    if trainer.max_epochs != pruner.epochs and not trainer.fast_dev_run:
        raise ValueMistake(
            f"max_epochs={trainer.max_epochs} is not the number of epochs that the pruner plans for, expected "
            f"{pruner.epochs}: Trainer(max_epochs=pruner.epochs)"
        )


def _pruned_loader(trainer: pl.Trainer, pruner: Pruner) -> Any:
    """The training loader that reads what the pruner selects; ValueMistake if there is none."""
    loaders = CombinedLoader(trainer.train_dataloader).flattened
    for loader in loaders:
        for sampler in (getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
            if pruner.sampler in (sampler, getattr(sampler, "sampler", None)):
                return loader
    samplers = ", ".join(type(getattr(loader, "sampler", loader)).__name__ for loader in loaders)
    raise ValueMistake(
        f"the training loader reads by {samplers}, expected pruner.sampler: make it by pruner.loader(train_set, "
        f"batch_size=...) or DataLoader(ap.Indexed(train_set), sampler=pruner.sampler, ...). Where pruner.sampler is "
        f"inside of a batch sampler and there are several ranks, Trainer(use_distributed_sampler=False) keeps it"
    )


def _warn_of_unpaced(scheduler: LRScheduler, interval: str) -> None:
    if interval == "step" and not isinstance(scheduler, PacedScheduler):
        rank_zero_warn(
            f"{type(scheduler).__name__} is stepped once a step, of which a pruned training takes fewer than planned: "
            f"it may end before its schedule does. Make it for steps = pruner.planned_steps(batch_size=...) and give "
            f"the trainer ap.PacedScheduler(scheduler, pruner, steps)"
        )
