"""AlignPrune: prune while training, robust to wrong labels, a few lines in anyone's loop."""

from alignprune import alignment, batch_policies, coresets, noise, policies, presets, reference, relabel, robust, scores
from alignprune.dataset import Indexed, IndexedCollate
from alignprune.ledger import Ledger
from alignprune.policies import Selection
from alignprune.presets import PRESETS
from alignprune.pruner import Pruner
from alignprune.reference import Reference
from alignprune.sampler import EpochSampler, EvenBatches
from alignprune.trajectory import TrajectoryBank

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "EpochSampler",
    "EvenBatches",
    "Indexed",
    "IndexedCollate",
    "Ledger",
    "Pruner",
    "Reference",
    "Selection",
    "TrajectoryBank",
    "alignment",
    "batch_policies",
    "coresets",
    "noise",
    "policies",
    "presets",
    "reference",
    "relabel",
    "robust",
    "scores",
]
