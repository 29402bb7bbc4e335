"""CIFAR-100 as fixed features: what a network sees that learns only the last layers, and memorises in minutes on a CPU.

Unsupervised features of small patches, computed once and cached. Every 6 x 6 patch is brought to mean 0 and its own
contrast, whitened by the covariance of random training patches, and compared with 800 centroids that k-means finds
among these; what counts is by how much a centroid is nearer than the average one. The activations are averaged over the
four quadrants of an image, and the 3,200 averages brought down to their first 400 principal components, each with
variance 1. No label and no test image takes part in any of it.

Source: Coates, Ng and Lee, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning" (AISTATS 2011), with
a stride of 2.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignprune.bench.data.cache import Arrays, cached
from alignprune.bench.data.cifar import CIFAR100N, cifar100n
from alignprune.bench.data.records import data_root
from alignprune.bench.data.views import ClassificationData, PathLike, TensorData, Transforms, assemble, channels_first

PATCH, STRIDE = 6, 2
CENTROIDS = 800
COMPONENTS = 400

_SAMPLED, _PER_IMAGE = 20_000, 10  # training images, and patches of each, that whitening and centroids are made of
_CONTRAST = 10.0  # added to the variance of a patch of grey values from 0 to 255
_WHITENING = 0.1  # added to the eigenvalues of the covariance
_BATCH = 200

CIFAR100N_FEATURES = replace(
    CIFAR100N,
    name="cifar100n-features",
    image_size=None,
    description=f"cifar100n as {COMPONENTS} features of its patches, learned without labels; they are computed once, "
    "in some minutes, and cached",
)


def cifar100n_features(
    root: PathLike | None = None, noise: str = "real", noise_rate: float | None = None, seed: int = 0
) -> ClassificationData:
    """CIFAR-100 with the labels of CIFAR-100N, clean labels or synthetic noise, as features, float32 [400].

    Args, Raises: as for `cifar100n`.

    Returns:
        the data. The order of the samples, their labels and their noise are those of `cifar100n`.
    """
    from torchvision import datasets

    images = cifar100n(root, noise, noise_rate, seed)
    folder = data_root(root)
    depends_on = {
        "version": 1,
        **{part: folder / datasets.CIFAR100.base_folder / part for part in ("train", "test")},
        "settings": (PATCH, STRIDE, CENTROIDS, COMPONENTS, _SAMPLED, _PER_IMAGE, _CONTRAST, _WHITENING),
    }
    stored = cached("cifar100-features", depends_on, partial(_prepare, folder))
    train, test = torch.from_numpy(stored["train"]), torch.from_numpy(stored["test"])

    def view(labels: Tensor, transform: nn.Module | None) -> TensorData:
        return TensorData(train, labels, transform)

    assert images.clean_labels is not None
    test_images = images.test
    assert isinstance(test_images, TensorData)
    return assemble(
        name=CIFAR100N_FEATURES.name,
        view=view,
        transforms=Transforms(None, None, None),
        given=images.clean_labels,
        noise=images.noise,
        truth=images.clean_labels,
        test=TensorData(test, test_images.labels),
        reference=None,
        num_classes=images.num_classes,
        input_shape=(COMPONENTS,),
        class_names=images.class_names,
    )


def _prepare(folder: PathLike) -> Arrays:
    """Features of the training and of the test images, float32 [N, COMPONENTS]."""
    from torchvision import datasets

    train, test = (channels_first(datasets.CIFAR100(folder, train=part).data) for part in (True, False))
    return patch_features(train, test, CENTROIDS, COMPONENTS, _SAMPLED)


def patch_features(train: Tensor, test: Tensor, centroids: int, components: int, sampled: int) -> Arrays:
    """Features of images by the patches of the training images.

    Args:
        train: uint8 [N, C, H, W].
        test: uint8 [M, C, H, W].
        centroids: number of patch prototypes, K.
        components: features of an image, at most 4 K and at most N.
        sampled: training images that prototypes are learned from, at most N.

    Returns:
        "train", float32 [N, components], with mean 0 and variance 1, and "test", [M, components]. The same images give
        the same features.
    """
    from sklearn.cluster import MiniBatchKMeans

    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(train), generator=generator)[:sampled]
    patches = torch.cat([_sample(_patches(part), generator) for part in train[chosen].split(_BATCH)])
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((patches - mean).T))
    whiten = vectors @ torch.diag((values + _WHITENING).rsqrt()) @ vectors.T
    found = MiniBatchKMeans(centroids, batch_size=4096, max_iter=20, n_init=1, random_state=0).fit(
        ((patches - mean) @ whiten).numpy()
    )
    prototypes = torch.from_numpy(found.cluster_centers_).float()
    pooled = [
        torch.cat([_pooled((_patches(part) - mean) @ whiten, prototypes) for part in images.split(_BATCH)])
        for images in (train, test)
    ]
    centre = pooled[0].mean(0)
    pooled = [part - centre for part in pooled]
    values, vectors = torch.linalg.eigh(pooled[0].T @ pooled[0] / len(pooled[0]))
    project = vectors[:, -components:] * values[-components:].rsqrt()
    return {name: (part @ project).numpy() for name, part in zip(("train", "test"), pooled, strict=True)}


def _patches(images: Tensor) -> Tensor:
    """All patches of some images, float32 [B, L, C * PATCH^2], each with mean 0 and about variance 1."""
    patches = functional.unfold(images.float(), PATCH, stride=STRIDE).transpose(1, 2)
    patches = patches - patches.mean(2, keepdim=True)
    return patches / torch.sqrt(patches.var(2, keepdim=True) + _CONTRAST)


def _sample(patches: Tensor, generator: torch.Generator) -> Tensor:
    """_PER_IMAGE random patches of each image, [B * _PER_IMAGE, D]."""
    where = torch.randint(patches.shape[1], (len(patches), _PER_IMAGE), generator=generator)
    return patches.gather(1, where[:, :, None].expand(-1, -1, patches.shape[2])).flatten(0, 1)


def _pooled(patches: Tensor, prototypes: Tensor) -> Tensor:
    """By how much each prototype is nearer than the average one, averaged over the quadrants: [B, 4 K]."""
    distances = torch.cdist(patches, prototypes)
    nearer = (distances.mean(2, keepdim=True) - distances).clamp_min_(0).transpose(1, 2)
    side = int(np.sqrt(patches.shape[1]))
    return functional.adaptive_avg_pool2d(nearer.unflatten(2, (side, side)), 2).flatten(1)
