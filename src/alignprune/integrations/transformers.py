"""The Trainer of Transformers: a mixin and a callback, so that it reads what a pruner selects.

The Trainer takes every epoch for as long as the first, and divides by that length: to plan, and to go on after an
interruption. A pruned epoch has any length. So the loader says the length of an unpruned epoch, which is constant, and
where the training stands is asked of the pruner.

    a batch         compute_loss -> sample_losses -> pruner.reduce      `PruningMixin`
    an epoch        on_step_end  -> reference -> pruner.end_epoch       `PruningCallback`
    a checkpoint    on_save      -> pruner.state_dict                   `PruningCallback`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from alignprune._checks import choice
from alignprune._files import Kind, read_tensors, write_tensors
from alignprune._ranks import keyed_generator, rank_and_world
from alignprune._tensors import UNLABELLED
from alignprune.dataset import Indexed, IndexedCollate
from alignprune.errors import CallMistake, MissingExtra, MissingFile, TypeMistake, ValueMistake
from alignprune.pruner import Pruner
from alignprune.reference import Reference
from alignprune.sampler import EvenBatches
from alignprune.schedule import PacedScheduler

try:
    from accelerate.utils import send_to_device
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint
except ImportError as error:
    raise MissingExtra(
        "transformers or accelerate is not installed, expected both: pip install 'alignprune[transformers]'"
    ) from error

INDEX = "sample_index"
"""The key of a batch that holds the indices of its samples."""

PRUNER_NAME = "pruner.pt"
PRUNER_KIND = Kind("pruner", 1, "resume from the checkpoint before it")
"""The file of a checkpoint that holds the pruner's state."""

SETTINGS: dict[str, tuple[Any, str]] = {
    "max_steps": (-1, "the pruner's epochs are the length of the training: set num_train_epochs"),
    "train_sampling_strategy": ("random", "pruner.sampler says what is read, and in which order"),
    "group_by_length": (False, "pruner.sampler says what is read, and in which order"),
    "dataloader_drop_last": (False, "batches are even, and there is no short last one to drop"),
    "dataloader_in_order": (True, "a training goes on after the samples that were read, in the sampler's order"),
    "auto_find_batch_size": (False, "the second try would find samples that the first has read: set a size that fits"),
    "enable_jit_checkpoint": (False, "it saves between a batch and its step, which the pruner would count as done"),
    "accelerator_config.split_batches": (False, "pruner.sampler gives every process its own part"),
    "accelerator_config.dispatch_batches": (False, "pruner.sampler gives every process its own part"),
}
"""Training arguments that break the pruning, each with the value that it has to have and why."""

if TYPE_CHECKING:
    _Trainer = Trainer
else:
    _Trainer = object


class SampleLosses(NamedTuple):
    """What a batch of B samples shows.

    Attributes:
        losses: float [B].
        labelled: bool [B], which of them are of samples with a label.
        predictions: integers [B], the class ids that the model says, for the label report; None = it says none.
        record: float [B], what is recorded instead of the losses, for policies that read probabilities off them; None =
            the losses.
    """

    losses: Tensor
    labelled: Tensor
    predictions: Tensor | None = None
    record: Tensor | None = None


class PruningMixin(_Trainer):
    """Lets a Trainer read what a pruner selects and learn from its weighted losses.

    Takes what the Trainer takes, and two arguments more. Stands before the Trainer:
    ``class MyPrunedTrainer(PruningMixin, MyTrainer)``.

    Args:
        pruner: made with ``num_samples=len(train_dataset)`` and ``epochs=args.num_train_epochs``.
        reference: for methods that align: a clean data set like the training set, the name of one of the
            ``eval_dataset``, which the Trainer has prepared, or an `alignprune.Reference`.

    Attributes:
        pruner: as given.
        reference: an `alignprune.Reference`, or None.
        prunes: the class whose ``compute_loss`` is stood in for; another one's would be lost, and is refused.
        settings: training arguments that are checked, each with the value that it has to have and why.

    Raises:
        TypeMistake, ValueMistake: for settings that break the pruning, each with what to set instead.

    Example:
        >>> pruner = ap.Pruner.from_preset("robust", num_samples=len(train_set), epochs=10, labels=train_set["label"])
        >>> args = TrainingArguments("out", num_train_epochs=pruner.epochs)
        >>> trainer = PrunedTrainer(model, args, train_dataset=train_set, pruner=pruner)
        >>> trainer.train()
        >>> pruner.suspects
    """

    prunes: ClassVar[type[Trainer]] = Trainer
    settings: ClassVar[dict[str, tuple[Any, str]]] = SETTINGS

    def __init__(
        self, *args: Any, pruner: Pruner, reference: Reference | Dataset[Any] | str | None = None, **settings: Any
    ) -> None:
        _refuse_streams(settings.get("train_dataset"))
        super().__init__(*args, **settings)
        self.pruner = pruner
        self._refuse_settings()
        self._refuse_methods(reference)
        self._refuse_other_losses()
        # The pruner's state says where to go on, not the number of steps.
        self.args.ignore_data_skip = True
        # A loss is the mean of its batch alone: the Trainer has to divide it by the number of accumulated batches.
        self.model_accepts_loss_kwargs = False
        self.reference = self._as_reference(reference)
        self.add_callback(PruningCallback(pruner, self.reference))

    # ------------------------------------------------------------------ what the Trainer asks for

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The loader of the Trainer, data set, collator and workers, over the samples that the pruner selects."""
        made = super().get_train_dataloader()
        _refuse_streams(made.dataset)
        return EpochLoader(
            self.pruner,
            made.dataset,
            batch_size=self.args.train_batch_size,
            accumulate=self.args.gradient_accumulation_steps,
            collate_fn=made.collate_fn,
            **{name: getattr(made, name) for name in _OF_LOADER},
        )

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The schedule of the Trainer, made for the steps of an unpruned training and paced to this one.

        A schedule that waits for a metric follows the evaluations, and stays as it is.
        """
        made = super().create_scheduler(num_training_steps, optimizer)
        if not isinstance(made, PacedScheduler) and not hasattr(made, "patience"):
            made = self.lr_scheduler = PacedScheduler(made, self.pruner, num_training_steps)  # type: ignore[assignment]
        return made

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, *args: Any, **settings: Any
    ) -> Any:
        """The weighted mean of a training batch, recorded under its indices; other batches are the Trainer's."""
        if INDEX not in inputs:
            if model.training:
                raise ValueMistake(
                    f"inputs has {', '.join(inputs)} and no {INDEX}, expected the index of every sample: leave "
                    "get_train_dataloader to PruningMixin, or return what its loader yields"
                )
            return super().compute_loss(model, inputs, return_outputs, *args, **settings)
        index = inputs.pop(INDEX)
        found = SampleLosses(*self.sample_losses(model, inputs))
        loss = self.pruner.reduce(
            index, found.losses, record=found.record, labelled=found.labelled, predictions=found.predictions
        )
        return (loss, {"losses": found.losses.detach()}) if return_outputs else loss

    def sample_losses(self, model: nn.Module, inputs: dict[str, Any]) -> SampleLosses:
        """One loss a sample, of a batch to train on or of the reference; override it for losses of your own.

        Here the cross-entropy of classification, with the ``label_smoothing_factor`` of the arguments.

        Args:
            model: in training or evaluation mode, wrapped or not.
            inputs: the batch on the model's device.

        Returns:
            the losses; an override may give a pair or triple of them as well.
        """
        labels = inputs["labels"]
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        if labels.ndim != 1 or logits.ndim != 2 or labels.is_floating_point():
            raise TypeMistake(
                f"labels is {labels.dtype} {tuple(labels.shape)} and logits {tuple(logits.shape)}, expected one class "
                "a sample, [B] and [B, C]: override sample_losses(model, inputs) for another task"
            )
        smoothing, record = self.args.label_smoothing_factor, None
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        if smoothing and self.pruner.policy.reads_probabilities:
            record = F.cross_entropy(logits.detach(), labels, reduction="none")
        return SampleLosses(losses, labels != UNLABELLED, logits.detach().argmax(1), record)

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, *args: Any, **settings: Any
    ) -> Any:
        """Train as the Trainer does; a checkpoint is gone on from at its very step.

        Raises:
            MissingFile: if the checkpoint holds no pruner.
            CallMistake: if the pruner has begun and no checkpoint is given, and for a trial of a search.
        """
        if trial is not None:
            raise CallMistake(
                f"trial={trial!r} is one of several trainings, expected one a pruner: search with a function that "
                "makes a Trainer and a pruner for every trial"
            )
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir) or True  # type: ignore[no-untyped-call]
        if isinstance(resume_from_checkpoint, str):
            self._load_pruner(Path(resume_from_checkpoint) / PRUNER_NAME)
        elif self.pruner.progress:
            raise CallMistake(
                f"the pruner has done {float(self.pruner.progress):.0%} of its training, expected one that begins: "
                "pass resume_from_checkpoint, or make a Trainer with a new pruner for every training"
            )
        return super().train(resume_from_checkpoint, None, *args, **settings)

    def _load_pruner(self, file: Path) -> None:
        if not file.exists():
            raise MissingFile(f"{file} is not there, expected the pruner's state: resume from a checkpoint with one")
        self.pruner.load_state_dict(read_tensors(file, PRUNER_KIND))

    # ------------------------------------------------------------------ the start

    def _as_reference(self, reference: Reference | Dataset[Any] | str | None) -> Reference | None:
        if reference is None or isinstance(reference, Reference):
            return reference
        if isinstance(reference, str):
            named = self.eval_dataset if isinstance(self.eval_dataset, dict) else {}
            choice("reference", reference, named)
            reference = named[reference]

        def losses(model: nn.Module, batch: Any) -> Tensor:
            found = SampleLosses(*self.sample_losses(model, send_to_device(dict(batch), self.args.device)))
            return found.losses[found.labelled]

        made = self.get_test_dataloader(reference)
        whole = DataLoader(  # the Trainer's would give every process a part of it, and the ranks' mean another weight
            made.dataset,
            batch_size=self.args.eval_batch_size,
            collate_fn=made.collate_fn,
            generator=keyed_generator(0, 0, "reference workers"),
        )
        return Reference(whole, losses)

    def _refuse_settings(self) -> None:
        epochs, planned = self.pruner.epochs, self.args.num_train_epochs
        if planned != epochs:
            raise ValueMistake(
                f"num_train_epochs={planned} is not the pruner's, expected {epochs}: set num_train_epochs=pruner.epochs"
            )
        for name, (expected, reason) in self.settings.items():
            given: Any = self.args
            for part in name.split("."):
                given = getattr(given, part, expected)  # other versions have other arguments
            if given != expected and (given or expected):  # None is as good as False
                raise ValueMistake(f"{name}={given!r} cannot be used here, expected {expected!r}: {reason}")
        layout = getattr(self.accelerator, "parallelism_config", None)
        readers = self.accelerator.num_processes // (layout.non_data_parallel_size if layout else 1)
        _, world = rank_and_world()
        if readers != world:
            raise ValueMistake(
                f"the Trainer has {readers} processes that read data of their own, expected {world}, the ranks of "
                "torch.distributed: train without tensor, context or sequence parallelism, and not on TPUs"
            )

    def _refuse_methods(self, reference: object) -> None:
        method = type(self.pruner.policy if self.pruner.policy.probes else self.pruner.score).__name__
        if self.pruner.policy.probes or self.pruner.score.needs_pruned:
            raise ValueMistake(
                f"{method} needs forward passes that the Trainer does not make, expected a method that reads the "
                "losses of training alone: take another, or a loop of your own"
            )
        if self.pruner.needs_reference and reference is None:
            raise ValueMistake(
                f"reference=None is missing, expected a small clean data set, which {method} compares with: pass "
                "reference=clean_set"
            )

    def _refuse_other_losses(self) -> None:
        """A loss of the user's that would not be called."""
        if type(self).sample_losses.__module__.partition(".")[0] != __name__.partition(".")[0]:
            return
        theirs = super().compute_loss.__func__ is not self.prunes.compute_loss  # type: ignore[attr-defined]
        if theirs or self.compute_loss_func is not None:
            name = "compute_loss" if theirs else "compute_loss_func"
            raise TypeMistake(
                f"{name} of your own is one number a batch, expected one loss a sample: override "
                "sample_losses(model, inputs) instead"
            )


class PrunedTrainer(PruningMixin, Trainer):
    """A `transformers.Trainer` for classification that reads what a pruner selects; see `PruningMixin`."""


class PruningCallback(TrainerCallback):
    """Ends the pruner's epochs, ends the training with them, and saves the pruner into every checkpoint.

    Added by `PruningMixin`, after all other callbacks that were given to the Trainer.

    Args:
        pruner: of the training.
        reference: whose loss is measured at the end of every epoch, or None.
    """

    def __init__(self, pruner: Pruner, reference: Reference | None) -> None:
        self.pruner, self.reference = pruner, reference
        self.saves = False  # whether a checkpoint is due at the end of the epoch

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Say how far the training is, and end the epoch after its last batch.

        A checkpoint of that step is put off until the Trainer has ended the epoch too: a run that goes on from it would
        miss the evaluation, and what that draws from the random generators.
        """
        done = self.pruner.progress * self.pruner.epochs
        state.epoch = float(done)
        if done == self.pruner.epoch + 1:
            self._end_epoch(others["model"])
            self._stop_after_the_last(args, state, control)
            self.saves, control.should_save = control.should_save, False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Refuse an epoch that was read in part, unless a callback has cut it on purpose."""
        control.should_save |= self.saves
        self.saves = False
        begun = self.pruner.progress * self.pruner.epochs > self.pruner.epoch
        if begun and (control.should_epoch_stop or not control.should_training_stop):
            self._end_epoch(others["model"], partial=control.should_epoch_stop)
            self._stop_after_the_last(args, state, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Put the pruner's state beside the model's."""
        saved = self.pruner.state_dict()  # in the middle of an epoch a collective, which every rank has to call
        if args.should_save:
            folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            write_tensors(folder / PRUNER_NAME, PRUNER_KIND, saved)

    def _end_epoch(self, model: nn.Module, partial: bool = False) -> None:
        loss = None if self.reference is None else self.reference.loss(model)
        self.pruner.end_epoch(loss, partial=partial)

    def _stop_after_the_last(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        """What the Trainer does at ``max_steps``, which a pruned training does not reach."""
        if self.pruner.epoch == self.pruner.epochs:
            control.should_training_stop = True
            control.should_save |= args.save_strategy == "steps"
            control.should_evaluate |= args.eval_strategy == "steps" and args.eval_delay <= state.global_step


# ---------------------------------------------------------------------- the loader

_OF_LOADER = (
    "num_workers",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "prefetch_factor",
    "persistent_workers",
)


class EpochLoader(DataLoader[Any]):
    """The epochs of a pruner, one each pass, under the length of an unpruned one.

    An epoch is cut into batches whose sizes differ by one at most, as many as whole steps take: the Trainer would make
    no step of gradients that are left over at the end of a shorter epoch.

    Args:
        pruner: whose samples are read.
        dataset: map-style, of ``pruner.num_samples``.
        batch_size: the largest size of a batch, per process.
        accumulate: batches whose gradients are added up for a step.
        collate_fn: from plain items to a dict.
        settings: of the DataLoader.

    Raises:
        ValueMistake: for a data set of another size.
    """

    def __init__(
        self,
        pruner: Pruner,
        dataset: Any,
        *,
        batch_size: int,
        accumulate: int,
        collate_fn: Callable[[list[Any]], Any],
        **settings: Any,
    ) -> None:
        if len(dataset) != pruner.num_samples:
            raise ValueMistake(
                f"train_dataset has {len(dataset)} samples as the Trainer prepares it, expected "
                f"num_samples={pruner.num_samples}, which the pruner was made for: make it with num_samples=len() of "
                "this very data set, and filter or split that beforehand"
            )
        batches = EvenBatches(pruner.sampler, batch_size, accumulate=accumulate)
        super().__init__(Indexed(dataset), batch_sampler=batches, collate_fn=_WithIndex(collate_fn), **settings)
        self.pruner, self.batches = pruner, batches
        self.length = pruner.planned_steps(batch_size, accumulate=accumulate) // pruner.epochs * accumulate

    def __len__(self) -> int:
        """Batches of an unpruned epoch."""
        return self.length

    def __iter__(self) -> Any:
        left, accumulate = len(self.batches), self.batches.accumulate
        if left % accumulate or (not left and self.pruner.epoch < self.pruner.epochs):
            raise ValueMistake(
                f"epoch {self.pruner.epoch} has {left} batches left on this rank, expected a multiple of "
                f"gradient_accumulation_steps={accumulate}: lower it or prune less, and go on in the middle of an "
                "epoch with the batch size, accumulation and number of processes that it began with"
            )
        self.generator = keyed_generator(self.pruner.seed, self.pruner.epoch, "workers")
        return super().__iter__()


class _WithIndex:
    """Collates plain items to a dict, and puts their indices into it."""

    def __init__(self, collate_fn: Callable[[list[Any]], Any]) -> None:
        self.collate = IndexedCollate(collate_fn)

    def __call__(self, pairs: list[tuple[int, Any]]) -> dict[str, Any]:
        index, batch = self.collate(pairs)
        if not isinstance(batch, Mapping) or INDEX in batch:
            given = f"has a key {INDEX}" if isinstance(batch, Mapping) else f"is {type(batch).__name__}"
            raise TypeMistake(f"the collated batch {given}, expected a dict without that key: mend data_collator")
        return {**batch, INDEX: index}


def _refuse_streams(dataset: object) -> None:
    map_style = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if dataset is not None and (isinstance(dataset, IterableDataset) or not map_style):
        raise TypeMistake(
            f"train_dataset is {type(dataset).__name__}, expected a map-style data set: the samples of a stream have "
            "no index to be read by, so use alignprune.integrations.streams"
        )


__all__ = ["INDEX", "PRUNER_NAME", "EpochLoader", "PrunedTrainer", "PruningCallback", "PruningMixin", "SampleLosses"]
