"""Digits: scikit-learn's 1,797 handwritten digits as features, for runs of seconds that need no file.

A digit is 8 x 8 grey values from 0 to 16, row by row, divided by 16. The split is the same in every run.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alignprune.bench.data.records import OF_NUMBERS, DatasetRecord, as_labels, check_noise, draw
from alignprune.bench.data.views import ClassificationData, TensorData, Transforms, assemble

TEST_SIZE = 360
CLASSES = 10

_SPLIT_SEED = 0

DIGITS = DatasetRecord(
    name="digits",
    description="scikit-learn's handwritten digits (1,437 for training and 360 for testing, 10 classes) as 64 grey "
    "values, with clean labels or synthetic noise",
    files=(),
    source="scikit-learn brings them along",
    noises=("clean", *OF_NUMBERS),
    default_noise="clean",
)


def digits(noise: str = "clean", noise_rate: float | None = None, seed: int = 0) -> ClassificationData:
    """The handwritten digits as features, float32 [64] in [0, 1].

    Args:
        noise: "clean", or a kind of `alignprune.noise` that needs no table of classes.
        noise_rate: nominal rate of synthetic noise in [0, 1]; None for "clean".
        seed: seed of synthetic noise; the split does not depend on it.

    Returns:
        the data.

    Raises:
        ValueError: if the noise does not fit.

    Source: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits (UCI), of which scikit-learn has the
        test set.
    """
    from sklearn.datasets import load_digits

    check_noise(DIGITS, noise, noise_rate)
    features, classes = load_digits(return_X_y=True)
    inputs, labels = torch.from_numpy(features).float() / 16, as_labels(classes)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    test, train = order[:TEST_SIZE], order[TEST_SIZE:]
    clean = labels[train]

    def view(labels: Tensor, transform: nn.Module | None) -> TensorData:
        return TensorData(inputs[train], labels, transform)

    return assemble(
        name=DIGITS.name,
        view=view,
        transforms=Transforms(None, None, None),
        given=clean,
        noise=draw(DIGITS, clean, noise, noise_rate, CLASSES, seed, inputs[train]),
        truth=clean,
        test=TensorData(inputs[test], labels[test]),
        reference=None,
        num_classes=CLASSES,
        input_shape=tuple(inputs.shape[1:]),
        picture=(8, 8),
    )
