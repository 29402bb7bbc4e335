"""AlignPrune: prune while training, robust to wrong labels, a few lines in anyone's loop.

A public name is imported when it is first asked for, so that a program that needs no tensors does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what editors and type checkers see of the table below
    from alignprune import alignment as alignment
    from alignprune import coresets as coresets
    from alignprune import errors as errors
    from alignprune import losses as losses
    from alignprune import memory as memory
    from alignprune import noise as noise
    from alignprune import policies as policies
    from alignprune import presets as presets
    from alignprune import reference as reference
    from alignprune import scores as scores
    from alignprune._ranks import Draws as Draws
    from alignprune.dataset import Indexed as Indexed
    from alignprune.dataset import IndexedCollate as IndexedCollate
    from alignprune.errors import UserError as UserError
    from alignprune.memory import Ledger as Ledger
    from alignprune.memory import Memory as Memory
    from alignprune.memory import MemorySpec as MemorySpec
    from alignprune.memory import Observed as Observed
    from alignprune.memory import Room as Room
    from alignprune.memory import TrajectoryBank as TrajectoryBank
    from alignprune.policies import BatchEvidence as BatchEvidence
    from alignprune.policies import BatchPolicy as BatchPolicy
    from alignprune.policies import Evidence as Evidence
    from alignprune.policies import Policy as Policy
    from alignprune.presets import PRESETS as PRESETS
    from alignprune.presets import Preset as Preset
    from alignprune.pruner import Pruner as Pruner
    from alignprune.reference import Reference as Reference
    from alignprune.sampler import EpochSampler as EpochSampler
    from alignprune.sampler import EvenBatches as EvenBatches
    from alignprune.schedule import PacedScheduler as PacedScheduler
    from alignprune.scores import History as History
    from alignprune.scores import Score as Score
    from alignprune.selection import Onset as Onset
    from alignprune.selection import Selection as Selection
    from alignprune.stopping import EarlyStopping as EarlyStopping

__version__ = "0.1.0"

_HOME = {
    "PRESETS": "presets",
    "BatchEvidence": "policies",
    "BatchPolicy": "policies",
    "Draws": "_ranks",
    "EarlyStopping": "stopping",
    "EpochSampler": "sampler",
    "EvenBatches": "sampler",
    "Evidence": "policies",
    "History": "scores",
    "Indexed": "dataset",
    "IndexedCollate": "dataset",
    "Ledger": "memory",
    "Memory": "memory",
    "MemorySpec": "memory",
    "Observed": "memory",
    "Onset": "selection",
    "PacedScheduler": "schedule",
    "Policy": "policies",
    "Preset": "presets",
    "Pruner": "pruner",
    "Reference": "reference",
    "Room": "memory",
    "Score": "scores",
    "Selection": "selection",
    "TrajectoryBank": "memory",
    "UserError": "errors",
    "alignment": "alignment",
    "coresets": "coresets",
    "errors": "errors",
    "losses": "losses",
    "memory": "memory",
    "noise": "noise",
    "policies": "policies",
    "presets": "presets",
    "reference": "reference",
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
        value = module if name == _HOME[name] else getattr(module, name)
        globals()[name] = value  # the next look finds it without this function
        return value
