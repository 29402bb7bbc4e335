"""Five methods at the same cost, three seeds: scikit-learn's digits, 20 % wrong labels, a loop of your own.

A method leaves out as much as it wants, so a trial says how much that is, and the epochs follow: every method gets half
of the forward passes of 40 full epochs. Printed are means over the seeds and half of the 95 % t-interval, of the
accuracy after the last epoch and of its difference to full training, seed by seed.

python examples/compare_methods.py        40 epochs
python examples/compare_methods.py 12     so many
"""

import sys
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from scipy.stats import t
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

import alignprune as ap

METHODS = ("full", "dynamic-random", "infobatch", "infobatch+das", "robust")
SEEDS, BUDGET = (0, 1, 2), 0.5
EPOCHS = int([*sys.argv, "40"][1])

images, labels = load_digits(return_X_y=True)
x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels).long()


def train(method: str, epochs: int, seed: int) -> tuple[float, float]:
    """Train once, on a split, wrong labels, a network and draws of this seed.

    Returns:
        the accuracy on the test set, and the forward passes in full epochs.
    """
    test, clean, train = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).split([360, 100, 1337])
    noisy = ap.noise.corrupt(y[train], "symmetric", 0.2, 10, seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pruner = ap.Pruner.from_preset(method, num_samples=len(train), epochs=epochs, labels=noisy.labels, seed=seed)
    loader = DataLoader(ap.Indexed(TensorDataset(x[train], noisy.labels)), sampler=pruner.sampler, batch_size=32)
    reference = ap.Reference.subset(TensorDataset(x[clean], y[clean]))
    steps = pruner.planned_steps(batch_size=32)
    schedule = ap.PacedScheduler(CosineAnnealingLR(optimizer, steps), pruner, steps)

    for _ in range(pruner.epochs):
        for index, (inputs, targets) in loader:
            logits = model(inputs)
            losses = F.cross_entropy(logits, targets, reduction="none")
            optimizer.zero_grad()
            pruner.reduce(index, losses, predictions=logits.argmax(1)).backward()
            optimizer.step()
            schedule.step()
        pruner.end_epoch(reference_loss=reference.loss(model))
    with torch.no_grad():
        accuracy = (model(x[test]).argmax(1) == y[test]).double().mean()
    return float(accuracy), pruner.forward_passes / len(train)


def affordable(method: str) -> int:
    """How many epochs of a method cost the budget, by a trial on a seed that is not compared."""
    _, passes = train(method, EPOCHS, seed=len(SEEDS))
    return round(BUDGET * EPOCHS * EPOCHS / passes)


def interval(values: list[float]) -> str:
    """The mean and half of its 95 % t-interval, in percent."""
    half = t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{100 * mean(values):5.1f} ± {100 * half:4.1f}"


print("method          epochs  passes  accuracy      to full")
baseline: list[float] = []
for method in METHODS:
    epochs = affordable(method)
    accuracies, passes = zip(*(train(method, epochs, seed) for seed in SEEDS), strict=True)
    baseline = baseline or list(accuracies)
    differences = [own - full for own, full in zip(accuracies, baseline, strict=True)]
    cost = mean(passes) / EPOCHS
    print(f"{method:14}  {epochs:6}  {cost:6.0%}  {interval(accuracies)}  {interval(differences)}", flush=True)
