"""A preset of your own: a name for a score and a policy, here a pair that the registry does not have.

python examples/own_preset.py
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import alignprune as ap

EPOCHS = 20

ROBUST_DAS = ap.Preset(
    name="robust+das",
    score=ap.scores.Alignment(window=25),
    policy=ap.policies.Robust(prune_ratio=0.5),
    delta=1.0,
    summary="robust by alignment: leaves out what moves against the reference",
    use="noisy labels, a small clean reference, and runs not much longer than the window",
    cost="138 bytes a sample, a forward pass of the reference per epoch",
    source="examples/own_preset.py",
    title="Robust by alignment",
)
ap.presets.register(ROBUST_DAS)

images, labels = load_digits(return_X_y=True)
x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels).long()
noisy = ap.noise.corrupt(y[:1200], "symmetric", 0.4, 10, seed=0)
train_set = TensorDataset(x[:1200], noisy.labels)
clean_set = TensorDataset(x[1200:1300], y[1200:1300])  # samples whose labels we trust

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

pruner = ap.Pruner.from_preset(
    "robust+das", num_samples=len(train_set), epochs=EPOCHS, labels=noisy.labels, prune_ratio=0.3
)
loader = DataLoader(ap.Indexed(train_set), sampler=pruner.sampler, batch_size=32)
reference = ap.Reference.subset(clean_set)

for _ in range(pruner.epochs):
    for index, (inputs, targets) in loader:
        losses = F.cross_entropy(model(inputs), targets, reduction="none")
        optimizer.zero_grad()
        pruner.reduce(index, losses).backward()
        optimizer.step()
    pruner.end_epoch(reference_loss=reference.loss(model))

row = ap.presets.table()[-1]
print(f"{row['method']}: {row['what it does']}; reference {row['reference']}; {row['cost']}")
kept = noisy.is_noisy[pruner.selection.indices].float().mean()
print(f"{kept:.1%} of the kept labels are wrong, of all labels {noisy.is_noisy.float().mean():.0%}")
