"""The examples run as their first lines say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def told_by(*words: str | Path) -> str:
    run = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120, env=ONE_THREAD)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_plain_loop_prunes_more_wrong_than_right_labels() -> None:
    told = told_by(EXAMPLES / "plain_loop.py")
    wrong = [float(share) for share in re.findall(r"([\d.]+)% of the kept labels are wrong", told)]
    assert len(wrong) == 20
    assert min(wrong) < wrong[0]
    accuracies = [float(share) for share in re.findall(r"accuracy ([\d.]+)%", told)]
    assert len(accuracies) == 1
    assert accuracies[0] > 60


def test_ranks_end_with_the_same_scores() -> None:
    words = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", EXAMPLES / "distributed.py")
    try:
        told = told_by(*words)
    except subprocess.TimeoutExpired as hung:  # gloo of torch 2.4 was seen to hang once; what hangs twice is our fault
        warnings.warn(f"the ranks hung and were started again: {hung}", stacklevel=1)
        told = told_by(*words)
    ends = re.findall(r"rank (\d): (\d+)% of the forward passes, last scores sum to ([\d.-]+)", told)
    assert sorted(rank for rank, _, _ in ends) == ["0", "1"]
    assert ends[0][1:] == ends[1][1:]
