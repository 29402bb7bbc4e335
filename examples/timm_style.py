"""A loop in timm's manner: without pruning it differs in the lines that end in "# pruning" and in its schedule's.

python examples/timm_style.py
"""

import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, ModelEmaV3
from torch.utils.data import TensorDataset

import alignprune as ap

EPOCHS = 8


def train_one_epoch(model, loader, optimizer, lr_scheduler, model_ema):
    losses_m = AverageMeter()
    model.train()
    for index, (input, target) in loader:  # pruning
        loss = pruner.reduce(index, F.cross_entropy(model(input), target, reduction="none"))  # pruning
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model_ema.update(model)
        losses_m.update(loss.item(), input.size(0))
        lr_scheduler.step_update(int(pruner.progress * EPOCHS * updates_per_epoch))  # was: num_updates
    return losses_m.avg


images, labels = load_digits(return_X_y=True)
x, y = torch.from_numpy(images).float().view(-1, 1, 8, 8) / 16, torch.from_numpy(labels).long()
train_set = TensorDataset(x[:1200], y[:1200])

torch.manual_seed(0)
model = timm.create_model("test_efficientnet", in_chans=1, num_classes=10)
model_ema = ModelEmaV3(model, decay=0.9)
optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3)
pruner = ap.Pruner.from_preset("infobatch", num_samples=len(train_set), epochs=EPOCHS)  # pruning
loader = pruner.loader(train_set, batch_size=32, even_batches=True)  # pruning
updates_per_epoch = len(loader)
lr_scheduler, _ = create_scheduler_v2(
    optimizer, num_epochs=EPOCHS, warmup_epochs=1, step_on_epochs=False, updates_per_epoch=updates_per_epoch
)

for epoch in range(EPOCHS):
    loss = train_one_epoch(model, loader, optimizer, lr_scheduler, model_ema)
    rate = optimizer.param_groups[0]["lr"]
    print(f"epoch {epoch}: {len(loader)} updates, loss {loss:.3f}, learning rate {rate:.6f}")
    pruner.end_epoch()  # pruning

model_ema.eval()
accuracy = (model_ema(x[1300:]).argmax(1) == y[1300:]).float().mean()
print(f"accuracy {accuracy:.1%} with {pruner.forward_passes / (EPOCHS * len(train_set)):.0%} of the forward passes")
