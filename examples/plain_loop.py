"""The smallest whole training: scikit-learn's digits, 40 % wrong labels, infobatch+das in a plain PyTorch loop.

python examples/plain_loop.py
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import alignprune as ap

EPOCHS = 20

images, labels = load_digits(return_X_y=True)
x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels).long()
noisy = ap.noise.corrupt(y[:1200], "symmetric", 0.4, 10, seed=0)
train_set = TensorDataset(x[:1200], noisy.labels)
clean_set = TensorDataset(x[1200:1300], y[1200:1300])  # samples whose labels we trust

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

pruner = ap.Pruner.from_preset("infobatch+das", num_samples=len(train_set), epochs=EPOCHS)
loader = DataLoader(ap.Indexed(train_set), sampler=pruner.sampler, batch_size=32)
reference = ap.Reference.subset(clean_set)

for epoch in range(pruner.epochs):
    kept = noisy.is_noisy[pruner.selection.indices].float().mean()
    print(f"epoch {epoch:2d}: {pruner.selection.pruned_share:5.1%} pruned, {kept:.1%} of the kept labels are wrong")
    for index, (inputs, targets) in loader:
        losses = F.cross_entropy(model(inputs), targets, reduction="none")
        optimizer.zero_grad()
        pruner.reduce(index, losses).backward()
        optimizer.step()
    pruner.end_epoch(reference_loss=reference.loss(model))

accuracy = (model(x[1300:]).argmax(1) == y[1300:]).float().mean()
print(f"accuracy {accuracy:.1%} with {pruner.forward_passes / (EPOCHS * len(train_set)):.0%} of the forward passes")
