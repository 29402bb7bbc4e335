"""SFTTrainer of TRL: from one loss a token to one loss a sample.

    l_i = - mean over the tokens t of sample i that have a label of log p(t | the tokens before)

A pruner ranks samples, keeps or leaves them out as a whole and weighs them, so every sample counts once in the mean of
a batch, be it long or short. TRL's own mean is over the tokens of all samples of a step: there a sample counts by its
length, sum_i n_i l_i / sum_i n_i. The two are the same where all samples have as many tokens with a label.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from alignprune._tensors import UNLABELLED
from alignprune.errors import MissingExtra, ValueMistake
from alignprune.integrations.transformers import SETTINGS, PruningMixin, SampleLosses

try:
    from trl import SFTTrainer
except ImportError as error:
    raise MissingExtra("trl is not installed, expected it here: pip install 'alignprune[trl]'") from error

_ONE_ROW = "a row has to be one sample, and packed rows are parts of many"


class SFTPruningMixin(PruningMixin):
    """Lets an SFTTrainer read what a pruner selects; arguments and errors as in `PruningMixin`.

    What TRL logs of a training (entropy, accuracy and number of tokens) stays.

    Example:
        >>> pruner = ap.Pruner.from_preset("infobatch", num_samples=len(train_set), epochs=3)
        >>> args = SFTConfig("out", num_train_epochs=pruner.epochs)
        >>> PrunedSFTTrainer(model, args, train_dataset=train_set, processing_class=tokenizer, pruner=pruner).train()
    """

    prunes = SFTTrainer
    settings: ClassVar[dict[str, tuple[Any, str]]] = SETTINGS | {
        "packing": (False, _ONE_ROW),
        "padding_free": (False, _ONE_ROW),
        "shuffle_dataset": (False, "indices are those of the data set that you gave, and pruner.sampler shuffles"),
        "loss_type": ("nll", "samples are ranked by the plain losses of their tokens"),
        "label_smoothing_factor": (0, "samples are ranked by the plain losses of their tokens"),
    }

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if getattr(self, "aux_loss_enabled", False):
            raise ValueMistake(
                "router_aux_loss_coef has a loss of the whole batch, expected losses of samples alone: set "
                "router_aux_loss_coef=0.0"
            )

    def sample_losses(self, model: nn.Module, inputs: dict[str, Any]) -> SampleLosses:
        """The mean loss over the tokens of every sample that have a label.

        Args:
            model: in training or evaluation mode, wrapped or not.
            inputs: the batch on the model's device, its ``labels`` int64 [B, T].

        Returns:
            the losses; a sample is labelled if one of its tokens is. It has no class, so nothing is predicted.
        """
        if model.training:  # TRL's forward pass, for the sake of what it logs; its loss is a mean over the batch
            kept = _Kept(model)
            super(PruningMixin, self).compute_loss(kept, inputs)
            outputs = kept.outputs
        else:
            outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        losses, labelled = _token_losses(outputs, inputs["labels"])
        counts = labelled.sum(1)
        return SampleLosses((losses * labelled).sum(1) / counts.clamp_min(1), counts > 0)


class PrunedSFTTrainer(SFTPruningMixin, SFTTrainer):
    """A `trl.SFTTrainer` that reads what a pruner selects; see `SFTPruningMixin`."""


class _Kept(nn.Module):
    """A model whose last outputs are kept."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.outputs = model, None

    def forward(self, **inputs: Any) -> Any:
        self.outputs = self.model(**inputs)
        return self.outputs


def _token_losses(outputs: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of every next token, float [B, T - 1], and which of them have a label."""
    if "log_probs" in outputs:  # of TRL's fused head, which makes no logits
        return -outputs["log_probs"], outputs["label_mask"]
    logits, following = outputs["logits"][:, :-1].float(), labels[:, 1:]
    return F.cross_entropy(logits.transpose(1, 2), following, reduction="none"), following != UNLABELLED


__all__ = ["PrunedSFTTrainer", "SFTPruningMixin"]
