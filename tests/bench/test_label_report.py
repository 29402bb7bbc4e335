"""`alignprune audit`: the label report of data that is trained on, and of a finished run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from alignprune import losses
from alignprune.audit import decisions
from alignprune.bench.label_report import FILES, of_frame
from alignprune.bench.run import stored
from alignprune.cli import main

WRONG = 60  # of the rows of the table


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 digits as a table of values with names and keys, every tenth label wrong."""
    images, labels = load_digits(return_X_y=True)
    frame = pd.DataFrame(images[:600], columns=[f"pixel{i}" for i in range(64)])
    wrong = np.arange(600) % 10 == 3
    frame["label"] = [f"digit {y}" for y in np.where(wrong, (labels[:600] + 1 + np.arange(600) % 8) % 10, labels[:600])]
    frame["id"] = [f"row {i}" for i in range(600)]
    path = tmp_path_factory.mktemp("own") / "digits.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def audited(table: Path) -> Path:
    out = table.parent / "report"
    assert main(["audit", str(table), "--out", str(out), "--epochs", "60", "--device", "cpu", "--rows", "50"]) == 0
    return out


def test_a_table_of_values_gives_the_whole_report(audited: Path) -> None:
    assert {file.name for file in audited.iterdir()} == {*FILES, "run"}
    found = pd.read_parquet(audited / "label_issues.parquet")
    assert found["id"].tolist() == [f"row {index}" for index in found["index"]]
    assert len(found) == 540  # a tenth is held out, as there are no test samples
    wrong = found["id"].str.removeprefix("row ").astype(int).to_numpy() % 10 == 3
    issues = found["is_label_issue"].to_numpy()
    assert wrong[issues].mean() > 0.8
    assert issues[wrong].mean() > 0.6
    summary = json.loads((audited / "summary.json").read_text())
    assert summary["num_samples"] == 540
    assert summary["num_label_issues"] == issues.sum()
    assert summary["accuracy"]["labels"] == "given labels, some of them wrong"
    assert {row["name"] for row in summary["classes"]} == {f"digit {i}" for i in range(10)}
    page = (audited / "report.html").read_text()
    assert "50" in page
    assert "row " in page


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The report on a table of texts without ids, of which every fifth row is for the test and a tenth is held out."""
    folder = tmp_path_factory.mktemp("texts")
    rows = range(300)
    frame = pd.DataFrame(
        {
            "text": [f"{'sun beach sea' if row % 2 else 'snow ice cold'} text{row}" for row in rows],
            "label": [("summer" if row % 2 else "winter") for row in rows],
            "split": ["reference" if row % 5 == 0 else "train" for row in rows],
        }
    )
    frame.to_csv(folder / "texts.csv", index=False)
    words = ["--features", "tfidf", "--epochs", "2", "--device", "cpu", "--out", str(folder / "report")]
    assert main(["audit", str(folder / "texts.csv"), *words]) == 0
    return frame.assign(folder=folder)


def test_the_samples_of_a_report_are_named_by_their_places_in_the_data(texts: pd.DataFrame) -> None:
    folder = texts["folder"].iloc[0]
    found = pd.read_parquet(folder / "report" / "label_issues.parquet")
    assert len(found) == 216
    of_the_table = texts.iloc[found["index"]]
    assert set(of_the_table["split"]) == {"train"}
    assert found["given_label"].tolist() == of_the_table["label"].tolist()
    assert found["id"].tolist() == found["index"].astype(str).tolist()
    content = json.loads(
        re.findall(r"<script[^>]*json[^>]*>(.*?)</script>", (folder / "report/report.html").read_text())[0]
    )
    shown = [sample["text"] for sample in content["samples"]]
    assert shown == texts["text"].iloc[content["rows"]["index"]].tolist()


def test_decisions_on_a_report_change_the_samples_that_were_looked_at(texts: pd.DataFrame) -> None:
    folder = texts["folder"].iloc[0]
    found = pd.read_parquet(folder / "report" / "label_issues.parquet")
    rows = found.iloc[[3, 100]][["index", "id", "given_label"]].assign(decision=["drop", "relabel"])
    rows["label"] = ["", "winter" if rows["given_label"].iloc[1] == "summer" else "summer"]
    rows["data"] = decisions.fingerprint(found["id"], found["given_label"])
    rows.to_csv(folder / "decisions.csv", index=False)
    words = ["--features", "tfidf", "--epochs", "1", "--device", "cpu", "--labels", str(folder / "decisions.csv")]
    assert main(["audit", str(folder / "texts.csv"), *words, "--out", str(folder / "again")]) == 0
    again = pd.read_parquet(folder / "again" / "label_issues.parquet").set_index("index")["given_label"]
    expected = found.set_index("index")["given_label"].drop(rows["index"].iloc[0])
    expected[rows["index"].iloc[1]] = rows["label"].iloc[1]
    pd.testing.assert_series_equal(again, expected)


def test_a_report_is_made_with_a_loss_that_resists_wrong_labels(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["audit", str(table), "--epochs", "1", "--device", "cpu", "--out", str(tmp_path / "report")]
    assert main([*words, "--loss", "elr"]) == 2
    assert "loss='elr' is unknown, expected one of elr-cifar10" in capsys.readouterr().err
    assert main([*words, "--loss", "elr-cifar10"]) == 0
    assert stored.from_file(tmp_path / "report/run/config.json").pruning.loss == losses.get("elr-cifar10").settings
    assert (tmp_path / "report/label_issues.csv").is_file()


def test_the_csv_has_the_same_rows_as_the_parquet(audited: Path) -> None:
    pd.testing.assert_frame_equal(
        pd.read_csv(audited / "label_issues.csv"),
        pd.read_parquet(audited / "label_issues.parquet"),
        check_dtype=False,
    )


def test_the_run_that_was_trained_gives_the_same_report_again(audited: Path, tmp_path: Path) -> None:
    assert main(["audit", str(audited / "run"), "--out", str(tmp_path / "again")]) == 0
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "again" / "label_issues.parquet"), pd.read_parquet(audited / "label_issues.parquet")
    )


def test_nothing_is_overwritten(audited: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in audited.iterdir()}
    assert main(["audit", str(table), "--out", str(audited)]) == 2
    assert "holds a label report already" in capsys.readouterr().err
    assert main(["audit", str(audited / "run"), "--out", str(audited)]) == 2
    assert {file: file.stat().st_mtime_ns for file in audited.iterdir()} == before


def test_a_report_that_was_interrupted_is_written_anew(audited: Path, tmp_path: Path) -> None:
    (tmp_path / "label_issues.parquet").write_bytes(b"of an earlier try")
    assert main(["audit", str(audited / "run"), "--out", str(tmp_path)]) == 0
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "label_issues.parquet"), pd.read_parquet(audited / "label_issues.parquet")
    )


def test_settings_of_a_training_are_refused_where_a_run_is_given(
    audited: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(audited / "run"), "--out", str(tmp_path / "x"), "--epochs", "3"]) == 2
    assert "epochs=3 is given" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_run_that_has_not_ended_is_refused(audited: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text((audited / "run" / "config.json").read_text())
    assert main(["audit", str(run)]) == 2
    assert "has not ended" in capsys.readouterr().err
    assert not (run / "report").exists()


def test_a_run_that_chose_among_a_part_of_its_data_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ["digits", "--noise", "symmetric", "--noise-rate", "0.2", "--method", "robust", "--oracle", "--epochs", "1"]
    assert main(["train", *words, "--device", "cpu", "--out", str(run)]) == 0
    capsys.readouterr()
    assert main(["audit", str(run)]) == 2
    assert "chose among 1,150 of the 1,437 samples of its data" in capsys.readouterr().err
    assert not (run / "report").exists()


def test_a_run_that_was_stopped_by_a_holdout_is_reported_without_the_samples_held_out(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["digits", "--method", "robust", "--stop-on-holdout", "0.2", "--epochs", "1", "--device", "cpu"]
    assert main(["train", *words, "--out", str(run)]) == 0
    assert main(["audit", str(run)]) == 0
    found = pd.read_parquet(run / "report" / "label_issues.parquet")
    assert len(found) == json.loads((run / "result.json").read_text())["train_size"] < 1_437


def test_a_run_of_a_method_that_holds_nothing_out_says_so(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["digits", "--method", "infobatch", "--noise", "symmetric", "--noise-rate", "0.2", "--model", "mlp"]
    assert main(["train", *words, "--recipe.epochs", "8", "--device", "cpu", "--out", str(run)]) == 0
    assert main(["audit", str(run)]) == 0
    summary = json.loads((run / "report" / "summary.json").read_text())
    assert "too few samples were held out" in summary["noise_rate"]["reason"]


def test_json_is_the_summary(audited: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(audited / "run"), "--out", str(tmp_path / "again"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("out") == str(tmp_path / "again")
    assert found == json.loads((tmp_path / "again" / "summary.json").read_text())


def test_a_folder_of_classes_without_a_test_split_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignprune.bench.data.embedding.choice.has_packaged_weights", lambda: False)
    images, labels = load_digits(return_X_y=True)
    for i in range(60):
        folder = tmp_path / "photos" / ("even" if labels[i] % 2 == 0 else "odd")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((images[i].reshape(8, 8) * 15).astype(np.uint8)).resize((32, 32)).save(folder / f"{i}.png")
    words = ["--epochs", "1", "--image-size", "32", "--device", "cpu", "--out", str(tmp_path / "report")]
    assert main(["audit", str(tmp_path / "photos"), *words]) == 0
    found = pd.read_parquet(tmp_path / "report" / "label_issues.parquet")
    assert len(found) == 54
    assert set(found["given_label"]) == {"even", "odd"}
    assert found["id"].str.fullmatch(r"(even|odd)/\d+\.png").all()
    assert (tmp_path / "report" / "report.html").read_text().count("data:image/") >= 54


def test_a_table_without_its_label_column_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, 2.0]}).to_csv(tmp_path / "own.csv", index=False)
    assert main(["audit", str(tmp_path / "own.csv"), "--out", str(tmp_path / "report")]) == 2
    assert "label" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_a_second_report_gives_no_all_clear(audited: Path, table: Path, tmp_path: Path) -> None:
    found = pd.read_parquet(audited / "label_issues.parquet")
    rows = found[["index", "id", "given_label"]].assign(
        decision=np.where(found["is_label_issue"], "drop", "keep"),
        label="",
        data=decisions.fingerprint(found["id"], found["given_label"]),
    )
    rows.to_csv(tmp_path / "decisions.csv", index=False)
    words = ["audit", str(table), "--labels", str(tmp_path / "decisions.csv"), "--epochs", "2", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "again")]) == 0
    summary = json.loads((tmp_path / "again/summary.json").read_text())
    assert summary["num_samples"] == 540 - found["is_label_issue"].sum()
    assert summary["noise_rate"]["estimate"] is None
    assert "the labels were decided on by an earlier report" in summary["noise_rate"]["reason"]


def test_the_fingerprint_of_the_page_is_that_of_the_table(audited: Path) -> None:
    found = pd.read_parquet(audited / "label_issues.parquet")
    assert decisions.fingerprint(found["id"], found["given_label"]) in (audited / "report.html").read_text()


def test_a_frame_gives_the_report_of_its_table(table: Path, audited: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table)
    found = of_frame(frame, tmp_path / "own", epochs=60, device="cpu", rows=50)
    pd.testing.assert_frame_equal(found.table, pd.read_parquet(audited / "label_issues.parquet"), check_dtype=False)
    with pytest.raises(FileExistsError, match="holds a label report already"):
        of_frame(frame, tmp_path / "own")


@pytest.mark.parametrize("columns", [{"a": [1.0, 2.0]}, {"label": [1, "x"], "a": [object(), 2.0]}])
def test_a_frame_that_is_refused_leaves_no_folder(columns: dict[str, list[object]], tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError)):
        of_frame(pd.DataFrame(columns), tmp_path / "own")
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    with pytest.raises((ValueError, TypeError)):
        of_frame(pd.DataFrame(columns), tmp_path / "mine")
    assert not list((tmp_path / "mine").iterdir())
