"""A score of your own: how often a sample's loss lay above the mean of its epoch.

python examples/own_score.py
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import alignprune as ap

EPOCHS = 20


@dataclass(frozen=True)
class ShareAbove(ap.Score):
    """Share of the last epochs in which the loss of a sample was above the mean loss."""

    suspect = "high"  # the end that wrong labels gather at
    window: int = 10

    @property
    def memories(self) -> tuple[ap.MemorySpec, ...]:
        return (ap.memory.BankSpec(self.window),)

    def __call__(self, history: ap.History) -> Tensor:
        losses = history.memory(ap.TrajectoryBank).losses  # [epochs, N], NaN = not seen in that epoch
        above = (losses > losses.nanmean(1, keepdim=True)).float()
        return above.masked_fill(losses.isnan(), math.nan).nanmean(0)


images, labels = load_digits(return_X_y=True)
x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels).long()
noisy = ap.noise.corrupt(y[:1200], "symmetric", 0.4, 10, seed=0)
train_set = TensorDataset(x[:1200], noisy.labels)

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

policy = ap.policies.DynamicRandom(prune_ratio=0.3)
pruner = ap.Pruner(len(train_set), EPOCHS, score=ShareAbove(), policy=policy)
loader = DataLoader(ap.Indexed(train_set), sampler=pruner.sampler, batch_size=32)

for _ in range(pruner.epochs):
    for index, (inputs, targets) in loader:
        losses = F.cross_entropy(model(inputs), targets, reduction="none")
        optimizer.zero_grad()
        pruner.reduce(index, losses).backward()
        optimizer.step()
    pruner.end_epoch()

most_suspicious = pruner.suspicion.nan_to_num(-math.inf).topk(240).indices
found = noisy.is_noisy[most_suspicious].float().mean()
print(f"{found:.0%} of the 240 most suspicious labels are wrong, of all labels {noisy.is_noisy.float().mean():.0%}")
