"""A batch policy of your own: train on the half of every batch that the network is least sure of.

python examples/own_batch_policy.py
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import alignprune as ap

EPOCHS = 5


@dataclass(frozen=True)
class Uncertain(ap.BatchPolicy):
    """Draw a share of every batch, the likelier the more uncertain the network is of a sample."""

    share: float = 0.5

    def choose(self, batch: ap.BatchEvidence) -> Tensor:
        entropy = torch.distributions.Categorical(logits=batch.logits).entropy()
        count = max(1, int(self.share * len(entropy)))
        return torch.multinomial(entropy + 1e-6, count, generator=batch.generator)


images, labels = load_digits(return_X_y=True)
x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels).long()
train_set = TensorDataset(x[:1200], y[:1200])


def train(policy: ap.Policy) -> None:
    torch.manual_seed(0)
    body, head = nn.Sequential(nn.Linear(64, 256), nn.ReLU()), nn.Linear(256, 10)
    optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1, momentum=0.9)
    pruner = ap.Pruner(len(train_set), EPOCHS, score=ap.scores.Loss(), policy=policy)
    loader = DataLoader(ap.Indexed(train_set), sampler=pruner.sampler, batch_size=32)
    trained = 0
    for _ in range(pruner.epochs):
        for index, (inputs, targets) in loader:
            with torch.no_grad():
                features = body(inputs)
                chosen = pruner.choose(index, logits=head(features), features=features, labels=targets)
            losses = F.cross_entropy(head(body(inputs[chosen])), targets[chosen], reduction="none")
            optimizer.zero_grad()
            pruner.reduce(index[chosen], losses).backward()
            optimizer.step()
            trained += len(chosen)
        pruner.end_epoch()
    accuracy = (head(body(x[1200:])).argmax(1) == y[1200:]).float().mean()
    share = trained / (EPOCHS * len(train_set))
    print(f"{type(policy).__name__}: trained on {share:.0%} of the samples, accuracy {accuracy:.1%}")


train(ap.policies.Full())
train(Uncertain())
