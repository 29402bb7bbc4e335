"""Draws against a slow hash in Python's own integers, a plain sort, and what chance would do."""

from __future__ import annotations

import hashlib
import random
import struct
from dataclasses import FrozenInstanceError
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from alignprune._ranks import Draws, keyed_generator, rank_and_world

CHUNK = 65_536
MANY = 100_000
LARGEST = 2**32


def mixed(value: int) -> int:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        value = ((value ^ value >> shift) * factor) % LARGEST
    return value ^ value >> 16


def slow_key(draws: Draws, purpose: str, sample: int) -> int:
    """Three rounds of the mixer, each after 32 bits of a digest of what is drawn."""
    text = f"{draws.seed}/{draws.epoch}/{purpose}".encode()
    value = sample % LARGEST ^ mixed(sample // LARGEST)
    for part in struct.unpack("<3I", hashlib.blake2b(text, digest_size=12).digest()):
        value = mixed(value ^ part)
    return value


def smallest(keys: np.ndarray, count: int) -> list[int]:
    """Positions of the smallest keys, ascending; of equal ones the first."""
    return sorted(sorted(range(len(keys)), key=lambda i: (int(keys[i]), i))[:count])


# The key of a sample.


@given(
    seed=st.integers(0, 2**63),
    epoch=st.integers(0, 10_000),
    purpose=st.sampled_from(["select", "groups", "Überall", ""]),
    samples=st.lists(st.one_of(st.integers(0, 100), st.integers(0, 2**48)), max_size=20),
)
@settings(max_examples=100, deadline=None)
def test_a_key_is_the_slow_hash_of_seed_epoch_purpose_and_sample(
    seed: int, epoch: int, purpose: str, samples: list[int]
) -> None:
    draws = Draws(seed, epoch)
    keys = draws.keys(purpose, np.array(samples, dtype=np.int64))
    assert keys.dtype == np.uint32
    assert keys.tolist() == [slow_key(draws, purpose, sample) for sample in samples]


def test_the_keys_of_a_whole_data_set_are_the_slow_ones_on_both_sides_of_a_chunk() -> None:
    draws = Draws(3, 7)
    keys = draws.keys("select", 2 * CHUNK + 5)
    for sample in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 4):
        assert keys[sample] == slow_key(draws, "select", sample)


@pytest.mark.parametrize("size", [0, 1, 5, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3])
def test_a_number_of_samples_stands_for_all_of_them(size: int) -> None:
    draws = Draws(0, 1)
    assert np.array_equal(draws.keys("select", size), draws.keys("select", np.arange(size)))
    assert draws.keys("select", size).shape == (size,)


@given(seed=st.integers(0, 1_000), size=st.sampled_from([1, 50, CHUNK - 1, CHUNK, CHUNK + 1, 150_000]))
@settings(max_examples=25, deadline=None)
def test_a_sample_has_the_same_key_whatever_else_is_asked_about_and_in_any_order(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    draws, samples = Draws(seed, 2), rng.choice(200_000, size, replace=False)
    whole = draws.keys("select", 200_000)
    assert np.array_equal(draws.keys("select", samples), whole[samples])
    assert np.array_equal(draws.keys("select", np.sort(samples)), whole[np.sort(samples)])


def test_a_sample_past_two_to_the_32_does_not_change_the_keys_of_its_neighbours() -> None:
    draws = Draws(0, 0)
    alone = draws.keys("select", np.arange(10))
    together = draws.keys("select", np.append(np.arange(10), 2**32 + 3))
    assert np.array_equal(together[:10], alone)
    assert together[10] == slow_key(draws, "select", 2**32 + 3)
    assert together[10] != alone[3]


def test_different_samples_have_different_keys() -> None:
    assert len(np.unique(Draws(5, 6).keys("select", 1_000_000))) == 1_000_000


def test_the_given_samples_are_left_as_they_were() -> None:
    samples = np.arange(0, 10_000, 3)
    before = samples.copy()
    for draw in (lambda: Draws(0, 0).keys("a", samples), lambda: Draws(0, 0).choose("a", samples, 50)):
        draw()
        assert np.array_equal(samples, before)


# Chance.


def test_keys_are_uniform_in_every_bit() -> None:
    keys = Draws(11, 4).keys("select", MANY)
    for bit in range(32):
        assert abs(np.mean(keys >> bit & 1) - 0.5) < 5 * 0.5 / np.sqrt(MANY)
    for shift in (0, 12, 24):  # runs of samples are no runs of keys, at either end of the number
        counts = np.bincount((keys >> shift & 255).astype(np.int64), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-4
    assert abs(np.corrcoef(keys[1:], keys[:-1])[0, 1]) < 5 / np.sqrt(MANY)


def test_uniform_numbers_are_uniform_and_below_one() -> None:
    draws = Draws(2, 9)
    values = draws.uniform("turn", MANY)
    assert (values.dtype, values.shape) == (np.float32, (MANY,))
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values.astype(np.float64), "uniform").pvalue > 1e-4
    # the key is the number, to the 24 bits of a float32
    assert np.array_equal(values.astype(np.float64), np.floor(draws.keys("turn", MANY) / 2.0**8) / 2.0**24)


def test_draws_of_other_purposes_epochs_and_seeds_are_independent() -> None:
    named = {
        "this": Draws(0, 0).keys("select", MANY),
        "another purpose": Draws(0, 0).keys("groups", MANY),
        "the next epoch": Draws(0, 1).keys("select", MANY),
        "the next seed": Draws(1, 0).keys("select", MANY),
        "seed and epoch changed places": Draws(1, 2).keys("select", MANY),
        "and back": Draws(2, 1).keys("select", MANY),
        "a number further": Draws(0, 10).keys("select", MANY),
        "a number that is written alike": Draws(0, 1).keys("0/select", MANY),
    }
    for (one, keys), (other, others) in combinations(named.items(), 2):
        why = f"{one} and {other}"
        assert abs(np.corrcoef(keys, others)[0, 1]) < 5 / np.sqrt(MANY), why
        both = np.count_nonzero((keys < 2**31) & (others < 2**31)) / MANY
        assert abs(both - 0.25) < 5 * np.sqrt(0.25 * 0.75 / MANY), why
        pairs = np.histogram2d(keys, others, bins=8, range=[[0, LARGEST]] * 2)[0]
        assert stats.chisquare(pairs.ravel()).pvalue > 1e-4, why


def test_every_sample_and_every_pair_of_samples_is_drawn_as_often_as_chance_would() -> None:
    drawn = np.zeros((2_000, 40))
    for epoch in range(2_000):
        drawn[epoch, Draws(7, epoch).choose("select", 40, 12)] = 1
    assert drawn.sum(1).tolist() == [12] * 2_000
    share, pair = 12 / 40, 12 / 40 * 11 / 39
    assert np.abs(drawn.mean(0) - share).max() < 5 * np.sqrt(share * (1 - share) / 2_000)
    together = (drawn.T @ drawn / 2_000)[np.triu_indices(40, 1)]
    assert np.abs(together - pair).max() < 5.5 * np.sqrt(pair * (1 - pair) / 2_000)


# Drawing without replacement.

SIZES = st.one_of(
    st.integers(0, 300), st.integers(4_000, 4_200), st.integers(4_097, 30_000), st.integers(CHUNK - 2, CHUNK + 2)
)


@given(seed=st.integers(0, 10_000), size=SIZES, share=st.floats(-0.1, 1.1), part=st.booleans())
@settings(max_examples=150, deadline=None)
def test_those_with_the_smallest_keys_are_chosen(seed: int, size: int, share: float, part: bool) -> None:
    draws, count = Draws(seed, seed % 7), round(share * size)
    samples = np.sort(np.random.default_rng(seed).choice(3 * size + 1, size, replace=False)) if part else size
    chosen = draws.choose("select", samples, count)
    keys = draws.keys("select", samples)
    expected = smallest(keys, max(count, 0))
    assert chosen.dtype == np.int64
    assert chosen.tolist() == (np.asarray(samples)[expected].tolist() if part else expected)


@pytest.mark.parametrize("size", [1, 4_095, 4_096, 4_097, 50_000])
def test_few_and_nearly_all_are_chosen_by_the_same_rule(size: int) -> None:
    for seed in range(3):
        draws = Draws(seed, 0)
        order = np.argsort(draws.keys("select", size), kind="stable")
        for count in {0, 1, 2, 3, size // 2, size - 2, size - 1, size, size + 1, 10 * size}:
            expected = np.sort(order[: max(0, count)])
            assert np.array_equal(draws.choose("select", size, count), expected), (size, count)


def test_keys_that_happen_to_bunch_up_are_told_apart_too() -> None:
    keys = Draws(0, 0).keys("select", 400_000)
    lowest, bunched = np.flatnonzero(keys < 2**28), np.flatnonzero((keys > 2**31) & (keys < 2**31 + 2**27))
    assert min(len(lowest), len(bunched)) > 4_096
    for samples in (lowest, bunched):
        for count in (1, 100, len(samples) // 2, len(samples) - 1):
            expected = samples[smallest(keys[samples], count)]
            assert np.array_equal(Draws(0, 0).choose("select", samples, count), expected)


@pytest.mark.parametrize("below", [2_399, 2_400, 2_401, 2_499, 2_500, 2_501])
def test_keys_that_leave_a_gap_where_the_last_one_is_looked_for_are_told_apart_too(below: int) -> None:
    keys = Draws(0, 0).keys("select", 400_000)
    parts = [(0.0, 0.4, below), (0.49, 0.51, 100), (0.6, 1.0, 5_000 - below - 100)]  # about half of 5,000 is asked for
    found = [np.flatnonzero((keys >= a * LARGEST) & (keys < b * LARGEST))[:size] for a, b, size in parts]
    samples = np.sort(np.concatenate(found))
    for count in range(2_495, 2_506):
        assert np.array_equal(Draws(0, 0).choose("select", samples, count), samples[smallest(keys[samples], count)])


def test_of_two_samples_with_one_key_the_first_is_chosen() -> None:
    draws = Draws(0, 0)
    twins = [2**32 + (mixed(1) ^ sample) for sample in range(30)]  # each hashed into the number of its twin
    samples = np.array(sorted([*range(30), *twins]))
    keys = draws.keys("select", samples)
    assert len(np.unique(keys)) == 30
    for count in range(61):
        assert draws.choose("select", samples, count).tolist() == samples[smallest(keys, count)].tolist()


def test_more_samples_of_a_draw_are_those_of_a_smaller_one_and_others() -> None:
    draws, before = Draws(1, 1), set()
    for count in (0, 10, 500, 4_999, 5_000):
        chosen = set(draws.choose("select", 5_000, count).tolist())
        assert before <= chosen
        assert len(chosen) == count
        before = chosen


@pytest.mark.parametrize("world", [2, 3, 8])
@pytest.mark.parametrize("size, count", [(50, 20), (20_000, 13_000), (70_001, 100)])
def test_a_rank_that_holds_a_part_decides_it_alone(world: int, size: int, count: int) -> None:
    draws = Draws(9, 5)
    whole = draws.choose("select", size, count)
    bound = np.sort(draws.keys("select", size))[count - 1]  # the one number that ranks have to agree on
    turns, blocks = [np.arange(rank, size, world) for rank in range(world)], np.array_split(np.arange(size), world)
    for parts in (turns, blocks):
        own = [part[draws.keys("select", part) <= bound] for part in parts]
        assert np.array_equal(np.sort(np.concatenate(own)), whole)
        for part, chosen in zip(parts, own, strict=True):
            assert np.array_equal(draws.choose("select", part, len(chosen)), chosen)


# Generators, and what is not touched.


def test_a_generator_depends_on_its_key_alone() -> None:
    def first(generator: torch.Generator) -> float:
        return float(torch.rand(1, dtype=torch.float64, generator=generator))

    kinds = [(0, 0, "a"), (0, 0, "b"), (0, 1, "a"), (1, 0, "a"), (1, 2, "a"), (2, 1, "a")]
    numbers = [first(keyed_generator(*kind)) for kind in kinds]
    assert numbers == [first(keyed_generator(*kind)) for kind in kinds]
    assert numbers == [first(Draws(seed, epoch).generator(purpose)) for seed, epoch, purpose in kinds]
    assert len(set(numbers)) == len(kinds)


def test_the_global_generators_are_never_touched() -> None:
    def states() -> tuple[object, ...]:
        name, keys, *rest = np.random.get_state()
        return torch.get_rng_state().tolist(), name, keys.tolist(), rest, random.getstate()

    before, draws = states(), Draws(3, 4)
    draws.keys("a", 10_000)
    draws.uniform("a", 10_000)
    draws.choose("a", 10_000, 3_000)
    torch.rand(3, generator=draws.generator("a"))
    assert states() == before


def test_draws_are_a_frozen_record() -> None:
    assert Draws(1, 2) == Draws(1, 2) != Draws(2, 1)
    with pytest.raises(FrozenInstanceError):
        Draws(1, 2).seed = 3  # type: ignore[misc]


def test_a_process_without_a_group_is_the_only_rank() -> None:
    assert rank_and_world() == (0, 1)
