"""Image transforms: training (crop, flip), strong (training, then AutoAugment and Cutout), SimCLR's, evaluation.

Every random step comes before the change to floats, so it works on a quarter of the bytes. Photos are cropped
first, because what follows then costs by the crop and not by the photo, and stay PIL images until the end, on
which AutoAugment is three times as fast as on tensors of 224 x 224 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.transforms import AutoAugmentPolicy, v2

from alignprune.bench.data.preparation import Photo, Pixels, Preparation, Resized, Step
from alignprune.bench.data.views import Transforms
from alignprune.errors import ValueMistake

# The constants of the scripts that the paper follows; they use them for CIFAR-10 and CIFAR-100 alike.
CIFAR_MEAN = (0.5074, 0.4867, 0.4411)
CIFAR_STD = (0.2011, 0.1987, 0.2025)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Cutout(nn.Module):
    """Paint a square around a random pixel; what lies outside the image is cut off.

    Args:
        side: height and width of the square in pixels.
        colour: value of each channel, in [0, 255].

    Source: DeVries and Taylor (2017).
    """

    def __init__(self, side: int, colour: Sequence[float]) -> None:
        super().__init__()
        self.side = side
        self.colour = torch.tensor(colour).round().to(torch.uint8)[:, None, None]

    def forward(self, image: Tensor) -> Tensor:
        """Paint a copy of an image, uint8 [C, H, W]."""
        top, left = (int(torch.randint(size, ())) - self.side // 2 for size in image.shape[1:])
        painted = image.clone()
        painted[:, max(top, 0) : top + self.side, max(left, 0) : left + self.side] = self.colour
        return painted


def tensor_transforms(
    height: int,
    width: int,
    padding: int,
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int | None = None,
) -> tuple[Transforms, nn.Module]:
    """Random crop and flip of one image of a fixed size, and what brings an image or a batch to the network's scale.

    Args:
        height: of an image in pixels.
        width: of an image in pixels.
        padding: reflected pixels at each side before the crop.
        mean: of each channel, of values in [0, 1].
        std: of each channel, of values in [0, 1].
        image_size: height and width in pixels that normalised images are brought to; None leaves them.

    Returns:
        the random transforms of one image, uint8 [C, H, W], and the normalisation, which gives float32. Only
        images with 1 or 3 channels have a strong and a contrastive view: the colour operations need those.

    Source: the strong view is Prune4ReL's of CIFAR: AutoAugment (CIFAR-10 policy), crop, flip, Cutout of half the
        side; the contrastive view is SimCLR's of CIFAR: half the colour distortion of photos, no blur.
    """
    if image_size is not None:
        _check_size(image_size)
    train = [v2.RandomHorizontalFlip()]
    if padding:
        train.insert(0, v2.RandomCrop((height, width), padding=padding, padding_mode="reflect"))
    strong = contrastive = None
    if len(mean) in (1, 3):
        # In the mean colour, which the normalisation takes to 0.
        cutout = Cutout(min(height, width) // 2, [255 * value for value in mean])
        strong = v2.Compose([*train, v2.AutoAugment(AutoAugmentPolicy.CIFAR10), cutout])
        crop = v2.RandomResizedCrop((height, width))
        contrastive = v2.Compose([crop, v2.RandomHorizontalFlip(), *_colour_distortion(0.5)])
    steps: tuple[Step, ...] = (Pixels(tuple(mean), tuple(std)),)
    if image_size is not None and (height, width) != (image_size, image_size):
        steps += (Resized(image_size),)
    preparation = Preparation("pixels", steps, shape=(len(mean), height, width))
    return Transforms(v2.Compose(train), strong, contrastive, preparation=preparation), preparation.build()


def photo_transforms(size: int) -> Transforms:
    """Random crops of any scale and shape in training; otherwise the centre of the photo.

    Args:
        size: height and width of the result in pixels.

    Returns:
        transforms of an RGB image of any size to float32 [3, size, size].

    Source: the usual transforms of ImageNet.
    """
    return _photos(size, [v2.RandomResizedCrop(size)], (_resized(size),))


def resized_transforms(size: int) -> Transforms:
    """Photos brought to one size without regard to their shape, then shifted by a random crop.

    Args:
        size: height and width of the result in pixels; 224 is cut from 256.

    Returns:
        transforms of an RGB image of any size to float32 [3, size, size].

    Source: Prune4ReL's transforms of WebVision and Clothing-1M: 256 x 256, crop of 224 with padding 4, flip.
    """
    both = (_resized(size), _resized(size))
    return _photos(size, [v2.Resize(both), v2.RandomCrop(size, padding=4)], both)


def _resized(size: int) -> int:
    """Size in pixels from which the crop is cut."""
    _check_size(size)
    return round(size / 0.875)


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueMistake(f"image_size={size} is out of range, expected an integer >= 1: pixels")


def _colour_distortion(strength: float) -> list[nn.Module]:
    """Jitter and loss of colour, as SimCLR's appendix A gives them."""
    jitter = v2.ColorJitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)
    return [v2.RandomApply([jitter], p=0.8), v2.RandomGrayscale(p=0.2)]


def _photos(size: int, crop: list[nn.Module], resize: tuple[int, ...]) -> Transforms:
    preparation = Preparation("photo", (Photo(resize, size, IMAGENET_MEAN, IMAGENET_STD),))
    train = [*crop, v2.RandomHorizontalFlip()]
    finish = [
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD)),
    ]
    blur = v2.RandomApply([v2.GaussianBlur(max(3, size // 20 * 2 + 1), (0.1, 2.0))], p=0.5)
    contrastive = [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *_colour_distortion(1.0), blur]
    return Transforms(
        train=v2.Compose([*train, *finish]),
        strong=v2.Compose([*train, v2.AutoAugment(AutoAugmentPolicy.IMAGENET), *finish]),
        contrastive=v2.Compose([*contrastive, *finish]),
        plain=preparation.build(),
        preparation=preparation,
    )
