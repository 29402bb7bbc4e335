"""The long form of the campaign: every row with its full count, a table at the end.

make faults                                   all rows
make faults ARGS="--only kills --count 50"    the rows whose names begin so, so many tries each
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
import traceback
from dataclasses import asdict
from multiprocessing.pool import ThreadPool
from pathlib import Path

from alignprune.bench.run.record import Versions
from faults.outcome import Outcome, table
from faults.processes import Stem
from faults.rows import ROWS, Row

_SHOWN = 10  # losses of a row


def main() -> int:
    """Run the chosen rows, print the table, and write it as JSON; 1 if anything was lost."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell starts what runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    given = _given()
    rows = [row for row in ROWS if any(row.name.startswith(name) for name in given.only or [""])]
    if not rows:
        print(
            f"error: only={given.only} chooses no row, expected the beginning of a name: --list shows all",
            file=sys.stderr,
        )
        return 2
    if given.list:
        print("\n".join(row.name for row in rows))
        return 0
    shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True)
    started = time.monotonic()
    outcomes: list[Outcome] = []
    with ThreadPool(given.jobs) as pool:
        for outcome in pool.imap(lambda row: _outcome(row, given), rows):
            outcomes.append(outcome)
    minutes = (time.monotonic() - started) / 60
    record = {
        "rows": [asdict(one) for one in outcomes],
        "seed": given.seed,
        "minutes": minutes,
        "versions": asdict(Versions()),
    }
    (given.out / "faults.json").write_text(json.dumps(record, indent=2) + "\n")
    print(table(outcomes))
    for one in outcomes:
        for note in one.notes[:_SHOWN]:
            print(f"lost: {one.fault}: {note}")
        if len(one.notes) > _SHOWN:
            print(f"lost: {one.fault}: and {len(one.notes) - _SHOWN} more")
    print(f"{minutes:.0f} minutes; written to {given.out / 'faults.json'}, beside the folders of what was lost")
    return 1 if any(one.lost for one in outcomes) else 0


def _given() -> argparse.Namespace:
    parser = argparse.ArgumentParser("make faults", description="Kill, starve and damage runs; count what is lost.")
    parser.add_argument("--only", action="append", help="rows whose names begin so; may be given several times")
    parser.add_argument("--count", type=int, help="tries of each row, at most; else each row's own number")
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    parser.add_argument("--jobs", type=int, default=2, help="rows at the same time")
    parser.add_argument("--out", type=Path, default=Path("runs/faults"), help="folder; what is in it is removed")
    parser.add_argument("--list", action="store_true", help="show the names of the rows")
    return parser.parse_args()


def _outcome(row: Row, given: argparse.Namespace) -> Outcome:
    folder = given.out / "".join(letter if letter.isalnum() else "-" for letter in row.name)
    count = row.count if given.count is None else min(given.count, row.count)
    started = time.monotonic()
    try:
        if row.forks:
            with Stem() as stem:
                outcome = row.campaign(count, folder, stem=stem, seed=given.seed)
        else:
            outcome = row.campaign(count, folder, stem=None, seed=given.seed)
    except Exception:  # the other rows go on; this one is lost, and says why
        outcome = Outcome(row.name, 1, 0, 1, (f"the campaign itself fails:\n{traceback.format_exc()}",))
    lines = [f"{row.name}: {outcome.tried} tried, {outcome.lost} lost, {time.monotonic() - started:.0f} s"]
    lines += [f"lost: {note}" for note in outcome.notes[:_SHOWN]]
    print("\n".join(lines), file=sys.stderr, flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
