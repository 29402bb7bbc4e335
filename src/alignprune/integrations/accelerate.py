"""Accelerate: a loader that is not sharded once more, and a pruner that is saved with the rest.

``Accelerator.prepare`` deals the batches of every loader out to its processes. `Pruner.sampler` has done so already, so
that each process would read a part of its part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

from alignprune._ranks import rank_and_world
from alignprune.errors import ValueMistake
from alignprune.pruner import Pruner

if TYPE_CHECKING:
    from accelerate import Accelerator


def prepare(accelerator: Accelerator, pruner: Pruner, loader: DataLoader[Any]) -> DataLoader[Any]:
    """Prepare the loader of a pruner; ``accelerator.prepare`` is for everything else.

    Batches are put on the accelerator's device, the last batch of an epoch ends an accumulation of gradients, and
    ``save_state`` and ``load_state`` save and load the pruner, also in the middle of an epoch. Every process calls
    them, since there the pruner merges what the processes have recorded.

    Args:
        accelerator: of the training.
        pruner: made with the same arguments on every process.
        loader: over ``pruner.sampler``; its batch size is that of one process.

    Returns:
        the loader to train with, which no ``accelerator.prepare`` should get.

    Raises:
        ValueMistake: for a loader over another sampler, one that Accelerate has sharded, and an accelerator that splits
            or dispatches batches or whose processes do not each read a part of the data.

    Example:
        >>> loader = prepare(accelerator, pruner, pruner.loader(train_set, batch_size=128))
        >>> model, optimizer = accelerator.prepare(model, optimizer)
    """
    from accelerate.data_loader import get_sampler, prepare_data_loader

    _refuse_other_dealing(accelerator)
    if get_sampler(loader) is not pruner.sampler:
        raise ValueMistake(
            f"loader reads by {type(get_sampler(loader)).__name__}, expected pruner.sampler: make it with "
            "pruner.loader(train_set, batch_size=...), and give it to this function alone, not to accelerator.prepare"
        )
    accelerator.register_for_checkpointing(pruner)
    prepared: DataLoader[Any] = prepare_data_loader(
        loader,
        accelerator.device,
        num_processes=1,  # what the sampler yields is the part of this process
        process_index=0,
        put_on_device=accelerator.device_placement,
        rng_types=list(accelerator.rng_types),
        non_blocking=accelerator.non_blocking,
    )
    return prepared


def _refuse_other_dealing(accelerator: Accelerator) -> None:
    for setting in ("split_batches", "dispatch_batches"):
        if getattr(accelerator, setting):
            raise ValueMistake(
                f"accelerator has {setting}=True, expected False: with a pruner every process reads batches of its "
                f"own. Make it without, and give the loader the batch size of one process"
            )
    layout = accelerator.parallelism_config
    readers = accelerator.num_processes // (layout.non_data_parallel_size if layout else 1)
    _, world = rank_and_world()
    if readers != world:
        raise ValueMistake(
            f"accelerator has {readers} processes that read data of their own, expected {world}, the ranks of "
            "torch.distributed: train by DDP, FSDP or DeepSpeed, without tensor, context or sequence parallelism and "
            "not on TPUs"
        )
