"""The registry of named methods: frozen records that --help, the docs' tables and the validation are made from.

A preset is a score, a policy and an annealing start, with the paper's hyper-parameters, and a short card.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from alignprune._checks import choice
from alignprune.errors import TypeMistake, ValueMistake
from alignprune.policies import IES, RCAP, DivBS, DynamicRandom, Full, InfoBatch, OrderDP, Policy, RePB, Robust, SeTa
from alignprune.scores import Alignment, BatchLoss, ExposureLoss, Loss, Score, SecondDifference


@dataclass(frozen=True)
class Preset:
    """A named method.

    Attributes:
        name: what users type.
        score: ranks the samples.
        policy: chooses by the rank.
        delta: annealing starts at epoch floor(delta * epochs).
        summary: what it does, in a sentence.
        use: when it helps.
        cost: what it costs beside training.
        source: where it comes from.
        title: what tables print, the paper's name for it.
        base: the method whose share of pruned samples says how many epochs a prune ratio takes; None where the policy
            has a prune ratio itself.
    """

    name: str
    score: Score
    policy: Policy
    delta: float
    summary: str
    use: str
    cost: str
    source: str
    title: str
    base: str | None = None

    @property
    def needs_reference(self) -> bool:
        """Whether its score needs a reference."""
        return self.score.needs_reference

    @property
    def knobs(self) -> list[str]:
        """The names of the settings that can be replaced, in alphabetical order."""
        return sorted({field.name for record in (self.score, self.policy) for field in fields(record)})

    def check_knobs(self, names: Iterable[str], others: Sequence[str] = ()) -> None:
        """Raise TypeMistake for a setting that neither score nor policy has, naming the nearest.

        Args:
            names: that are given.
            others: names that the caller takes besides.
        """
        for name in names:
            try:
                choice("setting", name, sorted({*self.knobs, *others}))
            except ValueMistake as error:
                raise TypeMistake(f"preset {self.name!r}: {error}") from None

    def with_knobs(self, **knobs: Any) -> Preset:
        """The preset with some settings of its score or its policy replaced; raises as `check_knobs`."""
        self.check_knobs(knobs)

        def replaced(record: Any) -> Any:
            return replace(record, **{name: knobs[name] for name in knobs if hasattr(record, name)})

        return replace(self, score=replaced(self.score), policy=replaced(self.policy))


_REGISTRY = (
    Preset(
        name="full",
        score=Loss(),
        policy=Full(),
        delta=1.0,
        summary="trains on every sample in every epoch",
        use="the baseline",
        cost="nothing, saves nothing",
        source="-",
        title="Full-training",
    ),
    Preset(
        name="dynamic-random",
        score=Loss(),
        policy=DynamicRandom(prune_ratio=0.3),
        delta=1.0,
        summary="draws a fresh random 70 % every epoch",
        use="the baseline to beat at the same number of forward passes",
        cost="nothing",
        source="Qin et al. 2024; RS2 with replacement, Okanovic et al. 2024",
        title="Dynamic Random",
    ),
    Preset(
        name="rs2",
        score=Loss(),
        policy=DynamicRandom(prune_ratio=0.3, replacement=False),
        delta=1.0,
        summary="deals out a random order of the data, 70 % an epoch: nobody is seen again before all others were",
        use="the baseline to beat, above all where little is kept",
        cost="nothing",
        source="Okanovic et al. 2024",
        title="RS2",
    ),
    Preset(
        name="infobatch",
        score=Loss(),
        policy=InfoBatch(prune_prob=0.5),
        delta=0.875,
        summary="prunes half of the samples whose loss is below the mean, weighs up the rest of them",
        use="clean labels",
        cost="one loss a sample",
        source="Qin et al. 2024",
        title="InfoBatch",
        base="infobatch",
    ),
    Preset(
        name="seta",
        score=Loss(),
        policy=SeTa(prune_prob=0.1, groups=5, alpha=0.9),
        delta=0.875,
        summary="groups the samples by loss and slides a window over the groups from easy to hard",
        use="clean labels",
        cost="one loss a sample, a grouping per epoch",
        source="Zhou et al. 2025",
        title="SeTa",
        base="seta",
    ),
    Preset(
        name="ies",
        score=SecondDifference(smoothing=3),
        policy=IES(threshold=1e-3),
        delta=1.0,
        summary="leaves out samples whose loss curve runs straight",
        use="clean labels; saves backward passes only",
        cost="six losses a sample and a forward pass of the pruned samples every epoch",
        source="Yuan et al. 2025",
        title="IES",
        base="ies",
    ),
    Preset(
        name="divbs",
        score=Loss(),
        policy=DivBS(prune_ratio=0.3),
        delta=1.0,
        summary="trains on the part of each batch whose last-layer gradients span its mean best",
        use="clean labels; saves backward passes only",
        cost="a second forward pass and a greedy choice in every batch",
        source="Hong et al. 2024",
        title="DivBS",
    ),
    Preset(
        name="orderdp",
        score=Loss(),
        policy=OrderDP(prune_ratio=0.3),
        delta=1.0,
        summary="draws a pool at random and keeps the highest losses in it",
        use="clean labels, where an exact share has to be saved; it gathers wrong labels",
        cost="one loss a sample",
        source="Jin et al. 2026",
        title="OrderDP",
    ),
    Preset(
        name="rcap",
        score=Loss(),
        policy=RCAP(prune_ratio=0.3),
        delta=1.0,
        summary="gives hard and small classes a larger share, and draws the high losses of a class first",
        use="clean labels whose classes differ in size or difficulty; needs the labels, and gathers wrong ones",
        cost="one loss a sample, a sort per epoch",
        source="Hassan et al. 2025",
        title="RCAP",
    ),
    Preset(
        name="repb",
        score=Loss(),
        policy=RePB(prune_prob=0.5),
        delta=1.0,
        summary="prunes half of the samples whose loss is below the mean of their batch, weighs by past selections",
        use="clean labels; where the loss falls fast within an epoch",
        cost="one loss, a step and a count a sample",
        source="Zhou et al. 2026, by a description",
        title="RePB",
        base="repb",
    ),
    Preset(
        name="infobatch+bls",
        score=BatchLoss(decay=0.8),
        policy=InfoBatch(prune_prob=0.5),
        delta=0.875,
        summary="InfoBatch by an average of the mean losses of a sample's batches",
        use="clean labels, where the criterion gives no loss a sample: detection, captioning",
        cost="nothing beside training; ranks less well than a loss a sample",
        source="Zhou et al. 2026",
        title="InfoBatch + BLS",
        base="infobatch",
    ),
    Preset(
        name="seta+bls",
        score=BatchLoss(decay=0.8),
        policy=SeTa(prune_prob=0.1, groups=5, alpha=0.9),
        delta=0.875,
        summary="SeTa by an average of the mean losses of a sample's batches",
        use="clean labels, where the criterion gives no loss a sample: detection, captioning",
        cost="a grouping per epoch; ranks less well than a loss a sample",
        source="Zhou et al. 2026",
        title="SeTa + BLS",
        base="seta",
    ),
    Preset(
        name="infobatch+das",
        score=Alignment(window=25),
        policy=InfoBatch(prune_prob=0.5),
        delta=0.875,
        summary="InfoBatch by alignment: prunes half of the samples that move against the reference more than the mean",
        use="noisy labels and a small clean or pseudo-clean reference",
        cost="25 losses a sample, a forward pass of the reference per epoch",
        source="AlignPrune, section 3",
        title="InfoBatch + Ours",
        base="infobatch",
    ),
    Preset(
        name="seta+das",
        score=Alignment(window=25),
        policy=SeTa(prune_prob=0.1, groups=5, alpha=0.9),
        delta=0.875,
        summary="SeTa by alignment: groups by alignment score, aligned samples first",
        use="noisy labels and a small clean or pseudo-clean reference",
        cost="25 losses a sample, a forward pass of the reference and a grouping per epoch",
        source="AlignPrune, section 3",
        title="SeTa + Ours",
        base="seta",
    ),
    Preset(
        name="orderdp+das",
        score=Alignment(window=25),
        policy=OrderDP(prune_ratio=0.3),
        delta=1.0,
        summary="OrderDP by alignment: draws a pool at random and keeps what moves with the reference most",
        use="noisy labels, a small clean or pseudo-clean reference, and an exact share to save",
        cost="25 losses a sample, a forward pass of the reference per epoch",
        source="this library: Jin et al. 2026 with AlignPrune's score",
        title="OrderDP + Ours",
    ),
    Preset(
        name="robust",
        score=ExposureLoss(),
        policy=Robust(prune_ratio=0.5),
        delta=1.0,
        summary="leaves out the labels that are probably wrong, as many as it estimates, and thins out the others",
        use="noisy labels, with or without clean data; most where the network memorises its training set",
        cost="32 bytes a sample, a fit of two normal distributions per epoch",
        source="this library, beyond the paper",
        title="Robust",
    ),
)

_STORE: dict[str, Preset] = {preset.name: preset for preset in _REGISTRY}

PRESETS: Mapping[str, Preset] = MappingProxyType(_STORE)
"""All named methods, by name; `register` adds to them."""


def register(preset: Preset) -> Preset:
    """Add a named method of one's own: `from_preset`, the table and the command line know it from then on.

    Raises:
        TypeMistake, ValueMistake: for something else than a preset, and for a name that is taken.
    """
    if not isinstance(preset, Preset):
        raise TypeMistake(f"preset={preset!r} is {type(preset).__name__}, expected a Preset: make one and register it")
    if preset.name in _STORE:
        raise ValueMistake(f"name={preset.name!r} is taken, expected one that is not: {', '.join(_STORE)} are there")
    _STORE[preset.name] = preset
    return preset


def get(name: str) -> Preset:
    """The preset of that name; an unknown one raises ValueMistake with the known ones and the nearest."""
    choice("method", name, PRESETS)
    return PRESETS[name]


def table() -> list[dict[str, str]]:
    """One row a method, for help and docs: name, summary, use, reference, cost, settings, source."""
    return [
        {
            "method": preset.name,
            "what it does": preset.summary,
            "when": preset.use,
            "reference": "needed" if preset.needs_reference else "-",
            "cost": preset.cost,
            "settings": f"{preset.policy!r}, {preset.score!r}, delta={preset.delta:g}",
            "source": preset.source,
        }
        for preset in _STORE.values()
    ]
