"""Photos in folders, 200 of them in a wrong one: how many are found, and what it is worth to put them right.

scikit-learn's handwritten digits are written as PNG files, a folder a class: 360 to test with, 1,437 to train on. Then
comes what you would do with photos of your own: audit, decide, train again. Needs the extras audit and pretrained.

python examples/photos_in_folders.py FOLDER        all photos
python examples/photos_in_folders.py FOLDER 0.5    half of them, and of the wrong ones
"""

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_digits

from alignprune.audit.decisions import fingerprint
from alignprune.cli import main

FOLDER, SHARE = Path(sys.argv[1]), float([*sys.argv, "1"][2])
PHOTOS, AUDIT = FOLDER / "photos", FOLDER / "audit"

digits, truth = load_digits(return_X_y=True)


def prepare() -> None:
    """Write the photos, named by their number; some of those to train on go to the folder of another class."""
    draw = np.random.default_rng(0)
    order = draw.permutation(len(truth))
    test, train = (part[: round(SHARE * len(part))] for part in np.split(order, [360]))
    wrong = draw.choice(train, round(SHARE * 200), replace=False)
    given = truth.copy()
    given[wrong] = (truth[wrong] + draw.integers(1, 10, size=len(wrong))) % 10
    for split, numbers in {"train": train, "test": test}.items():
        for number in numbers:
            file = PHOTOS / split / str(given[number]) / f"{number:04}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((digits[number].reshape(8, 8) * 255 / 16).astype(np.uint8)).save(file)


def alignprune(*words: str | Path) -> Any:
    """Run a command and return its answer; progress goes to standard error."""
    line = [str(word) for word in words]
    print("$ alignprune", *line, flush=True)
    with contextlib.redirect_stdout(io.StringIO()) as answer:
        code = main([*line, "--json"])
    return json.loads(answer.getvalue()) if code == 0 else sys.exit(code)


def train(name: str, *options: str | Path) -> float:
    """Train on all labels, as long as the audit did; the accuracy on the test photos, whose labels are right."""
    like_audit = ("--features", "pretrained", "--recipe.epochs", str(summary["run"]["epochs"]))
    return alignprune("train", PHOTOS, "--method", "full", *like_audit, *options, "--out", FOLDER / name)["accuracy"]


def decide(decision: str) -> Path:
    """Decide the same on every label issue, without a look; the report's page lets you decide on each."""
    rows = issues[["index", "id", "given_label"]].assign(
        decision=decision,
        label=issues["predicted_label"] if decision == "relabel" else "",
        data=fingerprint(table["id"], table["given_label"]),
    )
    file = FOLDER / f"{decision}.csv"
    rows.to_csv(file, index=False)
    return file


prepare()
summary = alignprune("audit", PHOTOS, "--out", AUDIT)
table = pd.read_csv(AUDIT / "label_issues.csv", dtype={"given_label": str, "predicted_label": str})
issues = table[table["is_label_issue"]]
accuracy = {
    "plain": train("plain"),
    "robust": summary["accuracy"]["value"],
    "dropped": train("dropped", "--labels", decide("drop")),
    "relabelled": train("relabelled", "--labels", decide("relabel")),
}

right = table["id"].map(lambda file: str(truth[int(Path(file).stem)]))
wrong = table["given_label"] != right
found = wrong & table["is_label_issue"]
met = found & (table["predicted_label"] == right)
first = table["label_score"].nsmallest(wrong.sum()).index
print(
    issues.sort_values("label_score")[["id", "given_label", "predicted_label", "p_wrong"]].head().to_string(index=False)
)
print(f"{wrong.sum()} of {len(table)} photos are in a wrong folder; {len(issues)} are called label issues")
print(f"{found.sum()} of the issues are in a wrong folder, for {met.sum()} the right one is suggested")
print(f"{wrong[first].sum()} of the {len(first)} photos with the lowest label_score are in a wrong folder")
for name, value in accuracy.items():
    print(f"{name:10}  accuracy {value:.1%}")
