"""skorch: a net that prunes; a script without pruning differs in the lines that end in "# pruning".

python examples/skorch_digits.py
"""

import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier
from torch import nn

import alignprune as ap
from alignprune.integrations.skorch import Pruned

EPOCHS = 6


class Net(Pruned, NeuralNetClassifier):  # pruning
    pass


images, labels = load_digits(return_X_y=True)
x, y = images.astype("float32") / 16, labels

torch.manual_seed(0)
net = Net(
    nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)),
    pruner=ap.Pruner.from_preset("infobatch", num_samples=1200, epochs=EPOCHS),  # pruning
    criterion=nn.CrossEntropyLoss,
    criterion__reduction="none",  # pruning
    optimizer__momentum=0.9,
    lr=0.1,
    max_epochs=EPOCHS,
    batch_size=32,
    train_split=None,  # pruning: or predefined_split(valid_set)
)
net.fit(x[:1200], y[:1200])

kept = net.pruner.forward_passes / (EPOCHS * 1200)
print(f"accuracy {net.score(x[1300:], y[1300:]):.1%} with {kept:.0%} of the forward passes")
