"""The reference loss: a plain mean in evaluation mode that leaves no trace in the model or in anyone's randomness."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import alignprune as ap
from alignprune.reference import cross_entropy_losses


def labelled(n: int = 50, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(n, 6, generator=generator), torch.randint(0, 4, (n,), generator=generator))


def network() -> nn.Module:
    """With all that differs between training and evaluation."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
    model.train()
    for _ in range(5):
        model(torch.randn(32, 6) * 2 + 1)  # running statistics unlike those of any batch
    return model


def slow_loss(model: nn.Module, dataset: Any, indices: Any, smoothing: float = 0.0) -> float:
    """Sample by sample, from the definition of cross-entropy."""
    model.eval()
    total = []
    for i in indices:
        x, y = dataset[i]
        logits = model(x[None])[0].detach().double().numpy()
        log_p = logits - np.log(np.exp(logits).sum())
        total.append(-(1 - smoothing) * log_p[int(y)] - smoothing * log_p.mean())
    model.train()
    return math.fsum(total) / len(total)


@pytest.mark.parametrize("batch_size", [1, 7, 50, 512])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_over_all_samples_in_evaluation_mode(batch_size: int, smoothing: float) -> None:
    model, data = network(), labelled()
    expected = slow_loss(model, data, range(50), smoothing)
    reference = ap.Reference.subset(data, batch_size=batch_size, losses=cross_entropy_losses(smoothing))
    assert reference.loss(model) == pytest.approx(expected, rel=1e-5)
    assert reference.loss(model) == reference.loss(model)
    by_loader = ap.Reference(DataLoader(data, batch_size=batch_size), cross_entropy_losses(smoothing))
    assert by_loader.loss(model) == pytest.approx(expected, rel=1e-5)


def test_samples_without_a_label_are_left_out_as_in_torch() -> None:
    model, (x, y) = network(), labelled().tensors
    y = y.clone()
    y[::3] = -100
    y[16:32] = -100  # a whole batch
    reference = ap.Reference.subset(TensorDataset(x, y), batch_size=16)
    model.eval()
    with torch.no_grad():
        expected = F.cross_entropy(model(x), y).item()
    assert reference.loss(model) == pytest.approx(expected, rel=1e-5)


def test_smoothing_makes_a_difference() -> None:
    model = network()
    plain, smooth = (ap.Reference.subset(labelled(), losses=cross_entropy_losses(s)).loss(model) for s in (0.0, 0.1))
    assert abs(plain - smooth) > 1e-3


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_modes_buffers_and_gradients_of_the_model_are_left_alone() -> None:
    model = network()
    model[3].eval()  # a module of the user's that is frozen while the rest trains
    before, state = modes(model), {k: v.clone() for k, v in model.state_dict().items()}
    assert set(before) == {True, False}
    value = ap.Reference.subset(labelled()).loss(model)
    assert isinstance(value, float)
    assert modes(model) == before
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


def test_modes_come_back_when_an_evaluation_fails() -> None:
    model = network()
    model[1].eval()
    before = modes(model)

    def failing(model: nn.Module, batch: Any) -> Tensor:
        assert not any(modes(model))
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        ap.Reference.subset(labelled(), losses=failing).loss(model)
    assert modes(model) == before
    assert torch.is_grad_enabled()


def test_losses_are_computed_without_gradient() -> None:
    seen: list[bool] = []

    def losses(model: nn.Module, batch: Any) -> Tensor:
        out = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
        seen.append(out.requires_grad)
        return out

    ap.Reference.subset(labelled(), losses=losses).loss(network())
    assert seen == [False]


def test_global_generators_are_not_touched() -> None:
    model, data = network(), labelled()
    before = torch.get_rng_state()
    reference = ap.Reference.subset(data, size=20)
    assert torch.equal(torch.get_rng_state(), before)
    reference.loss(model)  # which comes between the user's epochs and must not shift their randomness
    assert torch.equal(torch.get_rng_state(), before)


# -------------------------------------------------------------------------- which samples


class Rows(Dataset[tuple[Tensor, Tensor]]):
    """Remembers what was asked for."""

    def __init__(self, n: int) -> None:
        self.n, self.asked = n, list[int]()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        self.asked.append(i)
        return torch.full((6,), float(i)), torch.tensor(i % 4)


def read(make: Callable[[Rows], ap.Reference], n: int = 200) -> list[int]:
    """The samples that one evaluation reads."""
    rows = Rows(n)
    reference = make(rows)
    reference.loss(network())
    assert len(reference) == len(rows.asked)
    return rows.asked


def test_size_and_fraction_say_how_many_distinct_samples() -> None:
    assert sorted(read(ap.Reference.subset)) == list(range(200))
    for reference in (
        lambda rows: ap.Reference.subset(rows, size=20),
        lambda rows: ap.Reference.subset(rows, fraction=0.1),
        lambda rows: ap.Reference.subset(rows, fraction=0.104),
    ):
        asked = read(reference)
        assert len(asked) == len(set(asked)) == 20
    assert len(read(lambda rows: ap.Reference.subset(rows, fraction=0.29), n=100)) == 29  # not 28.999...
    assert len(read(lambda rows: ap.Reference.subset(rows, size=200))) == 200


def test_the_seed_alone_chooses_the_samples() -> None:
    def drawn(seed: int) -> list[int]:
        return read(lambda rows: ap.Reference.subset(rows, size=20, seed=seed))

    first = drawn(0)
    torch.manual_seed(123)
    assert drawn(0) == first
    assert drawn(1) != first
    counts = torch.zeros(200)
    for seed in range(60):
        counts[drawn(seed)] += 1
    assert counts.sum() == 1200
    assert counts.max() < 20  # 6 on average, and nothing favoured


def test_ten_samples_are_enough_and_nine_are_not() -> None:
    assert len(read(lambda rows: ap.Reference.subset(rows, size=10))) == 10
    assert len(read(lambda rows: ap.Reference.indices(rows, list(range(10))))) == 10
    for refused in (
        lambda: ap.Reference.subset(labelled(), size=9),
        lambda: ap.Reference.subset(labelled(90), fraction=0.1),
        lambda: ap.Reference.subset(labelled(9)),
        lambda: ap.Reference.indices(labelled(), list(range(9))),
        lambda: ap.Reference(DataLoader(labelled(9))),
    ):
        with pytest.raises(ValueError, match="reference has 9 samples, expected at least 10"):
            refused()


def by_hand(n: int, size: int = 5) -> list[tuple[Tensor, Tensor]]:
    """Batches in a list, without a data set behind them."""
    x, y = labelled(n).tensors
    return list(zip(x.split(size), y.split(size), strict=True))


def test_batches_in_a_list_are_a_reference_too() -> None:
    model = network()
    reference = ap.Reference(by_hand(13))
    assert reference.loss(model) == pytest.approx(slow_loss(model, labelled(13), range(13)), rel=1e-5)


def test_the_length_counts_samples_also_of_batches_in_a_list_once_they_were_read() -> None:
    reference = ap.Reference(by_hand(13))
    reference.loss(network())
    assert len(reference) == 13


def test_nine_samples_in_a_list_are_refused_when_they_are_counted() -> None:
    with pytest.raises(ValueError, match="reference has 9 samples, expected at least 10"):
        ap.Reference(by_hand(9)).loss(network())


@pytest.mark.parametrize(
    "wanted",
    [
        [3, 1, 4, 15, 9, 2, 6, 5, 35, 8],
        torch.tensor([3, 1, 4, 15, 9, 2, 6, 5, 35, 8]),
        np.array([3, 1, 4, 15, 9, 2, 6, 5, 35, 8], dtype=np.int32),
    ],
    ids=["list", "tensor", "array"],
)
def test_a_pseudo_clean_subset_is_the_samples_of_its_indices(wanted: Any) -> None:
    assert sorted(read(lambda rows: ap.Reference.indices(rows, wanted))) == sorted(int(i) for i in wanted)


BAD_INDICES: list[tuple[Any, type[Exception], str]] = [
    (list(range(41, 51)), ValueError, r"indices reaches from 41 to 50, expected 0 to 49"),
    (list(range(-1, 9)), ValueError, r"indices reaches from -1 to 8, expected 0 to 49"),
    ([*range(10), 3, 4], ValueError, r"indices has 2 repetitions, expected each sample once: drop them"),
    ([float(i) for i in range(10)], TypeError, r"indices is torch.float32 .*expected integers"),
    ([True] * 50, TypeError, r"indices is torch.bool .*expected integers"),
    ([[i] for i in range(10)], TypeError, r"indices is torch.int64 of shape \(10, 1\), expected integers \[M\]"),
    ([], ValueError, r"reference has 0 samples"),
]


@pytest.mark.parametrize("wanted, error, message", BAD_INDICES)
def test_bad_indices_are_refused(wanted: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ap.Reference.indices(labelled(), wanted)


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"size": 20, "fraction": 0.5}, ValueError, r"size=20 and fraction=0.5 are both given, expected one"),
        ({"size": 51}, ValueError, r"size=51 is out of range, expected at most 50"),
        ({"size": -1}, ValueError, r"size=-1 is out of range"),
        ({"size": 20.0}, TypeError, r"size=20.0 is float"),
        ({"fraction": 1.5}, ValueError, r"fraction=1.5 is out of range"),
        ({"fraction": 0.0}, ValueError, r"reference has 0 samples|fraction=0.0 is out of range"),
    ],
)
def test_bad_sizes_are_refused(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ap.Reference.subset(labelled(), **settings)


def test_a_part_of_the_noisy_training_set_is_measured_with_its_noisy_labels() -> None:
    x, y = labelled().tensors
    noisy = TensorDataset(x, (y + 1) % 4)
    model, positions = network(), list(range(5, 25))
    control = ap.Reference.indices(noisy, positions).loss(model)
    assert control == pytest.approx(slow_loss(model, noisy, positions), rel=1e-5)
    assert control != pytest.approx(ap.Reference.indices(labelled(), positions).loss(model), rel=1e-3)
    drawn = read(lambda rows: ap.Reference.subset(rows, size=20, seed=3), n=50)
    assert ap.Reference.subset(noisy, size=20, seed=3).loss(model) == pytest.approx(
        slow_loss(model, noisy, drawn), rel=1e-5
    )


# -------------------------------------------------------------------------- losses of one's own


class DictRows(Rows):
    def __getitem__(self, i: int) -> Any:
        x, y = super().__getitem__(i)
        return {"pixels": x, "label": y}


def test_batches_of_any_kind_work_with_losses_of_ones_own() -> None:
    def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch["pixels"]), batch["label"], reduction="none")

    model = network()
    reference = ap.Reference.subset(DictRows(40), size=30, batch_size=7, losses=losses, seed=2)
    positions = read(lambda rows: ap.Reference.subset(rows, size=30, seed=2), n=40)
    assert reference.loss(model) == pytest.approx(slow_loss(model, Rows(40), positions), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_losses_of_any_float_dtype_add_up_without_overflow(dtype: torch.dtype) -> None:
    def losses(model: nn.Module, batch: Any) -> Tensor:
        return torch.full((len(batch[0]),), 40_000.0, dtype=dtype)

    expected = float(torch.tensor(40_000.0, dtype=dtype))
    assert ap.Reference.subset(labelled(), losses=losses).loss(network()) == expected


def test_averaged_losses_are_refused_and_modes_put_back() -> None:
    def averaged(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    model = network()
    with pytest.raises(ValueError, match=r"losses has shape \(\), expected \[B\].*reduction='none'"):
        ap.Reference.subset(labelled(), losses=averaged).loss(model)
    assert all(modes(model))


def test_a_loader_without_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="loader has no batch, expected at least one"):
        ap.Reference(DataLoader(labelled(20), batch_size=64, drop_last=True)).loss(network())
    with pytest.raises(ValueError, match="loader has no batch, expected at least one"):
        ap.Reference([]).loss(network())


def test_the_loss_goes_into_end_epoch_as_it_is() -> None:
    pruner = ap.Pruner.from_preset("infobatch+das", num_samples=20, epochs=3)
    value = ap.Reference.subset(labelled(), size=10).loss(network())
    pruner.reduce(torch.arange(20), torch.rand(20))
    pruner.end_epoch(reference_loss=value)
    assert pruner.reference[1] == value
