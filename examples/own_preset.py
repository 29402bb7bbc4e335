"""A preset of your own: a name for a score and a policy that the registry does not pair.

python examples/own_preset.py
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import alignprune as ap

EPOCHS = 20

SETA_MEAN = ap.Preset(
    name="seta+mean",
    score=ap.scores.ExposureLoss(exponent=0),
    policy=ap.policies.SeTa(groups=5, alpha=0.9),
    delta=0.875,
    summary="SeTa by the mean loss since the start",
    use="when the last loss jumps about",
    cost="24 bytes a sample, a grouping per epoch",
    source="examples/own_preset.py",
    title="SeTa by mean loss",
)
ap.presets.register(SETA_MEAN)

images, labels = load_digits(return_X_y=True)
x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels).long()
noisy = ap.noise.corrupt(y[:1200], "symmetric", 0.4, 10, seed=0)
train_set = TensorDataset(x[:1200], noisy.labels)

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

pruner = ap.Pruner.from_preset("seta+mean", num_samples=len(train_set), epochs=EPOCHS, groups=4)
loader = DataLoader(ap.Indexed(train_set), sampler=pruner.sampler, batch_size=32)

for _ in range(pruner.epochs):
    for index, (inputs, targets) in loader:
        losses = F.cross_entropy(model(inputs), targets, reduction="none")
        optimizer.zero_grad()
        pruner.reduce(index, losses).backward()
        optimizer.step()
    pruner.end_epoch()

row = ap.presets.table()[-1]
print(f"{row['method']}: {row['what it does']}; {row['when']}; {row['cost']}")
accuracy = (model(x[1200:]).argmax(1) == y[1200:]).float().mean()
print(f"accuracy {accuracy:.1%} with {pruner.forward_passes / (EPOCHS * len(train_set)):.0%} of the forward passes")
