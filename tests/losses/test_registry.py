"""The named losses: published values, and a table that holds all of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from alignprune.losses import KINDS, LOSSES, get, table

PUBLISHED: dict[str, dict[str, Any]] = {
    "elr-cifar10": {"beta": 0.7, "weight": 3, "targets": "float32"},
    "elr-cifar10-asymmetric": {"beta": 0.9, "weight": 1, "targets": "float32"},
    "elr-cifar100": {"beta": 0.9, "weight": 7, "targets": "float32"},
    "gce": {"q": 0.7},
    "smoothing": {"rate": 0.1},
    "negative-smoothing": {"rate": -0.2},
    "sce-cifar10": {"alpha": 0.1, "beta": 1},
    "sce-cifar100": {"alpha": 6, "beta": 0.1},
    "sop-cifar10-symmetric": {"lr_u": 10, "lr_v": 10, "consistency": 0.9, "balance": 0.1},
    "sop-cifar10-asymmetric": {"lr_u": 10, "lr_v": 100, "consistency": 0.9, "balance": 0.1},
    "sop-cifar100-symmetric": {"lr_u": 1, "lr_v": 10, "consistency": 0.9, "balance": 0.1},
    "sop-cifar100-asymmetric": {"lr_u": 0.1, "lr_v": 100, "consistency": 0.9, "balance": 0.1},
    "sop-cifar10n": {"lr_u": 10, "lr_v": 10, "consistency": 0.9, "balance": 0.1},
    "sop-cifar100n": {"lr_u": 1, "lr_v": 10, "consistency": 0.9, "balance": 0.1},
    "sop-clothing1m": {"lr_u": 0.1, "lr_v": 1, "consistency": 0, "balance": 0},
    "sop-webvision": {"lr_u": 0.1, "lr_v": 1, "consistency": 0, "balance": 0},
}


@pytest.mark.parametrize("name", LOSSES)
def test_settings_are_the_published_ones(name: str) -> None:
    values = asdict(get(name).settings)
    assert values.pop("source") == get(name).source != "own"
    assert values == PUBLISHED[name]
    assert get(name).settings.needs_strong == bool(values.get("consistency"))


def test_every_name_is_there_once() -> None:
    assert list(LOSSES) == list(PUBLISHED)
    assert set(KINDS) == {"ELRSettings", "GCESettings", "SCESettings", "SOPSettings", "SmoothingSettings"}


def test_the_table_says_of_each_what_it_does_costs_and_comes_from() -> None:
    rows = table()
    assert [row["loss"] for row in rows] == list(LOSSES)
    assert all(all(row.values()) for row in rows)
    assert rows[0]["settings"] == "ELRSettings(beta=0.7, weight=3, targets='float32')"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="loss='sop-cifar100m' is unknown, .*did you mean 'sop-cifar100n'"):
        get("sop-cifar100m")
