"""The registry of named methods: frozen records that --help, the docs' tables and the validation are made from.

A preset is a score, a policy and an annealing start, with the paper's hyper-parameters, and a short card.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from alignprune._checks import choice
from alignprune.batch_policies import DivBS
from alignprune.errors import TypeMistake
from alignprune.policies import IES, DynamicRandom, Full, InfoBatch, Policy, SeTa
from alignprune.robust import Robust
from alignprune.scores import Alignment, ExposureLoss, Loss, Score, SecondDifference


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
        label: what the paper's tables call it.
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
    label: str
    base: str | None = None

    @property
    def needs_reference(self) -> bool:
        return self.score.needs_reference

    def with_knobs(self, **knobs: Any) -> Preset:
        """The preset with some settings of its score, its policy or ``delta`` replaced.

        Raises:
            TypeError: for a name that neither score nor policy has; the message lists theirs and the nearest.
        """
        of_score = {field.name for field in fields(self.score)}
        of_policy = {field.name for field in fields(self.policy)}
        known = sorted(of_score | of_policy | {"delta"})
        for name in knobs:
            try:
                choice("setting", name, known)
            except ValueError as error:
                raise TypeMistake(f"preset {self.name!r}: {error}") from None
        return replace(
            self,
            score=replace(self.score, **{k: v for k, v in knobs.items() if k in of_score}),
            policy=replace(self.policy, **{k: v for k, v in knobs.items() if k in of_policy}),
            delta=knobs.get("delta", self.delta),
        )


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
        label="Full-training",
    ),
    Preset(
        name="dynamic-random",
        score=Loss(),
        policy=DynamicRandom(prune_ratio=0.3),
        delta=1.0,
        summary="draws a fresh random 70 % every epoch",
        use="the baseline to beat at the same number of forward passes",
        cost="nothing",
        source="Qin et al. 2024",
        label="Dynamic Random",
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
        label="InfoBatch",
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
        label="SeTa",
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
        label="IES",
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
        label="DivBS",
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
        label="InfoBatch + Ours",
        base="infobatch",
    ),
    Preset(
        name="seta+das",
        score=Alignment(window=25),
        policy=SeTa(prune_prob=0.1, groups=5, alpha=0.9, order="descending"),
        delta=0.875,
        summary="SeTa by alignment: groups by alignment score, aligned samples first",
        use="noisy labels and a small clean or pseudo-clean reference",
        cost="25 losses a sample, a forward pass of the reference and a grouping per epoch",
        source="AlignPrune, section 3",
        label="SeTa + Ours",
        base="seta",
    ),
    Preset(
        name="robust",
        score=ExposureLoss(),
        policy=Robust(prune_ratio=0.5),
        delta=1.0,
        summary="leaves out the labels that are probably wrong, as many as it estimates, and thins out the others",
        use="noisy labels, with or without clean data; most where the network memorises its training set",
        cost="38 bytes a sample, a fit of two normal distributions per epoch",
        source="this library, beyond the paper",
        label="Robust",
    ),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _REGISTRY}
"""All named methods, by name."""


def get(name: str) -> Preset:
    """The preset of that name; an unknown one raises ValueError with the known ones and the nearest."""
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
        for preset in _REGISTRY
    ]
