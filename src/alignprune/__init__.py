"""AlignPrune: prune while training, robust to wrong labels, a few lines in anyone's loop."""

from alignprune import alignment, coresets, errors, losses, memory, noise, policies, presets, reference, scores
from alignprune.dataset import Indexed, IndexedCollate
from alignprune.errors import UserError
from alignprune.memory import Ledger, Memory, MemorySpec, TrajectoryBank
from alignprune.policies import BatchEvidence, BatchPolicy, Evidence, Policy
from alignprune.presets import PRESETS, Preset
from alignprune.pruner import Pruner
from alignprune.reference import Reference
from alignprune.sampler import EpochSampler, EvenBatches
from alignprune.scores import History, Score
from alignprune.selection import Selection

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "BatchEvidence",
    "BatchPolicy",
    "EpochSampler",
    "EvenBatches",
    "Evidence",
    "History",
    "Indexed",
    "IndexedCollate",
    "Ledger",
    "Memory",
    "MemorySpec",
    "Policy",
    "Preset",
    "Pruner",
    "Reference",
    "Score",
    "Selection",
    "TrajectoryBank",
    "UserError",
    "alignment",
    "coresets",
    "errors",
    "losses",
    "memory",
    "noise",
    "policies",
    "presets",
    "reference",
    "scores",
]
