"""Moderate and SSP against distances computed sample by sample."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from alignprune import coresets
from alignprune.coresets import Proxy, distance_to_class_median, distance_to_prototype, spherical_kmeans

Make = Callable[..., Proxy]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Moderate.


def distances(features: torch.Tensor, labels: torch.Tensor) -> list[float]:
    distance = []
    for point, c in zip(features.double().tolist(), labels.tolist(), strict=True):
        members = [row for row, other in zip(features.double().tolist(), labels.tolist(), strict=True) if other == c]
        centre = [float(np.median(column)) for column in zip(*members, strict=True)]
        distance.append(math.dist(point, centre))
    return distance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_distance_is_to_the_median_of_the_own_class(dtype: torch.dtype) -> None:
    features = torch.randn(31, 4, generator=generator()).to(dtype)
    labels = torch.randint(5, (31,), generator=generator(1))
    assert distance_to_class_median(features, labels).tolist() == pytest.approx(distances(features, labels), rel=1e-5)


@pytest.mark.parametrize("size", [1, 30, 31, 60])
def test_moderate_keeps_the_middle_of_one_ranking(make_proxy: Make, size: int) -> None:
    proxy = make_proxy()
    order = sorted(range(60), key=distances(proxy.features, proxy.labels).__getitem__)
    above = (60 - size) // 2
    expected = order[60 - size - above : 60 - above]
    assert coresets.select("moderate", proxy, size, seed=0).tolist() == sorted(expected)


# SSP.


def planted(seed: int, clusters: int = 5, samples: int = 120) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples around well separated directions, of any length, and the cluster of each."""
    g = generator(seed)
    which = torch.arange(samples) % clusters
    directions = torch.eye(8)[:clusters]
    points = directions[which] + 0.02 * torch.randn(samples, 8, generator=g)
    return points * (0.1 + 10 * torch.rand(samples, 1, generator=g)), which


def distance_to_own_mean(points: torch.Tensor, which: torch.Tensor) -> list[float]:
    unit = [np.array(row) / np.linalg.norm(row) for row in points.double().tolist()]
    distance = []
    for i, own in enumerate(which.tolist()):
        mean = sum(unit[j] for j, other in enumerate(which.tolist()) if other == own)
        distance.append(1 - float(unit[i] @ mean) / float(np.linalg.norm(mean)))
    return distance


@pytest.mark.parametrize("seed", range(5))
def test_kmeans_finds_separate_clusters(seed: int) -> None:
    points, which = planted(seed)
    centroids = spherical_kmeans(points, 5, generator(seed))
    distance = distance_to_prototype(points, centroids).tolist()
    assert distance == pytest.approx(distance_to_own_mean(points, which), abs=1e-5)
    assert centroids.norm(dim=1).tolist() == pytest.approx([1.0] * 5, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_kmeans_stops_where_every_centroid_is_the_mean_of_its_samples(seed: int) -> None:
    points = torch.randn(300, 4, generator=generator(seed))
    centroids = spherical_kmeans(points, 7, generator(seed)).double()
    unit = points.double() / points.double().norm(dim=1, keepdim=True)
    nearest = (unit @ centroids.T).argmax(1)
    assert nearest.bincount(minlength=7).min() > 0
    for k in range(7):
        mean = unit[nearest == k].mean(0)
        assert (mean / mean.norm()).tolist() == pytest.approx(centroids[k].tolist(), abs=1e-5)


def test_kmeans_with_as_many_clusters_as_samples_leaves_no_distance() -> None:
    points = torch.randn(9, 3, generator=generator())
    centroids = spherical_kmeans(points, 9, generator())
    assert distance_to_prototype(points, centroids).abs().max() < 1e-6
    with pytest.raises(ValueError, match="clusters=10 is out of range, expected at most 9"):
        spherical_kmeans(points, 10, generator())


def test_a_cluster_that_runs_empty_starts_again() -> None:
    # Of this seed one of the clusters runs empty on the way.
    points = torch.randn(12, 2, generator=generator(1452))
    centroids = spherical_kmeans(points, 5, generator(1452))
    unit = points / points.norm(dim=1, keepdim=True)
    assert (unit @ centroids.T).argmax(1).bincount(minlength=5).min() > 0


def test_kmeans_of_equal_samples_ends() -> None:
    points = torch.ones(6, 3)
    assert distance_to_prototype(points, spherical_kmeans(points, 3, generator())).abs().max() < 1e-6


@pytest.mark.parametrize("source", ["self-supervised", "supervised"])
@pytest.mark.parametrize("keep, sign", [("hard", -1), ("easy", 1)])
def test_ssp_keeps_what_is_far_from_or_near_to_the_prototypes(
    make_proxy: Make, source: str, keep: str, sign: int
) -> None:
    points, which = planted(3)
    field = "features" if source == "supervised" else "self_supervised"
    proxy = make_proxy(samples=120, **{field: points})
    distance = distance_to_own_mean(points, which)
    expected = sorted(range(120), key=lambda i: sign * distance[i])[:40]
    chosen = coresets.select("ssp", proxy, 40, seed=0, keep=keep, clusters=5, features=source, class_floor=0)
    assert chosen.tolist() == sorted(expected)


def test_ssp_clusters_into_as_many_as_classes(make_proxy: Make) -> None:
    points, which = planted(3)
    proxy = make_proxy(samples=120, classes=5, self_supervised=points)
    distance = distance_to_own_mean(points, which)
    expected = sorted(range(120), key=lambda i: -distance[i])[:40]
    assert coresets.select("ssp", proxy, 40, seed=0, class_floor=0).tolist() == sorted(expected)


def test_ssp_leaves_every_class_half_of_its_balanced_share(make_proxy: Make) -> None:
    points, which = planted(3, clusters=4)
    points[which == 0] = torch.eye(8)[0]  # no distance at all: by rank class 0 would come last
    proxy = make_proxy(samples=120, labels=which, self_supervised=points)
    of_class = {
        floor: int((which[coresets.select("ssp", proxy, 48, 0, class_floor=floor)] == 0).sum()) for floor in (0, 0.5)
    }
    assert of_class == {0: 0, 0.5: 6}
