"""A policy of your own: leave out the most suspicious samples, and draw the rest of the budget from the others.

python examples/own_policy.py
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import alignprune as ap

EPOCHS = 40


@dataclass(frozen=True)
class LeaveOutSuspects(ap.Policy):
    """Leave out the most suspicious share, and draw half of the data set from the others."""

    share: float = 0.3

    def select(self, evidence: ap.Evidence) -> ap.Selection:
        size, suspicion = evidence.num_samples, evidence.suspicion.numpy()
        scored = np.count_nonzero(~np.isnan(suspicion))  # none in the first epoch
        suspects = np.sort(np.argsort(-suspicion)[: int(self.share * scored)])  # NaN comes last
        others = np.setdiff1d(np.arange(size), suspects)
        drawn = evidence.draws.choose("others", others, size // 2)
        return ap.Selection(torch.from_numpy(drawn), None, size, suspects=torch.from_numpy(suspects))


images, labels = load_digits(return_X_y=True)
x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels).long()
noisy = ap.noise.corrupt(y[:1200], "symmetric", 0.4, 10, seed=0)
train_set = TensorDataset(x[:1200], noisy.labels)


def train(policy: ap.Policy) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruner = ap.Pruner(len(train_set), EPOCHS, score=ap.scores.ExposureLoss(), policy=policy)
    loader = DataLoader(ap.Indexed(train_set), sampler=pruner.sampler, batch_size=32)
    for _ in range(pruner.epochs):
        for index, (inputs, targets) in loader:
            losses = F.cross_entropy(model(inputs), targets, reduction="none")
            optimizer.zero_grad()
            pruner.reduce(index, losses).backward()
            optimizer.step()
        pruner.end_epoch()
    kept = noisy.is_noisy[pruner.selection.indices].float().mean()
    accuracy = (model(x[1200:]).argmax(1) == y[1200:]).float().mean()
    print(f"{type(policy).__name__}: {kept:.1%} of the kept labels are wrong, accuracy {accuracy:.1%}")


train(ap.policies.DynamicRandom(prune_ratio=0.5))
train(LeaveOutSuspects())
