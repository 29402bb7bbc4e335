"""skorch: a net that trains on the samples that a pruner selects.

skorch's loader, step, loss and end of an epoch are methods of the net, and the index of a sample has to pass through
them: it comes with the batch, and `reduce` wants it beside the losses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alignprune.errors import ValueMistake
from alignprune.pruner import Pruner
from alignprune.reference import Reference

if TYPE_CHECKING:
    from skorch import NeuralNet
else:
    NeuralNet = object


class Pruned(NeuralNet):  # type: ignore[misc]  # skorch has no types
    """Put before a net of skorch, ``class Net(Pruned, NeuralNetClassifier)``, it trains on what a pruner selects.

    Args:
        arguments: of the net, with ``criterion__reduction="none"`` and, since the pruner counts the samples that are
            trained on, ``train_split=None`` or a split of one's own such as ``predefined_split``.
        pruner: whose ``num_samples`` is the size of the training set and whose ``epochs`` is ``max_epochs``.
        reference: measured after every epoch, for methods that align.
        settings: of the net.

    Raises:
        ValueMistake: when training begins, for a training set of another size and a loader class of one's own.

    Example:
        >>> class Net(Pruned, NeuralNetClassifier): ...
        >>> net = Net(module, pruner=pruner, criterion__reduction="none", train_split=None, max_epochs=20)
        >>> net.fit(x, y)
    """

    def __init__(self, *arguments: Any, pruner: Pruner, reference: Reference | None = None, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.pruner, self.reference = pruner, reference

    def get_iterator(self, dataset: Dataset[Any], training: bool = False) -> Any:
        """The pruner's loader for training, with the net's ``iterator_train__`` settings; skorch's own otherwise."""
        if not training:
            return super().get_iterator(dataset, training=False)
        if self.iterator_train is not DataLoader:
            raise ValueMistake(
                f"iterator_train={self.iterator_train!r} is given, expected torch's DataLoader: leave it out, its "
                "settings can be given as iterator_train__num_workers and the like"
            )
        return self.pruner.loader(dataset, **{"batch_size": self.batch_size, **self.get_params_for("iterator_train")})

    def train_step_single(self, batch: Any, **fit_params: Any) -> Any:
        """skorch's step, on the batch without its index."""
        self.index_, item = batch
        return super().train_step_single(item, **fit_params)

    def get_loss(self, y_pred: Any, y_true: Any, X: Any = None, training: bool = False) -> Tensor:
        """The pruner's weighted mean of the losses in training, their plain mean in validation."""
        losses: Tensor = super().get_loss(y_pred, y_true, X=X, training=training)
        if not training:
            return losses.mean()
        classes = y_pred.ndim == 2 and y_true.ndim == 1 and not y_true.is_floating_point()
        return self.pruner.reduce(self.index_, losses, predictions=y_pred.detach().argmax(1) if classes else None)

    def on_epoch_end(self, net: Any, **datasets: Any) -> None:
        """Close the pruner's epoch, before any callback of the user sees its end."""
        super().on_epoch_end(net, **datasets)
        self.pruner.end_epoch(None if self.reference is None else self.reference.loss(self.module_))
