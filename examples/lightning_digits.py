"""Lightning: scikit-learn's digits, 40 % wrong labels, robust. Five lines differ from a training that prunes nothing.

python examples/lightning_digits.py
"""

import lightning as L
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import alignprune as ap
from alignprune.integrations.lightning import DataPruning

images, labels = load_digits(return_X_y=True)
x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels).long()
noisy = ap.noise.corrupt(y[:1200], "symmetric", 0.4, 10, seed=0)
train_set = TensorDataset(x[:1200], noisy.labels)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Classifier(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))

    def training_step(self, batch, batch_idx):
        index, (inputs, targets) = batch  # pruning
        return pruner.reduce(index, F.cross_entropy(self.net(inputs), targets, reduction="none"))  # pruning

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


torch.manual_seed(0)
pruner = ap.Pruner.from_preset("robust", num_samples=1200, epochs=20, labels=noisy.labels)  # pruning
loader = pruner.loader(train_set, batch_size=32)  # pruning
pruning = {"callbacks": [DataPruning(pruner)], "reload_dataloaders_every_n_epochs": 1}  # pruning
trainer = L.Trainer(max_epochs=20, **pruning, **quiet)
model = Classifier()
trainer.fit(model, loader)

with torch.no_grad():
    accuracy = (model.net(x[1300:].to(model.device)).argmax(1).cpu() == y[1300:]).float().mean()
passes = pruner.forward_passes / (pruner.epochs * len(train_set))
wrong = noisy.is_noisy[pruner.suspects].float().mean()
print(f"{passes:.0%} of the forward passes, accuracy {accuracy:.1%}")
print(f"{len(pruner.suspects)} labels are suspect, {wrong:.0%} of them wrong")
