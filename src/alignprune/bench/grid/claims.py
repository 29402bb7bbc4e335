"""The paper's claims, one by one, where its whole benchmark cannot run: a head on the features of a pretrained network.

Each claim is a block of rows that differ in what it is about and in nothing else. A row that is the paper's default
stands in several blocks, and is run once.
"""

from __future__ import annotations

from collections.abc import Mapping

from alignprune.bench.grid.cells import Cell, Protocol, Settings, title_of

_HEAD = {"recipe": "head"}
_SYMMETRIC = {f"sym_{rate:g}": {"noise": "symmetric", "noise_rate": rate} for rate in (0.2, 0.5)}
_DATA: dict[str, tuple[Settings, Mapping[str, Settings]]] = {
    "NEWS": (
        {**_HEAD, "dataset": "news20-sentences"},
        {"clean": {"noise": "clean"}, **_SYMMETRIC, "pairflip_0.2": {"noise": "pairflip", "noise_rate": 0.2}},
    ),
    "CIFAR-100N": (
        {**_HEAD, "dataset": "cifar100n-pretrained"},
        {"clean": {"noise": "clean"}, "real": {"noise": "real"}},
    ),
}
"""By name: the settings of a data set, and those of its noises by column."""

_OURS = {"method": "infobatch+das"}
_HALF = {"prune_ratio": 0.5}
_STATIC: dict[str, Settings] = {"static-random": {}, "small-loss": {}, "dual": {"coreset.epochs": 10}}
_DYNAMIC = ("dynamic-random", "infobatch", "infobatch+das")

_CLAIMS: dict[str, Mapping[str, Settings]] = {
    "the score": {
        title_of(name): {"method": name} for name in ("full", "infobatch", "infobatch+das", "seta", "seta+das")
    },
    "half, static or dynamic": {
        **{title_of(name): {"method": name, **_HALF, **own} for name, own in _STATIC.items()},
        **{title_of(name): {"method": name, **_HALF} for name in _DYNAMIC},
    },
    "reference samples": {
        "10,000": _OURS,
        **{f"{size:,}": {**_OURS, "reference_size": size} for size in (1_000, 100, 10)},
    },
    "source of the reference": {
        "clean": _OURS,
        "random, noisy": {**_OURS, "reference": "noisy"},
        "SmallL": {**_OURS, "reference": "small-loss"},
        "Moderate": {**_OURS, "reference": "moderate"},
    },
    "window": {**{f"N = {n}": {**_OURS, "score.window": n} for n in (2, 3, 4, 10)}, "N = 25": _OURS},
    "correlation": {"Pearson": _OURS, "cosine": {**_OURS, "score.correlation": "cosine"}},
    "prune probability": {"r = 0.5": _OURS, **{f"r = {r}": {**_OURS, "policy.prune_prob": r} for r in (0.75, 1.0)}},
}


def claims(protocol: Protocol) -> tuple[Cell, ...]:
    """What each claim is about, under each noise."""
    if protocol.name != "pretrained":
        return ()
    return tuple(
        Cell(f"{name}: {claim}", row, column, {**settings, **noise, **own})
        for name, (settings, noises) in _DATA.items()
        for claim, rows in _CLAIMS.items()
        for row, own in rows.items()
        for column, noise in noises.items()
    )
