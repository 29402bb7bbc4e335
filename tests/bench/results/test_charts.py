"""Pictures from numbers alone, without a store."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignprune.bench.results import charts
from alignprune.bench.results.charts import Point


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Axes]:
    """The axes of the picture that was saved last."""
    kept: list[Figure] = []
    monkeypatch.setattr(charts, "save", lambda figure, path: kept.append(figure))
    return lambda: kept[-1].axes[0]


LOSSES = torch.rand(6, 40, generator=torch.Generator().manual_seed(0))
IS_NOISY = torch.arange(40) < 10


def test_the_losses_of_an_epoch_are_counted_right_and_wrong_labels_apart(drawn: Callable[[], Axes]) -> None:
    losses = LOSSES[2].clone()
    losses[:5] = torch.nan
    limit = float(np.nanquantile(losses.numpy(), 0.995))
    assert int((losses > limit).sum()) == 1  # a right label
    charts.loss_distribution(losses, IS_NOISY, 3, Path("distribution.png"))
    counts = [sum(patch.get_height() for patch in bars.patches) for bars in drawn().containers]
    assert counts == [29, 5]  # right, and wrong without the five that were not seen
    names = drawn().get_legend_handles_labels()[1]
    assert names == ["right label (30; 1 beyond)", "wrong label (5)", "mean loss"]
    (mean,) = drawn().lines
    assert mean.get_xdata()[0] == pytest.approx(float(losses[5:].mean()))


def test_trajectories_are_means_with_their_quartiles(drawn: Callable[[], Axes]) -> None:
    charts.trajectories(LOSSES, LOSSES[:, 20], IS_NOISY, Path("trajectories.png"))
    right, wrong, reference = (line.get_ydata() for line in drawn().lines)
    np.testing.assert_allclose(right, LOSSES[:, 10:].mean(1), rtol=1e-6)
    np.testing.assert_allclose(wrong, LOSSES[:, :10].mean(1), rtol=1e-6)
    np.testing.assert_array_equal(reference, LOSSES[:, 20])


def test_a_picture_is_written_with_its_folder(tmp_path: Path) -> None:
    charts.trajectories(LOSSES, LOSSES[:, 20], IS_NOISY, tmp_path / "new" / "trajectories.png")
    assert (tmp_path / "new" / "trajectories.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("values, start", [((10.0, 90.0), 0), ((80.0, 82.0), 77), ((80.0, 80.0), 0)])
def test_an_axis_starts_at_zero_unless_that_hides_the_differences(values: tuple[float, ...], start: int) -> None:
    points = [Point("row", str(i), value, math.nan, math.nan, math.nan) for i, value in enumerate(values)]
    assert charts.start_of(points) == start
