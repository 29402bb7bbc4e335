"""Methods that read where the samples lie: distance to the centre of the class, or to the nearest prototype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from alignprune._checks import choice, integer, number
from alignprune.coresets.proxy import Extent, Proxy
from alignprune.coresets.ranking import central, largest_with_floor
from alignprune.coresets.settings import Settings
from alignprune.errors import ValueMistake

Keep = Literal["hard", "easy"]
FeatureSource = Literal["self-supervised", "supervised"]

_ROWS = 8192  # samples compared with all centroids at a time


def distance_to_class_median(features: Tensor, labels: Tensor) -> Tensor:
    """Euclidean distance of every sample to the median of its class, taken dimension by dimension.

    Args:
        features: float [N, d].
        labels: int64 [N], class ids.

    Returns:
        float32 [N]. Of an even number of samples the median is the mean of the middle two.

    Source: Xia et al. (ICLR 2023).
    """
    distance = torch.empty(len(labels), dtype=torch.float32, device="cpu")
    for c in labels.unique():
        members = labels == c
        points = features[members].float()
        distance[members] = (points - torch.from_numpy(np.median(points.numpy(), axis=0))).norm(dim=1)
    return distance


def spherical_kmeans(features: Tensor, clusters: int, generator: torch.Generator, steps: int = 100) -> Tensor:
    """Centroids of k-means by cosine: k-means++ seeds, then Lloyd's steps until no sample changes its cluster.

    Samples and centroids are scaled to length 1, where the squared Euclidean distance is twice the cosine distance.
    A cluster that runs empty starts again at the sample farthest from its own centroid.

    Args:
        features: float [N, d].
        clusters: number of centroids k, 1 to N.
        generator: draws the seeds.
        steps: Lloyd's steps at most.

    Returns:
        float32 [k, d], of length 1.

    Raises:
        ValueMistake: for more clusters than samples.

    Source: Arthur and Vassilvitskii (2007) for the seeds.
    """
    _check_clusters(clusters, len(features))
    points = F.normalize(features.float())
    centroids = _seeds(points, clusters, generator)
    assigned = torch.empty(0, dtype=torch.int64, device="cpu")
    for _ in range(steps):
        distance, nearest = _nearest(points, centroids)
        if torch.equal(nearest, assigned):
            break
        assigned = nearest
        centroids = F.normalize(torch.zeros_like(centroids).index_add_(0, assigned, points))
        empty = torch.bincount(assigned, minlength=clusters) == 0
        centroids[empty] = points[distance.topk(int(empty.sum())).indices]
    return centroids


def distance_to_prototype(features: Tensor, centroids: Tensor) -> Tensor:
    """Cosine distance, 1 - cos, of every sample to the nearest centroid.

    Args:
        features: float [N, d].
        centroids: float32 [k, d], of length 1.

    Returns:
        float32 [N], 0 to 2.
    """
    return _nearest(F.normalize(features.float()), centroids)[0]


@dataclass(frozen=True)
class Moderate(Settings):
    """Keep the samples at a medium distance to the centre of their class; one ranking over all classes.

    Source: Xia et al. (ICLR 2023).
    """

    def select(self, proxy: Proxy, size: int, generator: torch.Generator) -> Tensor:
        return central(distance_to_class_median(proxy.features, proxy.labels), size, generator)


@dataclass(frozen=True)
class SSP(Settings):
    """Keep the samples far from (or near to) the prototypes that clustering gives without labels.

    Attributes:
        keep: "hard" keeps the largest distances, which Sorscher et al. advise where much is kept; "easy" the smallest.
        clusters: number of prototypes; None = as many as classes.
        class_floor: share of a balanced choice's count that every class keeps at least, in [0, 1]; 0 = none.
        features: "self-supervised" as in the paper, or the proxy's own "supervised" ones where there are no others.

    Source: Sorscher et al. (NeurIPS 2022).
    """

    keep: Keep = "hard"
    clusters: int | None = None
    class_floor: float = 0.5
    features: FeatureSource = "self-supervised"

    def __post_init__(self) -> None:
        choice("keep", self.keep, get_args(Keep))
        if self.clusters is not None:
            integer("clusters", self.clusters, at_least=1, remedy="None takes as many as classes")
        number("class_floor", self.class_floor, low=0, high=1, remedy="SSP uses 0.5; 0 sets no floor")
        choice("features", self.features, get_args(FeatureSource))

    @property
    def needs(self) -> tuple[str, ...]:
        return ("self_supervised",) if self.features == "self-supervised" else ()

    def check(self, extent: Extent) -> None:
        super().check(extent)
        _check_clusters(self.clusters or extent.num_classes, extent.samples)

    def select(self, proxy: Proxy, size: int, generator: torch.Generator) -> Tensor:
        features = proxy.features if self.features == "supervised" else proxy.self_supervised
        assert features is not None  # in `needs`
        centroids = spherical_kmeans(features, self.clusters or proxy.num_classes, generator)
        distance = distance_to_prototype(features, centroids)
        score = distance if self.keep == "hard" else -distance
        return largest_with_floor(score, proxy.labels, proxy.num_classes, size, self.class_floor, generator)


def _check_clusters(clusters: int, samples: int) -> None:
    if clusters > samples:
        raise ValueMistake(
            f"clusters={clusters} is out of range, expected at most {samples}, the number of samples: ask for fewer "
            f"clusters"
        )


def _seeds(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """k-means++: each seed is a sample drawn in proportion to its squared distance to the nearest seed before it."""
    first = int(torch.randint(len(points), (1,), generator=generator, device="cpu"))
    seeds = [points[first]]
    distance = (1 - points @ points[first]).clamp_min(0)
    for _ in range(clusters - 1):
        race = distance / torch.empty_like(distance).exponential_(generator=generator)  # argmax w / Exp(1) is a draw
        seeds.append(points[int(race.argmax())])
        distance = torch.minimum(distance, (1 - points @ seeds[-1]).clamp_min(0))
    return torch.stack(seeds)


def _nearest(points: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine distance [N] to the nearest centroid, and which [N] it is."""
    pairs = [(rows @ centroids.T).max(1) for rows in points.split(_ROWS)]
    return 1 - torch.cat([pair.values for pair in pairs]), torch.cat([pair.indices for pair in pairs])
