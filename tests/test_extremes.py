"""Every method under the worst that losses, references, labels, sizes and settings can be: whole short trainings.

After every epoch the selection is a valid one, in every second one the state goes through a file; what cannot be is
refused in a line.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import alignprune as ap
from alignprune import coresets
from alignprune.errors import UserError

N, EPOCHS, BATCH = 60, 7, 16
TABLE = torch.rand(EPOCHS, N, generator=torch.Generator().manual_seed(0))
NAN, INF = math.nan, math.inf

Losses = Callable[[int, Tensor], Tensor]
every_preset = pytest.mark.parametrize("name", list(ap.PRESETS))


def constant(value: float) -> Losses:
    return lambda epoch, index: torch.full((len(index),), value)


def every(step: int, value: float, dtype: torch.dtype = torch.float32) -> Losses:
    """One value at every so many samples, other ones in every epoch, among random losses."""
    return lambda epoch, index: torch.where((index + epoch) % step == 0, value, TABLE[epoch, index]).to(dtype)


def in_epoch(number: int, value: float) -> Losses:
    return lambda epoch, index: torch.full((len(index),), value) if epoch == number else TABLE[epoch, index]


LOSSES: dict[str, Losses] = {
    "ordinary": lambda epoch, index: TABLE[epoch, index] + 0.1,
    "two groups": lambda epoch, index: torch.where(index % 4 == 0, 5.0, 0.5) + 0.3 * TABLE[epoch, index],
    "ties": lambda epoch, index: ((index * 7 + epoch) % 3).float(),
    "equal": constant(2.5),
    "zero": constant(0.0),
    "minus zero": constant(-0.0),
    "negative": lambda epoch, index: TABLE[epoch, index] - 2,
    "rising": lambda epoch, index: TABLE[epoch, index] * 10.0**epoch,
    "huge": constant(3e38),
    "huge ones": every(2, 3e38),
    "huge of either sign": lambda epoch, index: torch.where((index + epoch) % 2 == 0, 3e38, -3e38),
    "huge group": lambda epoch, index: torch.where(index % 4 == 0, 3e38, 1.0) * TABLE[epoch, index],
    "denormal": lambda epoch, index: 1e-45 * (1 + (index + epoch) % 3).float(),
    "denormal ones": every(3, 1e-42),
    "bfloat16 that overflows": every(5, 3.4e38, torch.bfloat16),
    "float16 that overflows": every(5, 7e4, torch.float16),
    "float64 beyond float32": lambda epoch, index: TABLE[epoch, index].double() * 1e300,
    "none finite at first": in_epoch(0, NAN),
    "none finite in an epoch": in_epoch(2, INF),
    "none ever finite": constant(NAN),
    "one never finite": lambda epoch, index: TABLE[epoch, index].masked_fill(index == 3, NAN),
}

REFERENCES: dict[str, Callable[[int], float]] = {
    "falling": lambda epoch: 1 / (epoch + 1),
    "rising": lambda epoch: 1.0 + epoch,
    "flat": lambda epoch: 1.0,
    "zero": lambda epoch: 0.0,
    "huge": lambda epoch: 1e300 / (epoch + 1),
    "tiny": lambda epoch: 1e-300 * (epoch + 1),
    "negative": lambda epoch: -float(epoch),
}

LABELS: dict[str, Callable[[int], Any]] = {
    "no labels": lambda size: None,
    "one class": lambda size: torch.zeros(size, dtype=torch.int64),
    "two classes": lambda size: torch.arange(size) % 2,
    "a class a sample": lambda size: torch.arange(size),
    "nothing labelled": lambda size: torch.full((size,), -100),
}


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


def check(pruner: ap.Pruner, announced: bool) -> None:
    """What holds after every epoch."""
    selection, size = pruner.selection, pruner.num_samples
    for samples in (selection.indices, selection.suspects):
        if samples is not None:
            listed = samples.tolist()
            assert listed == sorted(set(listed))
            assert all(0 <= sample < size for sample in listed)
    assert len(selection) or announced
    if selection.weights is not None:
        assert selection.weights.isfinite().all()
        assert (selection.weights >= 0).all()
        assert (selection.weights > 0).any()
    assert pruner.noise_rate is None or 0 <= pruner.noise_rate <= 1
    assert not pruner.scores.isinf().any()
    assert all(math.isfinite(value) for value in pruner.metrics().values())


def batches(sampler: Any, size: int) -> Iterator[Tensor]:
    yield from torch.tensor(list(sampler), dtype=torch.int64).split(size) if len(sampler) else ()


def train(
    make: Callable[[], ap.Pruner], losses: Losses, reference: Callable[[int], float] = REFERENCES["falling"]
) -> ap.Pruner:
    """A whole training; its state goes through a file in every second epoch, in the middle and at the end by turns."""
    pruner = make()
    check(pruner, announced=False)

    def step(index: Tensor) -> None:
        if isinstance(pruner.policy, ap.BatchPolicy):
            values = losses(pruner.epoch, index).float().nan_to_num().clamp(-100, 100)
            outputs = torch.stack([values, -values, torch.ones(len(index))], 1)
            index = index[pruner.choose(index, logits=outputs, features=outputs, labels=index % 3)]
        if pruner.score.needs_batches:
            pruner.reduce_batch(index, losses(pruner.epoch, index).mean())
        else:
            pruner.reduce(index, losses(pruner.epoch, index))

    def reloaded() -> ap.Pruner:
        again = make()
        again.load_state_dict(through_a_file(pruner.state_dict()))
        return again

    for epoch in range(pruner.epochs):
        for number, index in enumerate(batches(pruner.sampler, BATCH)):
            step(index)
            if number == 0 and epoch % 4 == 0:
                pruner = reloaded()
        for index in batches(pruner.pruned_sampler, BATCH) if pruner.score.needs_pruned else ():
            pruner.record(index, losses(epoch, index))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pruner.end_epoch(reference(epoch) if pruner.needs_reference else None)
        said = [str(warning.message) for warning in caught]
        assert all("are not finite; they are kept out" in text or "selected none of" in text for text in said), said
        check(pruner, announced=epoch + 1 == pruner.epochs or any("selected none of" in text for text in said))
        if epoch % 4 == 2 or epoch + 1 == pruner.epochs:
            pruner = reloaded()
            check(pruner, announced=True)
    assert pruner.epoch == pruner.epochs
    return pruner


def trained_or_refused(name: str, losses: Losses, size: int = N, labels: Any = None, **settings: Any) -> str | None:
    """Train, or the one line in which the settings are refused when the pruner is made."""

    make = partial(ap.Pruner.from_preset, name, num_samples=size, epochs=EPOCHS, labels=labels, **settings)
    refusal = refusal_of(make)
    if refusal is None:
        train(make, losses)
    return refusal


def refusal_of(call: Callable[[], Any]) -> str | None:
    """What a call is refused with; None if it is not."""
    try:
        call()
    except UserError as refusal:
        return str(refusal)
    return None


# -------------------------------------------------------------------------- losses, references, labels


@every_preset
@pytest.mark.parametrize("losses", LOSSES)
def test_whatever_the_losses_every_epoch_has_a_valid_selection(name: str, losses: str) -> None:
    labels = torch.arange(N) % 3
    train(partial(ap.Pruner.from_preset, name, num_samples=N, epochs=EPOCHS, labels=labels), LOSSES[losses])


@pytest.mark.parametrize("name", [name for name, preset in ap.PRESETS.items() if preset.needs_reference])
@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("losses", ["ordinary", "equal", "huge ones", "one never finite"])
def test_whatever_the_reference_every_epoch_has_a_valid_selection(name: str, reference: str, losses: str) -> None:
    train(partial(ap.Pruner.from_preset, name, num_samples=N, epochs=EPOCHS), LOSSES[losses], REFERENCES[reference])


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("losses", ["ordinary", "two groups", "equal", "huge group", "one never finite"])
@pytest.mark.parametrize("name", ["robust", "rcap"])
def test_whatever_the_labels_every_epoch_has_a_valid_selection(name: str, labels: str, losses: str) -> None:
    given = LABELS[labels](N)
    refused = trained_or_refused(name, LOSSES[losses], labels=given)
    assert (refused is not None) == (name == "rcap" and given is None)
    assert refused is None or re.match("labels=None is no label a sample, expected what RCAP chooses by: give", refused)


@pytest.mark.parametrize("losses", ["equal", "zero", "minus zero", "huge"])
@pytest.mark.parametrize("name", ["infobatch", "infobatch+bls", "infobatch+das"])
def test_where_all_losses_are_equal_infobatch_leaves_nobody_out(name: str, losses: str) -> None:
    pruner = train(partial(ap.Pruner.from_preset, name, num_samples=N, epochs=EPOCHS, delta=1.0), LOSSES[losses])
    assert pruner.forward_passes == EPOCHS * N
    assert pruner.selection.weights is None


@pytest.mark.parametrize("name", ["infobatch", "infobatch+das", "ies"])
def test_a_sample_whose_loss_is_never_finite_is_never_left_out_by_rank(name: str) -> None:
    kept = []
    pruner = ap.Pruner.from_preset(name, num_samples=N, epochs=EPOCHS, delta=1.0)
    for epoch in range(EPOCHS):
        kept.append(3 in pruner.selection.indices)
        for index in batches(pruner.sampler, BATCH):
            pruner.reduce(index, LOSSES["one never finite"](epoch, index))
        for index in batches(pruner.pruned_sampler, BATCH):
            pruner.record(index, LOSSES["one never finite"](epoch, index))
        with pytest.warns(UserWarning, match=rf"1 losses of epoch {epoch} are not finite"):
            pruner.end_epoch(1 / (epoch + 1) if pruner.needs_reference else None)
    assert all(kept)
    assert pruner.nonfinite == EPOCHS
    assert pruner.scores.isnan().nonzero().tolist() == [[3]]


def test_a_loss_that_runs_straight_is_mastered_however_large_it_is() -> None:
    losses = torch.full((6, 3), 3e38)
    losses[:, 1] = torch.linspace(0, 3e38, 6)
    losses[:, 2] = torch.tensor([3e38, -3e38] * 3)
    pruner = ap.Pruner(3, 6, ap.scores.SecondDifference(smoothing=3), ap.policies.Full())
    for row in losses:
        pruner.reduce(torch.arange(3), row)
        pruner.end_epoch()
    assert pruner.scores[0] == 0
    assert pruner.scores[1] <= 3e38 * 1e-6
    assert pruner.scores[2] == torch.finfo(torch.float32).max


def test_averages_and_sums_of_losses_that_overflow_stay_finite() -> None:
    """A sum past float32 stays at its end; infinite, it would be NaN a loss later, and the sample without a score."""
    size, most = 40, torch.finfo(torch.float32).max
    signs = torch.tensor([1.0, -1.0]).repeat(size // 2)
    pruner = ap.Pruner(size, 9, ap.scores.ExposureLoss(), ap.policies.Full(), journal=True)
    average = ap.Pruner(size, 9, ap.scores.BatchLoss(decay=0.9), ap.policies.Full())
    for epoch in range(9):
        pruner.reduce(torch.arange(size), 3e38 * signs)
        pruner.end_epoch()
        average.reduce(torch.arange(size), 3e38 * signs * (-1) ** epoch)
        average.end_epoch()
    assert torch.equal(pruner.memory(ap.Ledger).total, most * signs)
    assert pruner.scores.tolist() == pytest.approx((most / 9 * signs).tolist(), rel=1e-6)
    assert torch.equal(pruner.memory(ap.memory.Journal).mean_loss, 3e38 * signs)
    assert average.scores.isfinite().all()


def test_a_score_of_ones_own_that_is_infinite_is_refused_by_name() -> None:
    class Inverse(ap.scores.Loss):
        def __call__(self, history: ap.scores.History) -> Tensor:
            return 1 / super().__call__(history)

    pruner = ap.Pruner(4, 3, Inverse(), ap.policies.InfoBatch())
    pruner.reduce(torch.arange(4), torch.tensor([0.0, 1.0, 0.0, 2.0]))
    with pytest.raises(
        ap.errors.ValueMistake, match="Inverse returned 2 infinite scores, expected finite ones: return"
    ):
        pruner.end_epoch()


# -------------------------------------------------------------------------- sizes and settings


@every_preset
@pytest.mark.parametrize("size", [1, 2, 3, BATCH - 1, BATCH + 1])
def test_a_data_set_of_any_size_is_trained_on_or_refused(name: str, size: int) -> None:
    refused = trained_or_refused(name, LOSSES["two groups"], size, torch.arange(size) % 2)
    needed = dict.fromkeys(("seta", "seta+bls", "seta+das"), 6)
    needed |= dict.fromkeys(("dynamic-random", "rs2", "orderdp", "orderdp+das", "rcap", "robust"), 2)
    assert (refused is None) == (size >= needed.get(name, 1))  # 5 groups of 90 %, 70 % or half of the samples


ENDS: dict[str, list[Any]] = {
    "prune_prob": [0, 1e-9, 1 - 1e-9, 1],
    "prune_ratio": [0, 1e-9, 0.97, 1 - 1e-9, 1],
    "replacement": [False],
    "chance": [0, 1],
    "batches": [0, 1, 2, 10**9],
    "temperature": [0, 1e-3, 1e3, 1e9],
    "aggregate": ["sum"],
    "rescale": [False],
    "groups": [1, 2, 54, 55, 10**9],
    "alpha": [0, 1e-9, 1],
    "rounding": ["ceil"],
    "grouping": ["sklearn"],
    "threshold": [-INF, -1e39, -3e38, 0, 3e38, 1e39, INF],
    "pick": ["argmax"],
    "trust": [True],
    "noise_rate": [0, 1e-9, 1 - 1e-9, 1],
    "refresh": [0, 1e-9, 1 - 1e-9, 1],
    "ramp": [0, 1, 10**9],
    "confused": [0, 1],
    "thinning": ["easy"],
    "window": [1, 2, EPOCHS, 10 * EPOCHS],
    "correlation": ["cosine"],
    "gaps": ["carry", "last_obs"],
    "min_observations": [1, 2, 10**9],
    "flat": ["exempt"],
    "reference_timing": ["before"],
    "precision": ["bfloat16", "float16"],
    "smoothing": [0, 1, 10 * EPOCHS],
    "exponent": [0, 10],
    "least_agreement": [0, 1],
    "decay": [0, 1 - 1e-9, 1],
    "delta": [0, 1e-9, 1 - 1e-9, 1],
}
REFUSED = {  # ends that are no settings: a share of all or of nothing, a window of one epoch
    *[("prune_ratio", 1), ("prune_ratio", 1 - 1e-9), ("noise_rate", 1), ("refresh", 1), ("ramp", 0), ("window", 1)],
    *[("batches", 0), ("temperature", 0), ("temperature", 1e9)],
    *[("decay", 1), ("min_observations", 1), ("smoothing", 0)],
    *[("threshold", value) for value in (-INF, -1e39, 1e39, INF)],
    *[("alpha", 0), ("alpha", 1e-9), ("groups", 55), ("groups", 10**9)],
}
SETA_REFUSES, DIVBS_TAKES = {("prune_prob", 1 - 1e-9), ("prune_prob", 1)}, {("prune_ratio", 1 - 1e-9)}
REPB_REFUSES = {("prune_prob", 1)}  # nobody would come back


@every_preset
def test_every_setting_at_the_ends_of_its_range_trains_or_is_refused(name: str) -> None:
    labels = torch.arange(N) % 3
    refused = REFUSED | SETA_REFUSES if name.startswith("seta") else REFUSED
    refused = refused | REPB_REFUSES if name == "repb" else refused
    refused = refused - DIVBS_TAKES if name == "divbs" else refused  # a batch keeps one sample at least
    for setting in [*ap.PRESETS[name].knobs, "delta"]:
        for value in ENDS[setting]:
            message = trained_or_refused(name, LOSSES["two groups"], labels=labels, **{setting: value})
            assert (message is not None) == ((setting, value) in refused), (setting, value, message)
            assert message is None or re.fullmatch(rf"{setting}=[^\n]*, expected [^\n]*: [^\n]*", message)


PAIRS: list[tuple[str, dict[str, Any]]] = [
    ("infobatch", {"prune_prob": 1, "delta": 1.0}),
    ("infobatch+das", {"window": 2, "min_observations": 2, "prune_prob": 1, "delta": 1.0}),
    ("infobatch+das", {"window": 10 * EPOCHS, "gaps": "last_obs", "flat": "exempt", "prune_prob": 1}),
    ("seta+das", {"groups": 54, "alpha": 1 / 54, "window": 2, "delta": 1.0}),
    ("seta", {"groups": 1, "alpha": 1, "prune_prob": 0.98}),
    ("robust", {"ramp": 1, "noise_rate": 1 - 1e-9, "prune_ratio": 0}),
    ("robust", {"ramp": 1, "noise_rate": 1 - 1e-9, "prune_ratio": 0.97, "refresh": 1 - 1e-9, "thinning": "easy"}),
    ("robust", {"ramp": 1, "noise_rate": 0.5, "refresh": 0, "delta": 0, "exponent": 10, "thinning": "easy"}),
]


@pytest.mark.parametrize("name, settings", PAIRS)
@pytest.mark.parametrize("losses", ["two groups", "equal", "huge ones", "none ever finite"])
def test_settings_at_their_ends_together_with_losses_at_theirs(
    name: str, settings: dict[str, Any], losses: str
) -> None:
    for labels in LABELS.values() if name == "robust" else [LABELS["no labels"]]:
        assert trained_or_refused(name, LOSSES[losses], labels=labels(N), **settings) is None


@pytest.mark.parametrize("name", ["robust", "infobatch", "rcap"])
def test_a_million_classes_are_no_more_than_a_million_samples(name: str) -> None:
    size = 1_000_000
    pruner = ap.Pruner.from_preset(name, num_samples=size, epochs=3, labels=torch.arange(size), delta=1.0)
    wrong = torch.arange(size) % 4 == 0
    for epoch in range(3):
        index = pruner.selection.indices
        pruner.reduce(index, torch.where(wrong[index], 5.0, 0.5) + ((index * 31 + epoch) % 97) / 97)
        pruner.end_epoch()
        check(pruner, announced=False)
    assert pruner.memory(ap.memory.Journal).given.max() == size - 1  # type: ignore[union-attr]
    pruner.load_state_dict(through_a_file(pruner.state_dict()))
    check(pruner, announced=False)


# -------------------------------------------------------------------------- static methods


def proxy(kind: str, size: int, classes: int) -> coresets.Proxy:
    source, epochs = torch.Generator().manual_seed(0), 30
    labels = torch.zeros(size, dtype=torch.int64) if kind == "one class" else torch.arange(size) % classes
    logits, features = torch.randn(size, classes, generator=source), torch.randn(size, 4, generator=source)
    rows, norms = torch.rand(epochs, size, generator=source), torch.rand(2, size, generator=source)
    if kind == "ties":
        logits, features = torch.zeros_like(logits), torch.ones_like(features)
        rows, norms = torch.full_like(rows, 0.5), torch.ones_like(norms)
    elif kind == "huge":
        logits, features, norms = logits * 5e37, features * 5e37, norms * 1e38
    elif kind == "denormal":
        logits, features, rows, norms = logits * 1e-44, features * 1e-44, rows * 1e-44, norms * 1e-44
    elif kind == "mastered":
        rows, features = torch.ones_like(rows), torch.zeros_like(features)
    return coresets.Proxy(
        labels=labels,
        num_classes=classes,
        logits=logits,
        features=features,
        label_probabilities=rows,
        correct=rows >= 0.5,
        error_norms=norms.clamp(max=1.4),
        feature_norms=norms,
        strong_features=features.clamp(-65504, 65504).half(),
        strong_logits=logits,
        self_supervised=features,
        margins=2 * rows - 1,
    )


STATIC_ENDS: dict[str, list[dict[str, Any]]] = {
    "forgetting": [{"never_learned": "most"}, {"epochs": 2}],
    "dyn-unc": [{"window": 2}, {"window": 30}],
    "dual": [{"sampling": "largest"}, {"c_d": 0.1}, {"c_d": 100}, {"window": 2, "epochs": 2}],
    "ssp": [{"keep": "easy"}, {"clusters": 1}, {"class_floor": 0}, {"class_floor": 1}],
    "ccs": [{"beta": 0}, {"beta": 0.5}, {"beta": 1 - 1e-9}, {"strata": 1}, {"strata": 10_000}],
    "prune4rel": [{"tau": 0}, {"tau": 1 - 1e-9}, {"eta": 1e-6}, {"eta": 1e6}, {"balance": False}],
}


REFUSALS = {
    "ccs": r"beta=0\.\d+ leaves \d+ of \d+ samples, expected at least size=\d+ of them: choose a smaller beta",
    "dual": "label_probabilities never change, expected them to, since .*",
    "ssp": "clusters=(2|100) is out of range, expected at most (1|2|40), the number of samples: .*",
}


@pytest.mark.parametrize("name", list(coresets.CORESETS))
@pytest.mark.parametrize("kind", ["ordinary", "one class", "ties", "huge", "denormal", "mastered"])
def test_a_static_method_chooses_as_many_as_it_is_asked_for_or_says_why_not(name: str, kind: str) -> None:
    for samples in (1, 2, 40):
        for classes in (2, 100):
            record = proxy(kind, samples, classes)
            for settings in [{}, *STATIC_ENDS.get(name, [])]:
                for size in {1, (samples + 1) // 2, samples}:
                    choose = partial(coresets.select, name, record, size, seed=0, **settings)
                    message = refusal_of(choose)
                    if message is not None:
                        assert re.fullmatch(REFUSALS[name], message)
                        continue
                    chosen = choose().tolist()
                    assert chosen == sorted(set(chosen))
                    assert len(chosen) == size
                    assert all(0 <= sample < samples for sample in chosen)


def test_the_table_of_ends_names_every_setting_that_there_is() -> None:
    assert {knob for preset in ap.PRESETS.values() for knob in preset.knobs} | {"delta"} == set(ENDS)
    for name, ends in STATIC_ENDS.items():
        known = {field.name for field in fields(coresets.CORESETS[name].settings)}
        assert {setting for end in ends for setting in end} <= known
