"""Networks on features: hidden layers and a linear classifier. `alignprune.bench.models` makes them by name.

    features [B, D] -> body -> last hidden layer [B, width] -> fc -> logits [B, classes]

Features are of a pretrained network, pooled word vectors, or any table of numbers.
"""

from __future__ import annotations

from torch import Tensor, nn


class FeatureNetwork(nn.Module):
    """Hidden layers and a linear classifier, with timm's methods for features and classifier.

    Args:
        body: features [B, D] to the last hidden layer [B, width].
        width: units of the last hidden layer.
        num_classes: number of classes.
    """

    def __init__(self, body: nn.Module, width: int, num_classes: int) -> None:
        super().__init__()
        self.body = body
        self.fc = nn.Linear(width, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Features [B, D] to the last hidden layer [B, width]."""
        return self.body(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Last hidden layer [B, width] to logits [B, classes]; with pre_logits, to itself."""
        return x if pre_logits else self.fc(x)

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, D] to logits [B, classes]."""
        return self.forward_head(self.forward_features(x))


class Mlp(FeatureNetwork):
    """Three linear layers with ReLU between them.

    Args:
        num_classes: number of classes.
        num_inputs: number of features D of a sample.
        width: units of both hidden layers.
    """

    def __init__(self, num_classes: int, num_inputs: int, width: int = 256) -> None:
        body = nn.Sequential(nn.Linear(num_inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        super().__init__(body, width, num_classes)


class Head(FeatureNetwork):
    """One hidden layer with batch normalisation and ReLU, and a linear classifier: a head on a pretrained network.

    Args:
        num_classes: number of classes.
        num_inputs: number of features D of a sample.
        width: units of the hidden layer.
    """

    def __init__(self, num_classes: int, num_inputs: int, width: int = 512) -> None:
        body = nn.Sequential(nn.Linear(num_inputs, width), nn.BatchNorm1d(width), nn.ReLU())
        super().__init__(body, width, num_classes)


class NewsNet(FeatureNetwork):
    """Three linear layers with batch normalisation and softsign between them: the network for NEWS.

    The pooling of the frozen word vectors is left to the data set.

    Args:
        num_classes: number of classes.
        num_inputs: number of features D of a sample.
        widths: units of the two hidden layers.

    Source: Co-teaching+ (xingruiyu/coteaching_plus, model.py).
    """

    def __init__(self, num_classes: int, num_inputs: int, widths: tuple[int, int] = (1200, 300)) -> None:
        layers: list[nn.Module] = []
        for before, after in zip((num_inputs, widths[0]), widths, strict=True):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.Softsign()]
        super().__init__(nn.Sequential(*layers), widths[1], num_classes)
