"""The same loop on several ranks: nothing is added but DDP itself. Every rank comes to the same selection.

torchrun --standalone --nproc-per-node 2 examples/distributed.py
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import alignprune as ap

EPOCHS = 6

dist.init_process_group("gloo")
images, labels = load_digits(return_X_y=True)
x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels).long()
train_set, clean_set = TensorDataset(x[:1200], y[:1200]), TensorDataset(x[1200:1300], y[1200:1300])

torch.manual_seed(0)
model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

pruner = ap.Pruner.from_preset("infobatch+das", num_samples=len(train_set), epochs=EPOCHS)
loader = DataLoader(ap.Indexed(train_set), sampler=pruner.sampler, batch_size=32 // dist.get_world_size())
reference = ap.Reference.subset(clean_set)

for _ in range(pruner.epochs):
    for index, (inputs, targets) in loader:
        losses = F.cross_entropy(model(inputs), targets, reduction="none")
        optimizer.zero_grad()
        pruner.reduce(index, losses).backward()
        optimizer.step()
    pruner.end_epoch(reference_loss=reference.loss(model))

kept = pruner.forward_passes / (EPOCHS * len(train_set))
print(
    f"rank {dist.get_rank()}: {kept:.0%} of the forward passes, last scores sum to {pruner.scores.nansum():.4f}",
    flush=True,
)
dist.destroy_process_group()
