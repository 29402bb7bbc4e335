"""AlignPrune: prune while training, robust to wrong labels, a few lines in anyone's loop.

A public name is imported when it is first asked for, so that a program that needs no tensors does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what editors and type checkers see of the table below
    from alignprune import alignment as alignment
    from alignprune import batch_policies as batch_policies
    from alignprune import coresets as coresets
    from alignprune import noise as noise
    from alignprune import policies as policies
    from alignprune import presets as presets
    from alignprune import reference as reference
    from alignprune import relabel as relabel
    from alignprune import robust as robust
    from alignprune import scores as scores
    from alignprune.dataset import Indexed as Indexed
    from alignprune.dataset import IndexedCollate as IndexedCollate
    from alignprune.ledger import Ledger as Ledger
    from alignprune.policies import Selection as Selection
    from alignprune.presets import PRESETS as PRESETS
    from alignprune.pruner import Pruner as Pruner
    from alignprune.reference import Reference as Reference
    from alignprune.sampler import EpochSampler as EpochSampler
    from alignprune.sampler import EvenBatches as EvenBatches
    from alignprune.trajectory import TrajectoryBank as TrajectoryBank

__version__ = "0.1.0"

_HOME = {
    "PRESETS": "presets",
    "EpochSampler": "sampler",
    "EvenBatches": "sampler",
    "Indexed": "dataset",
    "IndexedCollate": "dataset",
    "Ledger": "ledger",
    "Pruner": "pruner",
    "Reference": "reference",
    "Selection": "policies",
    "TrajectoryBank": "trajectory",
    "alignment": "alignment",
    "batch_policies": "batch_policies",
    "coresets": "coresets",
    "noise": "noise",
    "policies": "policies",
    "presets": "presets",
    "reference": "reference",
    "relabel": "relabel",
    "robust": "robust",
    "scores": "scores",
}
"""The public names, each with the module that holds it; a module holds itself."""

__all__ = list(_HOME)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


if not TYPE_CHECKING:  # a type checker that saw this would believe that every name is there

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(f"{__name__}.{_HOME[name]}")
        found = module if name == _HOME[name] else getattr(module, name)
        globals()[name] = found  # the next look finds it without this function
        return found
