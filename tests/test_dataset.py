"""Indexed and IndexedCollate: the index travels with its item, whatever the data set underneath."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, default_collate

import alignprune as ap


class Squares(Dataset[int]):
    """Plain items, one at a time; notes how it was asked."""

    def __init__(self, n: int = 10) -> None:
        self.n, self.calls = n, list[Any]()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> int:
        self.calls.append(i)
        return i * i


class BatchedSquares(Squares):
    """Fetches several items at once, as Subset and Hugging Face data sets do."""

    def __getitems__(self, indices: list[int]) -> list[int]:
        self.calls.append(list(indices))
        return [i * i for i in indices]


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(10))


class LongStream(Stream):
    def __len__(self) -> int:
        return 10


class BothWays(LongStream):
    """As litdata's StreamingDataset is: an IterableDataset that can also be read by index."""

    def __getitem__(self, i: int) -> int:
        return i * i


class WithoutLength:
    def __getitem__(self, i: int) -> int:
        return i


def test_an_item_comes_with_its_index() -> None:
    indexed = ap.Indexed(Squares())
    assert len(indexed) == 10
    assert [indexed[i] for i in (3, 0, 9)] == [(3, 9), (0, 0), (9, 81)]


def test_items_are_fetched_one_by_one_where_the_data_set_knows_no_other_way() -> None:
    squares = Squares()
    assert ap.Indexed(squares).__getitems__([4, 2]) == [(4, 16), (2, 4)]
    assert squares.calls == [4, 2]


def test_items_are_fetched_at_once_where_the_data_set_can() -> None:
    squares = BatchedSquares()
    assert ap.Indexed(squares).__getitems__([4, 2, 7]) == [(4, 16), (2, 4), (7, 49)]
    assert squares.calls == [[4, 2, 7]]


def test_a_loader_fetches_whole_batches_at_once() -> None:
    squares = BatchedSquares()
    pruner = ap.Pruner.from_preset("full", num_samples=10, epochs=1)
    for index, items in pruner.loader(squares, batch_size=4):
        assert torch.equal(items, index**2)
    assert squares.calls == [order.tolist() for order in torch.tensor(list(pruner.sampler)).split(4)]


def test_a_data_set_that_returns_too_few_items_is_not_misaligned_in_silence() -> None:
    class Forgetful(BatchedSquares):
        def __getitems__(self, indices: list[int]) -> list[int]:
            return super().__getitems__(indices)[1:]

    with pytest.raises(ValueError, match="zip"):
        ap.Indexed(Forgetful()).__getitems__([1, 2, 3])


def test_items_are_handed_on_as_they_are() -> None:
    item = object()
    assert ap.Indexed([item, None])[0][1] is item  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "dataset", [Stream(), LongStream(), WithoutLength(), iter([1, 2]), 7], ids=lambda d: type(d).__name__
)
def test_a_data_set_without_index_or_length_is_refused(dataset: Any) -> None:
    with pytest.raises(
        TypeError, match=rf"dataset is {type(dataset).__name__}, which is not read by .*see pruner.stream"
    ):
        ap.Indexed(dataset)


def test_a_stream_that_can_also_be_read_by_index_is_read_by_index() -> None:
    pruner = ap.Pruner.from_preset("full", num_samples=10, epochs=1)
    loader = DataLoader(ap.Indexed(BothWays()), sampler=pruner.sampler, batch_size=4)
    pairs = [(int(i), int(item)) for index, items in loader for i, item in zip(index, items, strict=True)]
    assert sorted(pairs) == [(i, i * i) for i in range(10)]


def test_wrapping_twice_is_refused() -> None:
    with pytest.raises(TypeError, match="dataset is Indexed already, expected one that is not: wrap it once"):
        ap.Indexed(ap.Indexed(Squares()))
    pruner = ap.Pruner.from_preset("full", num_samples=10, epochs=1)
    with pytest.raises(TypeError, match="Indexed already"):
        pruner.loader(ap.Indexed(Squares()))


@pytest.mark.parametrize("ask", [lambda d: d[10], lambda d: d.__getitems__([1, 12, 3])], ids=["item", "items"])
def test_an_index_past_the_end_names_the_remedy(ask: Any) -> None:
    with pytest.raises(
        IndexError, match=r"index=1[02] is out of range, expected an index below 10: .*num_samples=len\(dataset\)"
    ):
        ask(ap.Indexed(Squares()))


def test_a_list_of_pairs_ends_where_the_data_set_ends() -> None:
    assert list(ap.Indexed(Squares(3))) == [(0, 0), (1, 1), (2, 4)]  # type: ignore[call-overload]


def test_no_attribute_is_passed_on() -> None:
    assert not hasattr(ap.Indexed(Squares()), "calls")


@pytest.mark.parametrize("make_copy", [copy.copy, copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_copies_work(make_copy: Any) -> None:
    indexed = make_copy(ap.Indexed(Subset(TensorDataset(torch.arange(10) * 2), [5, 6, 7])))
    assert len(indexed) == 3
    index, (x,) = indexed[1]
    assert (index, int(x)) == (1, 12)


# -------------------------------------------------------------------------- collate


def test_the_default_collate_gives_an_index_tensor_and_the_batch() -> None:
    index, batch = ap.IndexedCollate()([(4, {"x": torch.ones(2)}), (2, {"x": torch.zeros(2)})])
    assert index.dtype == torch.int64
    assert index.tolist() == [4, 2]
    assert torch.equal(batch["x"], torch.tensor([[1.0, 1.0], [0.0, 0.0]]))


def test_a_collate_function_of_ones_own_sees_plain_items_in_a_list() -> None:
    seen: list[Any] = []

    def ragged(items: list[Tensor]) -> list[Tensor]:
        seen.append(items)
        return items

    items = [torch.ones(3), torch.ones(5)]
    index, batch = ap.IndexedCollate(ragged)([(1, items[0]), (0, items[1])])
    assert index.tolist() == [1, 0]
    assert isinstance(seen[0], list)
    assert all(a is b for a, b in zip(batch, items, strict=True))


def test_indices_past_the_integers_of_float32_stay_exact() -> None:
    index, _ = ap.IndexedCollate(default_collate)([(2**24 + 1, 0), (2**53 + 1, 0)])
    assert index.tolist() == [2**24 + 1, 2**53 + 1]
