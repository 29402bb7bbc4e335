"""Packed bits against lists of booleans, and sums over them against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignprune.memory.packing import SeenSums, packed_words, set_packed, uninitialised, unpacked

WINDOWS = [1, 2, 12, 13, 14, 25, 26, 27, 39, 40, 52, 53, 80]


def random_bits(window: int, samples: int, seed: int = 0) -> Tensor:
    return torch.rand(window, samples, generator=torch.Generator().manual_seed(seed)) < 0.6


def packed(bits: Tensor) -> Tensor:
    seen = torch.zeros(packed_words(len(bits)), bits.shape[1], dtype=torch.int32)
    for row, observed in enumerate(bits):
        set_packed(seen, row, observed)
    return seen


@pytest.mark.parametrize("window", WINDOWS)
def test_bits_come_back_as_they_were_set(window: int) -> None:
    bits = random_bits(window, 50)
    assert torch.equal(unpacked(packed(bits), window), bits)


@given(window=st.integers(1, 80), rows=st.lists(st.integers(0, 79), max_size=60), seed=st.integers(0, 1_000))
@settings(max_examples=60, deadline=None)
def test_a_row_that_is_written_again_leaves_the_others(window: int, rows: list[int], seed: int) -> None:
    expected = random_bits(window, 9, seed)
    seen = packed(expected)
    for step, row in enumerate(row % window for row in rows):
        expected[row] = random_bits(1, 9, seed + step + 1)[0]
        set_packed(seen, row, expected[row])
    assert torch.equal(unpacked(seen, window), expected)


def test_a_window_takes_one_word_for_26_rows() -> None:
    assert [packed_words(window) for window in (1, 25, 26, 27, 52, 53)] == [1, 1, 1, 2, 2, 3]


def test_only_the_rows_asked_for_are_unpacked() -> None:
    bits = random_bits(30, 20)
    assert torch.equal(unpacked(packed(bits), 7), bits[:7])
    assert unpacked(packed(bits), 0).shape == (0, 20)


def test_the_given_bits_are_left_as_they_were() -> None:
    bits = random_bits(3, 20)
    before = bits.clone()
    packed(bits)
    assert torch.equal(bits, before)


@pytest.mark.parametrize("window", WINDOWS)
def test_sums_over_the_rows_seen_are_those_of_a_loop(window: int) -> None:
    bits = random_bits(window, 40)
    weights = torch.randn(3, window, generator=torch.Generator().manual_seed(1))
    expected = np.zeros((3, 40))
    for kind in range(3):
        for sample in range(40):
            expected[kind, sample] = sum(float(weights[kind, t]) for t in range(window) if bits[t, sample])
    sums = SeenSums(weights, 40)
    np.testing.assert_allclose(sums(packed(bits)).numpy(), expected, atol=1e-4)


def test_sums_can_be_asked_for_again_and_for_a_last_smaller_chunk() -> None:
    weights = torch.rand(2, 30, generator=torch.Generator().manual_seed(1))
    sums = SeenSums(weights, 25)
    for seed, size in enumerate([25, 25, 7]):
        bits = random_bits(30, size, seed)
        expected = weights.double() @ bits.double()
        found = sums(packed(bits))
        assert found.shape == (2, size)
        np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("shape", [(0,), (3,), (5, 7), (1 << 18,), (3, 1 << 18), (2, 1 << 20)])
def test_uninitialised_memory_has_its_shape_and_can_be_written(shape: tuple[int, ...]) -> None:
    values = uninitialised(*shape, device=torch.device("cpu"))
    assert (values.shape, values.dtype, values.is_contiguous()) == (shape, torch.float32, True)
    assert torch.equal(values.fill_(2.0), torch.full(shape, 2.0))
