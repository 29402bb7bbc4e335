"""What a stored column means."""

from __future__ import annotations

from dataclasses import fields

import pytest

from alignprune.bench.results.detection import RankingRecord
from alignprune.bench.results.measures import MEASURES, Measure
from alignprune.bench.run.record import RunRecord


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_every_measure_shows_a_column_that_runs_or_rankings_report(measure: Measure) -> None:
    record = {"runs": RunRecord, "rankings": RankingRecord}[measure.view]
    assert measure.column in {field.name for field in fields(record)}


def test_a_heading_names_the_unit_where_there_is_one() -> None:
    assert MEASURES["accuracy"].heading == "accuracy [%]"
    assert MEASURES["test_loss"].heading == "test loss"
