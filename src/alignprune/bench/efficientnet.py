"""EfficientNet of timm's, to be fine-tuned: its last stages are trained alone, and it reads images of any scale.

    image [B, C, H, W] -> as its weights know images -> stem -> 7 stages -> 1280 maps -> mean of each -> linear

Data sets normalise their images in ways of their own. The network is told how, and undoes it: x s + m in [0, 1], then
(x - 0.5) / 0.5, as one scale and one shift of each channel, which are stored with the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alignprune.errors import ValueMistake

_MEAN = _STD = 0.5  # of each channel, of values in [0, 1], in the images that its weights were trained on


class EfficientNet(nn.Module):
    """A network of timm's in stages, of which the last may be trained alone; with timm's methods for features.

    Args:
        network: of timm's class EfficientNet, whose inputs are (x - 0.5) / 0.5.
        channels: of an image.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: Any, channels: int) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("scale", torch.ones(channels, 1, 1))
        self.register_buffer("shift", torch.zeros(channels, 1, 1))
        self._frozen: tuple[nn.Module, ...] = ()

    def read_normalised(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Say how the images are normalised; without a word they come as the network's weights know them.

        Args:
            mean, std: of each channel, of values in [0, 1].
        """
        means, deviations = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (mean, std))
        self.scale.copy_(deviations / _STD)
        self.shift.copy_((means - _MEAN) / _STD)

    def train_last(self, stages: int) -> None:
        """Train the last stages and what follows them; the stem and the other stages stay as they are.

        What stays gets no gradient, and its batch normalisation keeps its statistics in training, too.

        Args:
            stages: how many, from 0 to all of them.

        Raises:
            ValueError: if there are not so many.
        """
        blocks = self.network.blocks
        if not 0 <= stages <= len(blocks):
            raise ValueMistake(
                f"trained_stages={stages} is out of range, expected an integer from 0 to {len(blocks)}, the stages of "
                "the network: None trains all, and the stem"
            )
        self._frozen = (self.network.conv_stem, self.network.bn1, *blocks[: len(blocks) - stages])
        for part in self._frozen:
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> EfficientNet:
        """Training or evaluation mode, but for what stays as it is."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to the last maps [B, 1280, h, w]."""
        return self.network.forward_features(x * self.scale + self.shift)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps to logits [B, classes]; with pre_logits, to what the classifier reads."""
        return self.network.forward_head(x, pre_logits=pre_logits)

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.network.get_classifier()

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to logits [B, classes]."""
        return self.forward_head(self.forward_features(x))
