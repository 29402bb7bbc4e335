from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from alignprune.noise import (
    CIFAR10_FLIPS,
    CIFAR100_FLIPS,
    KINDS,
    NoisyLabels,
    asymmetric,
    corrupt,
    instance_dependent,
    pairflip,
    symmetric_inclusive,
    symmetric_independent,
)

EXACT_IN_EACH_CLASS = ("symmetric", "pairflip", "asymmetric")
TO_ANY_OTHER_CLASS = ("symmetric", "symmetric-independent")


def draw(kind: str, labels: torch.Tensor, num_classes: int, rate: float, seed: int) -> torch.Tensor:
    """Noise of any kind; the asymmetric one sends each class to the one before."""
    options = {
        "asymmetric": {"flips": [c - 1 if c else num_classes - 1 for c in range(num_classes)]},
        "instance-dependent": {"inputs": torch.arange(2 * len(labels)).reshape(-1, 2)},
    }
    return KINDS[kind](labels, num_classes, rate, seed, **options.get(kind, {}))


def shuffled_labels(counts: list[int], seed: int = 0) -> torch.Tensor:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


def confusion(clean: torch.Tensor, noisy: torch.Tensor, num_classes: int) -> list[list[int]]:
    """Counts by a slow loop: row = clean class, column = noisy class."""
    table = [[0] * num_classes for _ in range(num_classes)]
    for before, after in zip(clean.tolist(), noisy.tolist(), strict=True):
        table[before][after] += 1
    return table


def example() -> NoisyLabels:
    return corrupt(shuffled_labels([20, 30, 50]), "symmetric", 0.3, 3, seed=5)


@pytest.mark.parametrize("kind", EXACT_IN_EACH_CLASS)
@pytest.mark.parametrize("rate", [0.0, 0.2, 0.45, 0.5, 0.8, 1.0])
def test_each_class_loses_exactly_its_share(kind: str, rate: float) -> None:
    counts = [7, 20, 1, 33]
    clean = shuffled_labels(counts)
    table = confusion(clean, draw(kind, clean, 4, rate, 3), 4)
    for c, count in enumerate(counts):
        assert count - table[c][c] == round(rate * count)


@given(
    counts=st.lists(st.integers(0, 12), min_size=2, max_size=6),
    rate=st.floats(0, 1),
    seed=st.integers(0, 2**63 - 1),
    kind=st.sampled_from(EXACT_IN_EACH_CLASS),
)
@settings(max_examples=60, deadline=None)
def test_counts_hold_for_any_class_sizes(counts: list[int], rate: float, seed: int, kind: str) -> None:
    clean = shuffled_labels(counts)
    noisy = draw(kind, clean, len(counts), rate, seed)
    table = confusion(clean, noisy, len(counts))
    assert [sum(row) - row[c] for c, row in enumerate(table)] == [round(rate * n) for n in counts]


@pytest.mark.parametrize("kind", TO_ANY_OTHER_CLASS)
def test_a_flipped_label_is_uniform_over_the_other_classes(kind: str) -> None:
    clean = shuffled_labels([6000] * 4)
    table = confusion(clean, draw(kind, clean, 4, 0.6, 0), 4)
    for c in range(4):
        others = [table[c][d] for d in range(4) if d != c]
        assert stats.chisquare(others).pvalue > 1e-4


def test_independent_noise_flips_each_sample_with_the_rate_as_probability() -> None:
    clean = shuffled_labels([100, 300])
    flipped = np.array([symmetric_independent(clean, 2, 0.3, seed).ne(clean).numpy() for seed in range(400)])
    for c in (0, 1):
        of_class = flipped[:, (clean == c).numpy()]
        counts = of_class.sum(1)
        size = of_class.shape[1]
        assert stats.binomtest(int(counts.sum()), 400 * size, 0.3).pvalue > 1e-4
        # A fixed count would have variance 0; a binomial one has n r (1 - r). Ratio * 399 is chi-square, 399 dof.
        ratio = counts.var(ddof=1) / (size * 0.3 * 0.7)
        assert 1e-4 < stats.chi2.cdf(399 * ratio, 399) < 1 - 1e-4
    per_sample = flipped.sum(0)
    assert stats.binom.cdf(per_sample.min(), 400, 0.3) > 1e-7
    assert stats.binom.sf(per_sample.max() - 1, 400, 0.3) > 1e-7


@pytest.mark.parametrize("rate, changed", [(0.0, 0), (1.0, 20)])
def test_independent_noise_flips_none_at_rate_0_and_all_at_rate_1(rate: float, changed: int) -> None:
    clean = shuffled_labels([10, 10])
    assert symmetric_independent(clean, 2, rate, 0).ne(clean).sum() == changed


def test_inclusive_noise_is_uniform_over_all_classes_on_the_samples_that_it_draws() -> None:
    clean = shuffled_labels([5000] * 4)
    noisy = symmetric_inclusive(clean, 4, 1.0, 0)
    for row in confusion(clean, noisy, 4):
        assert stats.chisquare(row).pvalue > 1e-4


def test_inclusive_noise_has_the_expected_rate_of_its_source() -> None:
    clean = shuffled_labels([2000] * 5)
    wrong = int(symmetric_inclusive(clean, 5, 0.5, 0).ne(clean).sum())
    # Exactly 5,000 samples are drawn; each is wrong with probability 4/5.
    assert wrong <= 5000
    assert stats.binomtest(wrong, 5000, 0.8).pvalue > 1e-4


def test_inclusive_noise_draws_an_exact_number_of_samples() -> None:
    clean = torch.zeros(100, dtype=torch.int64)
    # Of 10 million classes a drawn one is never the true one.
    assert symmetric_inclusive(clean, 10**7, 0.37, 0).ne(clean).sum() == 37


def test_pairflip_goes_to_the_next_class_and_from_the_last_to_the_first() -> None:
    clean = shuffled_labels([10, 10, 10])
    table = confusion(clean, pairflip(clean, 3, 0.4, 0), 3)
    assert table == [[6, 4, 0], [0, 6, 4], [4, 0, 6]]


def test_asymmetric_noise_follows_its_table_and_leaves_the_other_classes() -> None:
    clean = shuffled_labels([10, 20, 30, 5])
    table = confusion(clean, asymmetric(clean, 4, 0.4, 0, flips=[2, 1, 0, 0]), 4)
    assert table == [[6, 0, 4, 0], [0, 20, 0, 0], [12, 0, 18, 0], [2, 0, 0, 3]]


def test_asymmetric_noise_over_all_samples_draws_an_exact_number_of_them() -> None:
    clean = shuffled_labels([500, 300, 199])
    noisy = asymmetric(clean, 3, 0.2, 0, flips=[1, 2, 0], per_class=False)
    table = confusion(clean, noisy, 3)
    assert table[0][2] == table[1][0] == table[2][1] == 0
    flipped = [table[0][1], table[1][2], table[2][0]]
    assert sum(flipped) == 199  # floor(0.2 * 999)
    assert flipped != [100, 60, 39]  # a share of each class, to the unit
    share = np.array([500, 300, 199]) / 999
    assert stats.chisquare(flipped, share * 199).pvalue > 1e-4


def test_a_share_of_all_samples_is_not_a_rounding_short() -> None:
    clean = shuffled_labels([50, 50])
    # 0.29 * 100 is 28.999999999999996 in float64.
    assert asymmetric(clean, 2, 0.29, 0, flips=[1, 0], per_class=False).ne(clean).sum() == 29


def test_drawn_labels_whose_class_stays_remain_right() -> None:
    clean = shuffled_labels([400, 600])
    wrong = asymmetric(clean, 2, 0.5, 0, flips=[1, 1], per_class=False).ne(clean)
    assert not wrong[clean == 1].any()
    # 500 draws among 1,000, of which 400 can flip: hypergeometric.
    assert 1e-4 < stats.hypergeom.cdf(int(wrong.sum()), 1000, 400, 500) < 1 - 1e-4


def test_cifar10_flips_are_those_of_the_literature() -> None:
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    changed = {names[c]: names[target] for c, target in enumerate(CIFAR10_FLIPS) if target != c}
    assert changed == {
        "truck": "automobile",
        "bird": "airplane",
        "deer": "horse",
        "cat": "dog",
        "dog": "cat",
    }


def test_cifar100_flips_go_round_twenty_super_classes_of_five() -> None:
    cycles = set()
    for c in range(100):
        cycle = [c]
        while (following := CIFAR100_FLIPS[cycle[-1]]) != c:
            cycle.append(following)
        cycles.add(frozenset(cycle))
        # Ascending: going round once, the id falls exactly once.
        assert sum(a > b for a, b in zip(cycle, [*cycle[1:], c], strict=True)) == 1
    assert sorted(map(len, cycles)) == [5] * 20
    people, trees = {2: "baby", 11: "boy", 35: "girl", 46: "man", 98: "woman"}, {47, 52, 56, 59, 96}
    assert {frozenset(people), frozenset(trees)} <= cycles
    assert [people[CIFAR100_FLIPS[c]] for c in people] == ["boy", "girl", "man", "woman", "baby"]


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.95])
def test_instance_dependent_noise_has_its_rate_on_average(rate: float) -> None:
    clean = shuffled_labels([4000] * 5)
    inputs = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(1))
    wrong = int(instance_dependent(clean, 5, rate, 0, inputs).ne(clean).sum())
    # Of rates near 0 or 1 the distribution is cut off at two standard deviations, which moves its mean by 0.06 of one.
    low, high = (stats.binom.ppf(q, 20_000, rate) for q in (1e-5, 1 - 1e-5))
    assert low - 0.03 * min(rate, 1 - rate) * 20_000 <= wrong <= high + 0.03 * min(rate, 1 - rate) * 20_000


@pytest.mark.parametrize("rate, changed", [(0.0, 0), (1.0, 40)])
def test_instance_dependent_noise_flips_none_at_rate_0_and_all_at_rate_1(rate: float, changed: int) -> None:
    clean = shuffled_labels([20, 20])
    assert instance_dependent(clean, 2, rate, 0, torch.arange(80).reshape(40, 2)).ne(clean).sum() == changed


def test_the_class_that_a_sample_is_given_follows_the_softmax_of_a_linear_map_of_its_input() -> None:
    # Two inputs, standardised -1 and 1: the preferences for the other classes are w and -w, so the shares of a class
    # under the two multiply to the same for every class.
    clean = shuffled_labels([40_000] * 4)
    inputs = torch.rand(len(clean), 1, generator=torch.Generator().manual_seed(2)).round()
    noisy = instance_dependent(clean, 4, 1.0, 3, inputs)
    ratios = []
    for c in range(4):
        counts = np.array(
            [np.bincount(noisy[(clean == c) & (inputs[:, 0] == side)], minlength=4) for side in (0, 1)], dtype=float
        )
        assert (counts[:, c] == 0).all()
        counts = np.delete(counts, c, axis=1)
        products, variances = np.log(counts).sum(0), (1 / counts).sum(0)
        spread = products - np.average(products, weights=1 / variances)
        assert stats.chi2.sf((spread**2 / variances).sum(), 2) > 1e-5
        ratios.append(counts.max() / counts.min())
    assert max(ratios) > 2  # not all alike


def test_samples_that_look_alike_get_the_same_wrong_label() -> None:
    generator = torch.Generator().manual_seed(3)
    looks = torch.randn(6, 4000, generator=generator)
    look = torch.randint(6, (3000,), generator=generator)
    clean = torch.randint(10, (3000,), generator=generator)
    noisy = instance_dependent(clean, 10, 0.4, 0, looks[look].reshape(3000, 40, 100))
    given = {
        (c, k): tuple(noisy[(clean == c) & (look == k) & (noisy != clean)].unique().tolist())
        for c in range(10)
        for k in range(6)
    }
    # Twenty wrong labels each: by chance alone they would be of one class nowhere.
    assert np.mean([len(classes) == 1 for classes in given.values()]) > 0.7
    assert len({tuple(given[c, k] for c in range(10)) for k in range(6)}) == 6  # others for those that look otherwise
    assert len({tuple(given[c, k] for k in range(6)) for c in range(10)}) == 10  # and in another class


def test_the_scale_of_the_inputs_does_not_matter_nor_does_a_number_that_is_always_the_same() -> None:
    clean = shuffled_labels([300] * 3)
    inputs = torch.randint(0, 256, (900, 2, 2), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    expected = instance_dependent(clean, 3, 0.5, 0, inputs)
    assert torch.equal(instance_dependent(clean, 3, 0.5, 0, 4.0 * inputs.double() - 100), expected)
    inputs[:, 0, 0] = 7
    with_constant = instance_dependent(clean, 3, 0.5, 0, inputs)
    inputs[:, 0, 0] = 9
    assert torch.equal(instance_dependent(clean, 3, 0.5, 0, inputs), with_constant)


@pytest.mark.parametrize(
    "inputs, error, match",
    [
        (None, ValueError, "inputs=None is given with kind='instance-dependent', expected what the wrong labels"),
        (np.zeros((4, 2)), TypeError, r"inputs is ndarray, expected a tensor of numbers \[N, ...\]"),
        (torch.zeros(4, 2, dtype=torch.bool), TypeError, "inputs is torch.bool, expected a tensor of numbers"),
        (torch.zeros(4), ValueError, r"inputs has shape \(4,\), expected \[4, ...\], at least one number"),
        (torch.zeros(3, 2), ValueError, r"inputs has shape \(3, 2\), expected \[4, ...\].*in the same order"),
        (torch.zeros(4, 0), ValueError, r"inputs has shape \(4, 0\), expected \[4, ...\], at least one number"),
        (torch.tensor([[1.0]] * 3 + [[float("nan")]]), ValueError, "inputs holds numbers that are not finite"),
    ],
)
def test_inputs_that_labels_cannot_depend_on_are_refused(inputs: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        corrupt(torch.tensor([0, 1, 0, 1]), "instance-dependent", 0.5, 2, 0, inputs=inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_gives_the_same_labels_and_another_seed_others(kind: str) -> None:
    clean = shuffled_labels([50] * 4)
    first, again, other = (draw(kind, clean, 4, 0.5, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_callers_labels_and_the_global_generators_are_untouched(kind: str, rate: float) -> None:
    clean = shuffled_labels([50] * 4)
    before = clean.clone()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    noisy = draw(kind, clean, 4, rate, 1)
    noisy[0] = 99
    assert torch.equal(clean, before)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


@pytest.mark.parametrize("kind", KINDS)
def test_any_integer_dtype_is_taken_and_int64_comes_back(kind: str) -> None:
    clean = shuffled_labels([9, 9])
    expected = draw(kind, clean, 2, 0.5, 0)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        noisy = draw(kind, clean.to(dtype), 2, 0.5, 0)
        assert noisy.dtype == torch.int64
        assert torch.equal(noisy, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_no_labels_give_no_labels(kind: str) -> None:
    assert draw(kind, torch.empty(0, dtype=torch.int64), 3, 0.5, 0).shape == (0,)


def test_the_rate_of_no_labels_is_0() -> None:
    assert corrupt(torch.empty(0, dtype=torch.int64), "symmetric", 0.5, 3, 0).noise_rate == 0


def test_corrupt_passes_its_arguments_on() -> None:
    clean = shuffled_labels([20, 30, 50])
    for per_class in (True, False):
        noisy = corrupt(clean, "asymmetric", 0.3, 3, 5, flips=[1, 2, 2], per_class=per_class)
        assert torch.equal(noisy.labels, asymmetric(clean, 3, 0.3, 5, [1, 2, 2], per_class))
        assert (noisy.kind, noisy.rate, noisy.seed) == ("asymmetric", 0.3, 5)


def test_the_confusion_counts_pairs_of_clean_and_noisy_labels() -> None:
    noisy = example()
    counts = noisy.confusion(4)
    assert counts.dtype == torch.int64
    assert counts.tolist() == confusion(noisy.clean, noisy.labels, 4)
    with pytest.raises(ValueError, match=r"class ids 0 to 2, expected 0 to 1"):
        noisy.confusion(2)


def test_noisy_labels_measure_their_rate() -> None:
    noisy = example()
    wrong = [a != b for a, b in zip(noisy.labels.tolist(), noisy.clean.tolist(), strict=True)]
    assert noisy.is_noisy.tolist() == wrong
    assert noisy.noise_rate == sum(wrong) / len(wrong) == 0.3


def test_the_clean_labels_are_a_copy() -> None:
    clean = shuffled_labels([5, 5])
    noisy = corrupt(clean, "pairflip", 0.2, 2, 0)
    clean.zero_()
    assert noisy.clean.sum() == 5


@pytest.mark.parametrize("seed", [5, None])
def test_saved_labels_come_back_under_exactly_the_given_name(tmp_path: Path, seed: int | None) -> None:
    noisy = example()
    noisy = NoisyLabels(noisy.labels, noisy.clean, "real", 0.3, seed)
    noisy.save(tmp_path / "labels")
    loaded = NoisyLabels.load(tmp_path / "labels")
    assert [file.name for file in tmp_path.iterdir()] == ["labels"]
    assert torch.equal(loaded.labels, noisy.labels)
    assert torch.equal(loaded.clean, noisy.clean)
    assert (loaded.kind, loaded.rate, loaded.seed) == ("real", 0.3, seed)


def test_a_failed_save_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels.npz"
    example().save(path)
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        corrupt(shuffled_labels([4, 4]), "pairflip", 0.5, 2, 0).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["labels.npz"]


def test_a_foreign_file_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "labels.npz"
    path.write_text("not an archive")
    with pytest.raises(ValueError, match=r"path=.*labels\.npz' is damaged \(its seal is missing\)"):
        NoisyLabels.load(path)
    np.savez(path, labels=np.zeros(3, dtype=np.int64))
    with pytest.raises(ValueError, match="its seal is missing"):
        NoisyLabels.load(path)
    with pytest.raises(FileNotFoundError):
        NoisyLabels.load(tmp_path / "nowhere.npz")


def test_an_unknown_kind_names_the_known_and_the_nearest() -> None:
    message = (
        "kind='symetric' is unknown, expected one of symmetric, symmetric-independent, symmetric-inclusive, "
        "pairflip, asymmetric, instance-dependent; did you mean 'symmetric'?"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        corrupt(torch.tensor([0, 1]), "symetric", 0.2, 2, 0)


def test_asymmetric_noise_without_a_table_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"flips=None is given .*pass CIFAR10_FLIPS, CIFAR100_FLIPS .* 'pairflip'"):
        corrupt(torch.tensor([0, 1]), "asymmetric", 0.2, 2, 0)


@pytest.mark.parametrize(
    "kind, owner, option",
    [
        (kind, owner, option)
        for owner, option in (
            ("asymmetric", {"flips": [1, 0]}),
            ("asymmetric", {"per_class": False}),
            ("instance-dependent", {"inputs": torch.zeros(2, 1)}),
        )
        for kind in KINDS
        if kind != owner
    ],
)
def test_what_another_kind_takes_is_refused(kind: str, owner: str, option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"given with kind='{kind}', which takes none, expected kind='{owner}'"):
        corrupt(torch.tensor([0, 1]), kind, 0.2, 2, 0, **option)


@pytest.mark.parametrize(
    "flips, error, match",
    [
        ([1, 0], ValueError, "flips has 2 entries, expected 3"),
        ([1, 0, 3], ValueError, r"flips\[2\]=3 is out of range, expected a class id from 0 to 2"),
        ([1, -1, 0], ValueError, r"flips\[1\]=-1 is out of range"),
        ([1, 0.0, 0], TypeError, r"flips\[1\]=0.0 is float"),
        ([0, 1, 2], ValueError, "flips changes no class"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(flips: list[int], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        asymmetric(torch.tensor([0, 1, 2]), 3, 0.5, 0, flips=flips)


@pytest.mark.parametrize(
    "change, error, match",
    [
        ({"rate": 20}, ValueError, r"rate=20 .* \[0, 1\]: write 20 % as 0.2"),
        ({"rate": -0.1}, ValueError, "rate=-0.1 is out of range"),
        ({"rate": float("nan")}, ValueError, "rate=nan is out of range"),
        ({"rate": "0.2"}, TypeError, "rate='0.2' is str"),
        ({"num_classes": 1}, ValueError, "num_classes=1 .* expected an integer >= 2"),
        ({"num_classes": 2.0}, TypeError, "num_classes=2.0 is float"),
        ({"num_classes": 2}, ValueError, r"labels holds class ids 0 to 2, expected 0 to 1"),
        ({"labels": torch.tensor([-1, 0])}, ValueError, r"labels holds class ids -1 to 0"),
        ({"labels": torch.tensor([0.0, 1.0])}, TypeError, r"labels is torch.float32.* \.long\(\)"),
        ({"labels": torch.tensor([True, False])}, TypeError, "labels is torch.bool"),
        ({"labels": torch.eye(3).long()}, ValueError, r"labels has shape \(3, 3\).*argmax"),
        ({"labels": [0, 1, 2]}, TypeError, "labels is list"),
        ({"seed": -1}, ValueError, "seed=-1 is out of range"),
        ({"seed": 0.5}, TypeError, "seed=0.5 is float"),
        ({"seed": True}, TypeError, "seed=True is bool"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_arguments_are_named(kind: str, change: dict[str, object], error: type[Exception], match: str) -> None:
    arguments = {"labels": torch.tensor([0, 1, 2]), "num_classes": 3, "rate": 0.5, "seed": 0, **change}
    options = {"asymmetric": {"flips": [1, 2, 0]}, "instance-dependent": {"inputs": torch.zeros(3, 1)}}
    with pytest.raises(error, match=match):
        KINDS[kind](**arguments, **options.get(kind, {}))


def test_noisy_labels_of_other_shapes_are_refused() -> None:
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="labels has 2 entries and clean 1"):
        NoisyLabels(labels, labels[:1], "real", 0.0, None)
    with pytest.raises(ValueError, match=r"clean is torch\.int32"):
        NoisyLabels(labels, labels.int(), "real", 0.0, None)
