"""The trajectory bank against plain Python lists."""

from __future__ import annotations

import gc
import math
import os
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignprune import History, TrajectoryBank
from alignprune.errors import DamagedFile, ValueMistake
from alignprune.memory import BankSpec, Observed, Room
from alignprune.scores import Alignment
from alignprune.selection import Selection

NAN = math.nan
GAPS = ["paired", "carry", "last_obs"]
PRECISIONS = ["float32", "bfloat16", "float16"]
HALVES = ["bfloat16", "float16"]


def history(seed: int, epochs: int, samples: int, pruned: float = 0.4) -> list[Tensor]:
    """Random losses by epoch, NaN where a sample was not seen."""
    generator = torch.Generator().manual_seed(seed)
    losses = torch.rand(epochs, samples, generator=generator) * 3
    losses[torch.rand(epochs, samples, generator=generator) < pruned] = NAN
    return list(losses)


def filled_bank(losses: list[Tensor], window: int, **how: Any) -> TrajectoryBank:
    bank = TrajectoryBank(len(losses[0]), window, **how)
    for epoch, row in enumerate(losses):
        bank.store(epoch, row)
    return bank


def same(ours: Tensor, expected: list[Tensor]) -> bool:
    return torch.equal(ours.nan_to_num(nan=-1.0), torch.stack(expected).nan_to_num(nan=-1.0))


@pytest.mark.parametrize("epochs", [1, 3, 4, 5, 13])
def test_a_row_is_an_epoch_and_the_oldest_is_dropped(epochs: int) -> None:
    losses = history(0, epochs, 6)
    bank = filled_bank(losses, 4)
    assert bank.filled == min(epochs, 4)
    assert same(bank.losses, losses[-4:])
    assert sorted(bank.row_epochs) == list(range(max(0, epochs - 4), epochs))
    for row, epoch in enumerate(bank.row_epochs):  # each stored row belongs to the epoch it is said to
        assert same(bank.trajectories(slice(0, 6))[row].unsqueeze(0), [losses[epoch]])


@pytest.mark.parametrize("epochs", [4, 7])
def test_recent_rows_come_oldest_first(epochs: int) -> None:
    losses = history(1, epochs, 6)
    bank = filled_bank(losses, 4)
    for count in range(1, 5):
        assert same(bank.recent(count), losses[-count:])


@pytest.mark.parametrize("gaps", ["paired", "carry"])
def test_before_the_window_is_full_recent_gives_the_rows_that_there_are(gaps: Any) -> None:
    losses = history(2, 3, 6, pruned=0.0)
    bank = TrajectoryBank(6, 4, gaps=gaps)
    assert bank.recent(5).shape == (0, 6)
    for epoch in range(3):
        bank.store(epoch, losses[epoch])
        assert same(bank.recent(5), losses[: epoch + 1])
        assert same(bank.recent(1), losses[epoch : epoch + 1])
    assert bank.recent(0).shape == (0, 6)


def test_more_rows_than_the_window_has_are_the_whole_window() -> None:
    losses = history(3, 9, 6)
    assert same(filled_bank(losses, 4).recent(100), losses[-4:])


def test_a_loss_is_one_whoever_learned_from_it() -> None:
    losses, looked = history(4, 3, 6), Selection(torch.arange(6), torch.zeros(6), 6)
    bank = TrajectoryBank(6, 4)
    for epoch, row in enumerate(losses):
        bank.write(Observed(epoch, row, looked))
    assert same(bank.losses, losses)


def test_the_shown_losses_are_a_copy() -> None:
    losses = history(0, 3, 5)
    bank = filled_bank(losses, 4)
    bank.losses.fill_(7)
    assert same(bank.losses, losses)


def test_a_gap_counts_as_long_as_it_is_in_the_window() -> None:
    bank = TrajectoryBank(2, 2)
    seen = []
    for epoch, gap in enumerate([False, True, False, False, True]):
        bank.store(epoch, torch.tensor([1.0, NAN if gap else 2.0]))
        seen.append(bank.has_gaps)
    assert seen == [False, True, True, False, True]


def test_a_true_loss_of_minus_zero_is_no_gap() -> None:
    for gaps in GAPS:
        bank = TrajectoryBank(3, 2, gaps=gaps)
        bank.store(0, torch.tensor([-0.0, NAN, 0.0]))
        assert bank.losses.isnan().tolist() == [[False, True, False]]
        assert bank.losses.nan_to_num(nan=-1).tolist() == [[0.0, -1.0, 0.0]]


@given(seed=st.integers(0, 10_000), epochs=st.integers(1, 15), window=st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_carry_repeats_the_last_loss(seed: int, epochs: int, window: int) -> None:
    losses = history(seed, epochs, 5, pruned=0.6)
    last, carried = [NAN] * 5, []
    for row in losses:
        last = [old if math.isnan(new) else new for old, new in zip(last, row.tolist(), strict=True)]
        carried.append(torch.tensor(last))
    bank = filled_bank(losses, window, gaps="carry")
    assert same(bank.losses, carried[-window:])
    assert bank.has_gaps == any(bool(row.isnan().any()) for row in carried[-window:])
    expected = torch.stack(carried[-window:]).nan_to_num(nan=0.0).double().square().sum(0)
    torch.testing.assert_close(bank.squares.double(), expected, rtol=1e-6, atol=1e-6)


@given(seed=st.integers(0, 10_000), epochs=st.integers(1, 25), window=st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_last_obs_holds_the_last_observations_with_their_epochs(seed: int, epochs: int, window: int) -> None:
    losses = history(seed, epochs, 5, pruned=0.6)
    bank = filled_bank(losses, window, gaps="last_obs")
    reference = torch.arange(epochs).double() * 10
    own = bank.reference_of(reference, slice(0, 5))
    for sample in range(5):
        expected = [(row[sample].item(), 10.0 * t) for t, row in enumerate(losses) if not row[sample].isnan()][-window:]
        stored = zip(bank.trajectories(slice(0, 5))[:, sample].tolist(), own[:, sample].tolist(), strict=True)
        kept = [(loss, ref) for loss, ref in stored if not math.isnan(loss)]
        assert sorted(kept) == sorted(expected)
        assert own[:, sample].isnan().sum() == window - len(expected)


def test_the_reference_of_a_row_is_that_of_its_epoch() -> None:
    bank = filled_bank(history(0, 7, 4), 3)
    reference = torch.arange(7).double()
    assert sorted(bank.reference_of(reference, slice(0, 4)).tolist()) == [4, 5, 6]
    assert bank.reference_of(reference, slice(0, 4)).tolist() == [float(epoch) for epoch in bank.row_epochs]


def true_squares(bank: TrajectoryBank) -> np.ndarray:
    return (bank.losses.nan_to_num(nan=0.0).double().numpy() ** 2).sum(0)


@pytest.mark.parametrize("gaps", ["paired", "carry"])
def test_running_squares_do_not_drift_over_hundreds_of_epochs(gaps: Any) -> None:
    bank = filled_bank(history(0, 600, 200), 25, gaps=gaps)
    np.testing.assert_allclose(bank.squares.numpy(), true_squares(bank), rtol=1e-6)


@pytest.mark.parametrize("spike", [1e2, 1e4, 1e6, 1e12])
def test_running_squares_forget_a_huge_loss_once_it_left_the_window(spike: float) -> None:
    generator = torch.Generator().manual_seed(0)
    bank = TrajectoryBank(300, 25)
    for epoch in range(300):
        losses = torch.rand(300, generator=generator) * 1e-2
        if epoch % 60 == 3:
            losses *= spike / 1e-2
        bank.store(epoch, losses)
    np.testing.assert_allclose(bank.squares.numpy(), true_squares(bank), rtol=1e-6)


def test_running_squares_follow_losses_that_fall_by_orders_of_magnitude() -> None:
    generator = torch.Generator().manual_seed(0)
    bank = TrajectoryBank(300, 10)
    for epoch in range(60):
        bank.store(epoch, (0.5 + torch.rand(300, generator=generator)) * 10.0 ** (3 - epoch / 9))
    np.testing.assert_allclose(bank.squares.numpy(), true_squares(bank), rtol=1e-6)


def test_several_chunks_are_written_as_one() -> None:
    losses = history(0, 5, 140_000)
    bank = filled_bank(losses, 3)
    assert same(bank.losses, losses[-3:])
    np.testing.assert_allclose(bank.squares.numpy(), true_squares(bank), rtol=1e-6, atol=1e-9)


def same_state(ours: dict[str, object], theirs: dict[str, object]) -> bool:
    """Whether two states are equal, tensors bit for bit."""
    pairs = [(ours[key], theirs[key]) for key in ours]
    return ours.keys() == theirs.keys() and all(
        torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
        if isinstance(a, Tensor)
        else a == b
        for a, b in pairs
    )


@pytest.mark.parametrize("gaps", GAPS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_mapped_bank_is_the_one_in_memory(gaps: Any, precision: Any, tmp_path: Path) -> None:
    losses = history(0, 9, 50)
    plain = filled_bank(losses, 4, gaps=gaps, precision=precision)
    mapped = filled_bank(losses, 4, gaps=gaps, precision=precision, path=tmp_path / "bank.bin")
    assert same_state(mapped.state_dict(), plain.state_dict())
    assert same(mapped.losses, list(plain.losses))
    assert (tmp_path / "bank.bin").read_bytes() == plain.rows.view(torch.uint8).numpy().tobytes()


@pytest.fixture
def of_eight_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read, and banks are written, eight samples at a time."""
    for name in ("_PART", "_COLUMNS"):
        monkeypatch.setattr(f"alignprune.memory.bank.{name}", 8)


@pytest.mark.parametrize("gaps", GAPS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_bank_that_is_read_part_by_part_scores_as_one_in_memory(
    gaps: Any, precision: Any, of_eight_columns: None, tmp_path: Path
) -> None:
    losses, reference = history(0, 9, 50), torch.linspace(3, 1, 10).double()
    score = Alignment(window=4, gaps=gaps, precision=precision)
    plain = filled_bank(losses, 4, gaps=gaps, precision=precision)
    mapped = filled_bank(losses, 4, gaps=gaps, precision=precision, path=tmp_path / "bank.bin")
    assert same(mapped.recent(3), list(plain.losses)[-3:])
    expected = score(History(reference, (plain,)))
    torch.testing.assert_close(score(History(reference, (mapped,))), expected, atol=1e-5, rtol=0, equal_nan=True)


def test_a_part_stays_as_it_is_whatever_else_is_read_of_the_file(of_eight_columns: None, tmp_path: Path) -> None:
    losses = history(0, 9, 50)
    plain, mapped = filled_bank(losses, 4), filled_bank(losses, 4, path=tmp_path / "bank.bin")
    parts = []
    for columns, block in mapped.blocks():
        assert same(mapped.trajectories(slice(40, 50)), list(plain.trajectories(slice(40, 50))))
        assert torch.equal(block, plain.rows[:, columns])
        parts.append(columns)
    assert [part.start for part in parts] == list(range(0, 50, 8))
    assert parts[-1].stop == 50


def resident(path: Path) -> int:
    """Kilobytes of a file's mappings that are in the memory of this process."""
    lines, found = Path("/proc/self/smaps").read_text().splitlines(), 0
    for line, after in zip(lines, (lines[place : place + 8] for place in range(len(lines))), strict=True):
        if line.endswith(str(path)):
            found += sum(int(entry.split()[1]) for entry in after if entry.startswith("Rss:"))
    return found


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="the system does not say what is resident")
def test_a_mapped_bank_that_was_written_and_scored_is_not_in_memory(tmp_path: Path) -> None:
    losses, reference = history(0, 9, 5_000), torch.linspace(3, 1, 10).double()
    mapped = filled_bank(losses, 4, path=tmp_path / "bank.bin")
    Alignment(window=4)(History(reference, (mapped,)))
    assert resident(tmp_path / "bank.bin") == 0
    assert mapped.rows.sum().isfinite()  # who reads the mapping has it in memory, so that the measure can tell
    assert resident(tmp_path / "bank.bin") > 0


@pytest.mark.parametrize("gaps", GAPS)
def test_the_state_of_a_mapped_bank_hands_its_losses_on_as_they_lie_in_the_file(gaps: Any, tmp_path: Path) -> None:
    mapped = filled_bank(history(0, 9, 50), 4, gaps=gaps, path=tmp_path / "bank.f32")
    state = mapped.state_dict()
    assert state["rows"].data_ptr() == mapped.rows.data_ptr()  # a copy of them may not fit into the RAM
    for name, value in state.items():
        if isinstance(value, Tensor) and name != "rows":
            assert value.data_ptr() != getattr(mapped, name).data_ptr(), name
    plain = filled_bank(history(0, 9, 50), 4, gaps=gaps)
    assert plain.state_dict()["rows"].data_ptr() != plain.rows.data_ptr()
    loaded = TrajectoryBank(50, 4, gaps=gaps)
    loaded.load_state_dict(state)
    assert same_state(loaded.state_dict(), state)
    loaded.store(9, torch.zeros(50))  # what was loaded is no longer the file's
    assert same_state(mapped.state_dict(), plain.state_dict())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows refuses by itself, in words of its own")
def test_two_banks_cannot_use_one_path(tmp_path: Path) -> None:
    path, losses = tmp_path / "bank.f32", history(0, 3, 20)
    first = filled_bank(losses, 4, path=path)
    message = "bank.f32' is in use by another bank, expected a file of its own for every bank.*Choose another path"
    for other in (path, str(path)):
        with pytest.raises(ValueMistake, match=message):
            TrajectoryBank(20, 4, path=other)
    assert same(first.losses, losses)  # untouched by the attempt
    second = TrajectoryBank(20, 4, path=tmp_path / "other.f32")
    second.store(0, losses[0])
    assert same(first.losses, losses)


def test_a_path_is_free_again_when_its_bank_is_gone(tmp_path: Path) -> None:
    bank = filled_bank(history(0, 3, 20), 4, path=tmp_path / "bank.f32")
    del bank
    gc.collect()
    again = TrajectoryBank(20, 4, path=tmp_path / "bank.f32")
    assert again.filled == 0
    assert np.fromfile(tmp_path / "bank.f32", dtype=np.float32).tolist() == [0.0] * 80


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot reserve space")
def test_the_space_of_a_file_is_its_own_from_the_start(tmp_path: Path) -> None:
    TrajectoryBank(10_000, 4, path=tmp_path / "bank.bin")
    assert (tmp_path / "bank.bin").stat().st_blocks * 512 >= 4 * 4 * 10_000


def test_a_system_that_cannot_reserve_space_keeps_a_bank_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    losses = history(0, 5, 50)
    assert same(filled_bank(losses, 4, path=tmp_path / "bank.bin").losses, losses[-4:])


def test_a_disk_without_room_is_told_before_the_file_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("alignprune.memory.row_file.free_disk", lambda path: 3_999_999)
    message = (
        r"bank.bin' needs 4 MB for the losses, expected at most the 4 MB that are free on its disk: free some, choose "
        r"a path on another disk, precision='float16' or a smaller window"
    )
    with pytest.raises(ValueMistake, match=message):
        TrajectoryBank(100_000, 10, path=tmp_path / "bank.bin")
    assert not (tmp_path / "bank.bin").exists()
    TrajectoryBank(100_000, 10, path=tmp_path / "bank.bin", precision="bfloat16")


def test_a_disk_that_fills_while_space_is_reserved_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(file: int, start: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(ValueMistake, match=r"bank.bin' needs 160 bytes for the losses, expected at most the .* free"):
        TrajectoryBank(10, 4, path=tmp_path / "bank.bin")
    monkeypatch.undo()
    TrajectoryBank(10, 4, path=tmp_path / "bank.bin")  # the path is not held


def test_a_file_that_was_cut_is_told(tmp_path: Path) -> None:
    mapped = filled_bank(history(0, 4, 50), 4, path=tmp_path / "bank.bin")
    os.truncate(tmp_path / "bank.bin", 700)
    with pytest.raises(DamagedFile, match=r"bank.bin' is shorter than it was made, expected the losses of this bank"):
        mapped.recent(1)


@pytest.mark.parametrize("gaps", GAPS)
@pytest.mark.parametrize("epochs", [2, 4, 9])
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_restored_bank_goes_on_bit_for_bit(
    gaps: Any, epochs: int, mapped: bool, precision: Any, tmp_path: Path
) -> None:
    losses = history(0, epochs + 6, 30)
    losses[0][0] = -1.5
    how = {"gaps": gaps, "precision": precision}
    bank = filled_bank(losses[:epochs], 4, path=tmp_path / "a.f32" if mapped else None, **how)
    torch.save(bank.state_dict(), tmp_path / "state.pt")
    other = TrajectoryBank(30, 4, path=tmp_path / "b.f32" if mapped else None, **how)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    reference, everyone = torch.arange(epochs + 6).double(), slice(0, 30)
    for epoch in range(epochs, epochs + 6):
        assert same_state(other.state_dict(), bank.state_dict())
        assert same(other.losses, list(bank.losses))
        assert other.has_gaps == bank.has_gaps
        assert same(other.reference_of(reference, everyone).unsqueeze(0), [bank.reference_of(reference, everyone)])
        bank.store(epoch, losses[epoch])
        other.store(epoch, losses[epoch])


def test_a_saved_state_does_not_change_with_the_training() -> None:
    for gaps in GAPS:
        losses = history(0, 8, 30)
        bank, twin = (filled_bank(losses[:6], 4, gaps=gaps) for _ in range(2))
        state = bank.state_dict()
        for epoch in (6, 7):
            bank.store(epoch, losses[epoch])
        assert same_state(state, twin.state_dict())
        assert not same_state(state, bank.state_dict())


OTHERS = {
    "more samples": lambda gaps: TrajectoryBank(31, 4, gaps=gaps),
    "fewer samples": lambda gaps: TrajectoryBank(29, 4, gaps=gaps),
    "a longer window": lambda gaps: TrajectoryBank(30, 5, gaps=gaps),
    "a shorter window": lambda gaps: TrajectoryBank(30, 3, gaps=gaps),
    "another precision": lambda gaps: TrajectoryBank(30, 4, gaps=gaps, precision="bfloat16"),
    "another gap rule": lambda gaps: TrajectoryBank(30, 4, gaps=GAPS[(GAPS.index(gaps) + 1) % 3]),
}


@pytest.mark.parametrize("gaps", GAPS)
@pytest.mark.parametrize("other", list(OTHERS))
def test_the_state_of_another_bank_is_refused_and_changes_nothing(gaps: Any, other: str) -> None:
    bank = filled_bank(history(0, 9, 30), 4, gaps=gaps)
    theirs = OTHERS[other](gaps)
    for epoch, losses in enumerate(history(1, 9, theirs.num_samples)):
        theirs.store(epoch, losses)
    before = bank.state_dict()
    with pytest.raises(ValueMistake, match="bank.* does not fit, expected|gaps"):
        bank.check_state_dict(theirs.state_dict())
    assert same_state(bank.state_dict(), before)
    bank.check_state_dict(before)


@pytest.mark.parametrize("precision, other", [("float32", "float16"), ("bfloat16", "float32"), ("float16", "bfloat16")])
def test_the_state_of_another_precision_is_refused_by_its_name(precision: Any, other: Any) -> None:
    state = filled_bank(history(0, 4, 30), 4, precision=other).state_dict()
    message = (
        rf"bank.rows=torch.{other} \(4, 30\) does not fit, expected precision='{precision}': load the state into a"
    )
    with pytest.raises(ValueMistake, match=message):
        TrajectoryBank(30, 4, precision=precision).check_state_dict(state)


@pytest.mark.parametrize("gaps", GAPS)
def test_a_damaged_state_is_refused_and_changes_nothing(gaps: Any) -> None:
    bank = filled_bank(history(0, 9, 30), 4, gaps=gaps)
    before = bank.state_dict()
    for name, value in before.items():
        if not isinstance(value, Tensor):
            continue
        for wrong in (None, value.double(), value[..., :-1], value.tolist()):
            with pytest.raises(ValueMistake, match=rf"bank.{name}=.* does not fit, expected torch"):
                bank.check_state_dict(before | {name: wrong})
        with pytest.raises(ValueMistake, match=rf"bank.{name}=None does not fit"):
            bank.check_state_dict({key: kept for key, kept in before.items() if key != name})
    assert same_state(bank.state_dict(), before)


def test_a_spec_makes_the_bank_that_it_asks_for(tmp_path: Path) -> None:
    for gaps in GAPS:
        bank = BankSpec(3, gaps).make(Room(7, 20, path=str(tmp_path / f"{gaps}.f32")))
        assert (bank.num_samples, bank.window, bank.gaps, bank.filled) == (7, 3, gaps, 0)
        assert (tmp_path / f"{gaps}.f32").stat().st_size == 4 * 3 * 7


def tensor_bytes(bank: TrajectoryBank) -> int:
    return sum(v.numel() * v.element_size() for v in vars(bank).values() if isinstance(v, Tensor))


def test_a_paired_bank_takes_little_more_than_its_losses() -> None:
    bank = filled_bank(history(0, 2, 1_000), 25)
    assert tensor_bytes(bank) <= 1.1 * 1_000 * 25 * 4


@pytest.mark.parametrize("precision", HALVES)
def test_a_half_precision_takes_half_of_the_losses(precision: Any) -> None:
    bank = filled_bank(history(0, 2, 1_000), 25, precision=precision)
    assert tensor_bytes(bank) == 1_000 * (2 * 25 + 10)


@pytest.mark.parametrize("precision", HALVES)
def test_a_half_precision_keeps_the_nearest_of_its_numbers(precision: Any) -> None:
    losses = history(0, 9, 50)
    for gaps in ("paired", "last_obs"):
        bank = filled_bank(losses, 9, gaps=gaps, precision=precision)
        assert bank.rows.dtype == getattr(torch, precision)
        seen = [row[~row.isnan()].to(bank.rows.dtype).float().tolist() for row in losses]
        assert sorted(bank.losses[~bank.losses.isnan()].tolist()) == sorted(chain(*seen))
    assert same(filled_bank(losses, 4, precision=precision).losses, [row.to(bank.rows.dtype) for row in losses[-4:]])


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("gaps", ["paired", "carry"])
def test_running_squares_are_those_of_the_losses_as_they_are_kept(precision: Any, gaps: Any) -> None:
    bank = filled_bank(history(0, 200, 200), 25, gaps=gaps, precision=precision)
    np.testing.assert_allclose(bank.squares.numpy(), true_squares(bank), rtol=1e-6)


@pytest.mark.parametrize("precision, largest", [("float16", 65_504.0), ("bfloat16", 3.3895313892515355e38)])
@pytest.mark.parametrize("gaps", GAPS)
def test_a_loss_beyond_the_largest_number_is_kept_as_that(precision: Any, largest: float, gaps: Any) -> None:
    bank = TrajectoryBank(4, 3, gaps=gaps, precision=precision)
    bank.store(0, torch.tensor([3.4028e38, -3.4028e38, 1.0, NAN]))
    assert bank.losses[0, :3].tolist() == [largest, -largest, 1.0]
    assert bank.losses[0, 3].isnan()
    assert not bank.rows[: bank.filled].isinf().any()


def test_last_obs_takes_little_more_than_twice_the_losses() -> None:
    bank = filled_bank(history(0, 2, 1_000), 25, gaps="last_obs")
    assert tensor_bytes(bank) <= 2.1 * 1_000 * 25 * 4


def test_the_written_losses_are_left_as_they_were_whatever_their_dtype() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for gaps in GAPS:
            losses = torch.tensor([0.5, NAN, -0.0], dtype=dtype)
            bank = TrajectoryBank(3, 2, gaps=gaps)
            bank.store(0, losses)
            bank.store(1, torch.tensor([2.0, 2.0, 2.0], dtype=dtype))
            assert losses.isnan().tolist() == [False, True, False]
            assert losses.signbit().tolist()[2]
            assert losses[0] == 0.5


@pytest.mark.parametrize("shape", [(4,), (6,), (5, 1), (1, 5), ()])
def test_an_epoch_needs_one_loss_a_sample(shape: tuple[int, ...]) -> None:
    bank = TrajectoryBank(5, 3)
    with pytest.raises(ValueError, match=r"losses has shape .*, expected \(5,\): one loss a sample, NaN where"):
        bank.store(0, torch.zeros(shape))
    assert bank.written == 0


def test_an_unknown_gap_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="gaps='pair' is unknown, expected one of paired, carry, last_obs"):
        TrajectoryBank(5, 3, gaps="pair")  # type: ignore[arg-type]


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision='half' is unknown, expected one of float32, bfloat16, float16"):
        TrajectoryBank(5, 3, precision="half")  # type: ignore[arg-type]


WITHOUT_ROOM: list[tuple[dict[str, Any], str]] = [
    (
        {},
        r"in float32 needs 11.0 GB of memory on cpu, expected at most the 5.0 GB that are free: choose bank_path= for",
    ),
    ({}, r"choose bank_path= for a file or precision='float16' or a smaller window$"),
    ({"precision": "bfloat16"}, r"in bfloat16 needs 6.0 GB .*: choose bank_path= for a file or a smaller window$"),
    ({"gaps": "last_obs"}, r"in float32 needs 20.4 GB"),
    ({"device": "cuda"}, r"on cuda, .* choose device='cpu' or precision='float16' or a smaller window$"),
    ({"gaps": "last_obs", "path": "bank.bin"}, r"in float32 needs 10.4 GB .*: choose a smaller window$"),
]


@pytest.mark.parametrize("how, message", WITHOUT_ROOM)
def test_a_bank_without_room_is_told_before_anything_is_allocated(
    how: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("alignprune.memory.bank.free_memory", lambda device: 5 * 10**9)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueMistake, match=f"^num_samples=100000000 with window=.* {message}"):
        TrajectoryBank(100_000_000, **{"window": 25} | how)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("free", [None, 110 * 100])
def test_a_bank_that_fits_or_of_which_nobody_knows_is_made(free: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignprune.memory.bank.free_memory", lambda device: free)
    assert tensor_bytes(TrajectoryBank(100, 25)) == 110 * 100
    if free is not None:
        with pytest.raises(ValueMistake, match="num_samples=101 with window=25 in float32 needs 11.1 kB"):
            TrajectoryBank(101, 25)


def test_a_mapped_bank_lives_on_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is given with device='meta', expected device='cpu'"):
        TrajectoryBank(5, 3, device="meta", path=tmp_path / "bank.f32")
    assert not (tmp_path / "bank.f32").exists()


def test_a_bank_of_one_epoch_is_advised_what_it_can_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("alignprune.memory.bank.free_memory", lambda device: 900)
    for path, way in ((None, "bank_path= for a file"), (tmp_path / "bank.bin", "a machine with more")):
        with pytest.raises(ValueMistake, match=f"expected at most the 900 bytes that are free: choose {way}$"):
            TrajectoryBank(100, 1, gaps="carry", path=path)
