"""A memory of your own, and a score that reads it: one running mean a sample instead of a window of losses.

python examples/own_memory.py
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import alignprune as ap

EPOCHS = 20


class RunningMean(ap.Memory):
    """The running mean of every sample's losses, NaN = never seen: 4 bytes a sample."""

    def __init__(self, num_samples: int) -> None:
        self.mean = torch.full((num_samples,), math.nan)

    def write(self, observed: ap.Observed) -> None:
        losses = observed.losses
        moved = torch.where(self.mean.isnan(), losses, self.mean + 0.2 * (losses - self.mean))
        self.mean = torch.where(losses.isnan(), self.mean, moved)

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean = state["mean"].clone()


@dataclass(frozen=True)
class RunningMeanSpec(ap.MemorySpec):
    """Asks for a `RunningMean`."""

    def make(self, room: ap.memory.Room) -> RunningMean:
        return RunningMean(room.num_samples)


@dataclass(frozen=True)
class SmoothLoss(ap.Score):
    """The running mean of the losses."""

    suspect = "high"

    @property
    def memories(self) -> tuple[ap.MemorySpec, ...]:
        return (RunningMeanSpec(),)

    def __call__(self, history: ap.History) -> Tensor:
        return history.memory(RunningMean).mean


images, labels = load_digits(return_X_y=True)
x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels).long()
noisy = ap.noise.corrupt(y[:1200], "symmetric", 0.4, 10, seed=0)
train_set = TensorDataset(x[:1200], noisy.labels)

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def make_pruner() -> ap.Pruner:
    return ap.Pruner(len(train_set), EPOCHS, score=SmoothLoss(), policy=ap.policies.DynamicRandom(prune_ratio=0.3))


pruner = make_pruner()
loader = DataLoader(ap.Indexed(train_set), sampler=pruner.sampler, batch_size=32)

for _ in range(pruner.epochs):
    for index, (inputs, targets) in loader:
        losses = F.cross_entropy(model(inputs), targets, reduction="none")
        optimizer.zero_grad()
        pruner.reduce(index, losses).backward()
        optimizer.step()
    pruner.end_epoch()

loaded = make_pruner()
loaded.load_state_dict(pruner.state_dict())  # the pruner saves and loads the memory with everything else
most_suspicious = loaded.suspicion.nan_to_num(-math.inf).topk(240).indices
found = noisy.is_noisy[most_suspicious].float().mean()
print(f"{found:.0%} of the 240 most suspicious labels are wrong, of all labels {noisy.is_noisy.float().mean():.0%}")
print(f"the loaded memory is the saved one: {loaded.memory(RunningMean).mean.equal(pruner.memory(RunningMean).mean)}")
