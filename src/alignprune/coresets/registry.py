"""The registry of static methods: frozen records that the docs' table and the validation are made from."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from alignprune._checks import choice, integer
from alignprune.coresets.coverage import CCS
from alignprune.coresets.dynamics import DUAL, DynUnc, Forgetting
from alignprune.coresets.geometry import SSP, Moderate
from alignprune.coresets.neighbourhoods import Prune4ReL
from alignprune.coresets.outputs import EL2N, GraNd, Margin, SmallLoss
from alignprune.coresets.proxy import Proxy
from alignprune.coresets.settings import Random, Settings
from alignprune.errors import TypeMistake, ValueMistake


@dataclass(frozen=True)
class Coreset:
    """A named static method.

    Attributes:
        name: what users type.
        title: as the paper's tables print it.
        settings: the method itself.
        summary: what it keeps, in a sentence.
        use: when it helps.
        cost: what it costs beside the training on the subset.
        source: where it comes from.
    """

    name: str
    title: str
    settings: Settings
    summary: str
    use: str
    cost: str
    source: str

    @property
    def needs(self) -> tuple[str, ...]:
        """Fields of the proxy that may be None and that this method reads."""
        return self.settings.needs

    def with_settings(self, **settings: Any) -> Coreset:
        """The record with some settings of its method replaced.

        Raises:
            TypeMistake: for a name that the method does not have; the message lists its own and the nearest.
        """
        return replace(self, settings=_changed(self.settings, settings))


_REGISTRY = (
    Coreset(
        name="static-random",
        title="Static Random",
        settings=Random(),
        summary="keeps a uniform subset",
        use="the baseline to beat",
        cost="nothing, not even a proxy",
        source="-",
    ),
    Coreset(
        name="small-loss",
        title="SmallL",
        settings=SmallLoss(),
        summary="keeps the smallest losses",
        use="noisy labels, where clean samples are learned first",
        cost="a proxy and a forward pass",
        source="Jiang et al. 2018",
    ),
    Coreset(
        name="margin",
        title="Margin",
        settings=Margin(),
        summary="keeps the samples whose two largest probabilities are closest",
        use="clean labels and much data kept",
        cost="a proxy and a forward pass",
        source="Coleman et al. 2020",
    ),
    Coreset(
        name="forgetting",
        title="Forget",
        settings=Forgetting(),
        summary="keeps what the proxy learned and forgot most often, the same share of every class",
        use="clean labels; with noise only since samples that were never learned count as never forgotten",
        cost="a proxy",
        source="Toneva et al. 2019",
    ),
    Coreset(
        name="grand",
        title="GraNd",
        settings=GraNd(),
        summary="keeps the largest gradients of the last layer",
        use="clean labels and much data kept; it gathers wrong labels",
        cost="a proxy and a forward pass a checkpoint",
        source="Paul et al. 2021",
    ),
    Coreset(
        name="el2n",
        title="EL2N",
        settings=EL2N(),
        summary="keeps the largest prediction errors",
        use="clean labels and much data kept; it gathers wrong labels",
        cost="a proxy and a forward pass a checkpoint",
        source="Paul et al. 2021",
    ),
    Coreset(
        name="moderate",
        title="Moderate",
        settings=Moderate(),
        summary="keeps the samples at a medium distance to the median of their class",
        use="some noise: both the easiest and the most deviating samples are left out",
        cost="a proxy and a forward pass",
        source="Xia et al. 2023",
    ),
    Coreset(
        name="ssp",
        title="SSP",
        settings=SSP(),
        summary="keeps the samples far from the prototypes of self-supervised features",
        use="clean labels and much data kept; the labels serve for the class floor only",
        cost="a self-supervised training, a forward pass and k-means",
        source="Sorscher et al. 2022",
    ),
    Coreset(
        name="prune4rel",
        title="Prune4ReL (CE)",
        settings=Prune4ReL(),
        summary="keeps the samples by which all neighbourhoods are covered most confidently, class by class",
        use="noisy labels that a robust loss relabels while it trains",
        cost="a proxy, a forward pass of augmented inputs, all pairwise similarities",
        source="Park et al. 2023",
    ),
    Coreset(
        name="dyn-unc",
        title="Dyn-Unc",
        settings=DynUnc(),
        summary="keeps the samples whose label probability moves most during training",
        use="clean labels",
        cost="a proxy trained to the end",
        source="He et al. 2024",
    ),
    Coreset(
        name="dual",
        title="DUAL",
        settings=DUAL(),
        summary="draws samples that are uncertain and difficult early on, easier ones the fewer are kept",
        use="clean labels or some noise, also where little is kept",
        cost="30 epochs of a proxy",
        source="Cho et al. 2025",
    ),
    Coreset(
        name="ccs",
        title="CCS",
        settings=CCS(),
        summary="leaves out the hardest and keeps as many of every difficulty of the others",
        use="where little is kept; with noise as far as the wrong labels are among the hardest",
        cost="a proxy trained to the end",
        source="Zheng et al. 2023",
    ),
)

CORESETS: dict[str, Coreset] = {coreset.name: coreset for coreset in _REGISTRY}
"""All static methods, by name."""


def get(name: str) -> Coreset:
    """The static method of that name; an unknown one raises ValueMistake with the known ones and the nearest."""
    choice("coreset", name, CORESETS)
    return CORESETS[name]


def select(method: str | Settings, proxy: Proxy, size: int, seed: int, **settings: Any) -> Tensor:
    """Choose the samples to train on.

    Args:
        method: a name in `CORESETS`, or a method's settings.
        proxy: the proxy run that scores the samples.
        size: samples to choose, 1 to N.
        seed: decides the random parts of a method and the order of equal scores, at least 0.
        settings: settings that differ from those of ``method``.

    Returns:
        int64 [size], sample indices, ascending, each once.

    Raises:
        ValueMistake: for an unknown name, a size or a setting out of range, or a proxy that `Settings.check` refuses.
        TypeMistake: for a setting that the method does not have.
    """
    chosen = _changed(get(method).settings if isinstance(method, str) else method, settings)
    size = _check_size(size, len(proxy))
    generator = torch.Generator().manual_seed(integer("seed", seed, at_least=0, remedy="choose any such number"))
    chosen.check(proxy.extent)
    return chosen.select(proxy, size, generator).sort().values


def table() -> list[dict[str, str]]:
    """One row a method, for the docs: name, title, summary, use, needs, cost, settings, source."""
    return [
        {
            "method": coreset.name,
            "in the paper": coreset.title,
            "what it keeps": coreset.summary,
            "when": coreset.use,
            "needs": ", ".join(coreset.needs) or "-",
            "cost": coreset.cost,
            "settings": repr(coreset.settings),
            "source": coreset.source,
        }
        for coreset in _REGISTRY
    ]


def _changed(settings: Settings, changes: dict[str, Any]) -> Settings:
    known = [field.name for field in fields(settings)]
    for name in changes:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeMistake(
                f"{name}={changes[name]!r} is no setting of {type(settings).__name__}, expected "
                f"{', '.join(known) or 'none'}{hint}"
            )
    return replace(settings, **changes)


def _check_size(size: int, num_samples: int) -> int:
    size = integer("size", size, at_least=1, remedy="the number of samples to keep")
    if size > num_samples:
        raise ValueMistake(
            f"size={size} is out of range, expected at most {num_samples}, the samples of the proxy run: ask for fewer"
        )
    return size
