"""Accelerate, on one process or several: a script without pruning differs in the lines that end in "# pruning".

python examples/accelerate_digits.py
torchrun --standalone --nproc-per-node 2 examples/accelerate_digits.py
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import alignprune as ap
from alignprune.integrations.accelerate import prepare

EPOCHS = 6

accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
images, labels = load_digits(return_X_y=True)
x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels).long()
train_set = TensorDataset(x[:1200], y[:1200])

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
pruner = ap.Pruner.from_preset("infobatch", num_samples=len(train_set), epochs=EPOCHS)  # pruning
loader = prepare(accelerator, pruner, pruner.loader(train_set, batch_size=16))  # pruning
model, optimizer = accelerator.prepare(model, optimizer)

for _ in range(EPOCHS):
    steps = 0
    for index, (inputs, targets) in loader:  # pruning
        with accelerator.accumulate(model):
            loss = pruner.reduce(index, F.cross_entropy(model(inputs), targets, reduction="none"))  # pruning
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            steps += accelerator.sync_gradients
    accelerator.print(f"{len(pruner.selection)} samples in {steps} steps")
    pruner.end_epoch()  # pruning

accuracy = (model(x[1300:]).argmax(1) == y[1300:]).float().mean()
accelerator.print(f"accuracy {accuracy:.1%} with {pruner.forward_passes / (EPOCHS * len(train_set)):.0%} of the passes")
accelerator.end_training()
