"""The network of airbench: small and fast from scratch on images of 32 pixels.

    image [B, c, H, W] -> Whitening 2x2, 8c filters -> GELU -> 3 blocks -> largest of each channel -> linear, / 9

A block is convolution 3x3, maximum of 2x2, normalisation, GELU, convolution 3x3, normalisation, GELU. Every convolution
starts as the identity in its first channels, and the first layer as a whitening of the images' patches: so the
untrained network already passes its images on, well conditioned, and few epochs are enough.

Source: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

PATCH = 2  # height and width of a whitened patch in pixels
RIDGE = 5e-4  # added to the variance of each direction, so that directions without any are not blown up
SCALE = 1 / 9  # of the logits
_MOMENTUM = 0.4  # of the running statistics: the source's 0.6 is what stays of the old ones


class Whitening(nn.Conv2d):
    """A first layer that decorrelates patches; its filters are fixed, its bias is trained.

    The filters are the eigenvectors v_i / sqrt(lambda_i + RIDGE) of the second moments of patches, and then their
    negatives. Before it has seen images they are random.

    Args:
        channels: of an image, c; there are 8c filters.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 2 * channels * PATCH**2, PATCH)
        self.weight.requires_grad_(False)

    def reset_parameters(self) -> None:
        """Draw the filters; the bias starts at 0."""
        super().reset_parameters()
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    @torch.no_grad()
    def look_at(self, batches: Iterable[Tensor]) -> None:
        """Fit the filters to images; the same images give the same filters.

        Args:
            batches: images [B, c, H, W] as the network reads them, one batch at least.
        """
        size = self.in_channels * PATCH**2
        moments, count = torch.zeros(size, size, dtype=torch.float64), 0
        for images in batches:
            patches = functional.unfold(images.double(), PATCH).transpose(1, 2).flatten(0, 1)
            moments += patches.T @ patches
            count += len(patches)
        variances, directions = torch.linalg.eigh(moments / count)
        largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
        directions = directions * largest.sign()  # which of the two signs eigh returns depends on the machine
        filters = (directions / (variances + RIDGE).sqrt()).T.flip(0)
        self.weight.copy_(torch.cat([filters, -filters]).view_as(self.weight))


class _Convolution(nn.Conv2d):
    """3x3 without bias, which starts as the identity in as many channels as there are."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 3, padding=1, bias=False)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        with torch.no_grad():
            nn.init.dirac_(self.weight[: self.in_channels])


class _Normalisation(nn.BatchNorm2d):
    """Batch normalisation with a bias alone."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=_MOMENTUM)
        self.weight.requires_grad_(False)


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        *(_Convolution(before, after), nn.MaxPool2d(2), _Normalisation(after), nn.GELU()),
        *(_Convolution(after, after), _Normalisation(after), nn.GELU()),
    )


class Airbench(nn.Module):
    """The network, with timm's methods for features and classifier.

    Args:
        num_classes: number of classes.
        channels: of an image.
        widths: channels of the three blocks.

    Shapes: images [B, channels, H, W] of 9 pixels at least to logits [B, num_classes].
    """

    def __init__(self, num_classes: int, channels: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.whitening = Whitening(channels)
        before = (self.whitening.out_channels, *widths)
        self.blocks = nn.Sequential(*(_block(*pair) for pair in zip(before, widths, strict=False)))
        self.fc = nn.Linear(widths[-1], num_classes, bias=False)

    def look_at(self, batches: Iterable[Tensor]) -> None:
        """Fit the first layer to images, as `Whitening.look_at`."""
        self.whitening.look_at(batches)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [B, channels, H, W] to the maps of the last block."""
        return self.blocks(functional.gelu(self.whitening(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps to logits [B, classes]; with pre_logits, to what the classifier reads."""
        largest = SCALE * x.amax((2, 3))
        return largest if pre_logits else self.fc(largest)

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, channels, H, W] to logits [B, classes]."""
        return self.forward_head(self.forward_features(x))
