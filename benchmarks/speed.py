"""What pruning costs, as ratios to a simple operation on the same data in the same run.

    make bench
    make bench ARGS="--only robust"
    make bench ARGS="--only disk --largest 100000000"  # takes 5 GB of disk

Absolute times depend on the machine and its mood; a ratio of two operations that take turns does not. Prints goal and
ratio of every line, keeps them in benchmarks/results.json, and exits with 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from alignprune.bench.files import write_json
from lines import EVERY
from lines.line import QUICK, Found, Line, Sizes

RESULTS = Path(__file__).parent / "results.json"


def machine() -> dict[str, Any]:
    """What the ratios were measured on."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def measured(line: Line, sizes: Sizes) -> Found:
    """What a line found; one that fails costs no other line."""
    try:
        return line.measure(sizes)
    except Exception as error:
        return Found(math.nan, 0, 0, flaw=f"{type(error).__name__}: {error}")


def record(line: Line, found: Found) -> dict[str, Any]:
    """A line as it is kept."""
    return {
        "what": line.what,
        "against": line.against,
        "goal": line.goal,
        "ratio": found.ratio,
        "met": line.is_met(found),
        "samples": found.samples,
        "milliseconds": found.milliseconds,
        "repeats": found.repeats,
        "flaw": found.flaw,
        "date": date.today().isoformat(),
        **found.details,
    }


def keep(path: Path, line: Line, found: Found) -> None:
    """Write what a line found, beside what the file has of the others, if that is of the same machine."""
    here = machine()
    kept = json.loads(path.read_text()) if path.exists() else {}
    lines = {(one["what"], one["against"]): one for one in kept.get("lines", []) if kept["machine"] == here}
    lines[line.what, line.against] = record(line, found)
    order = [(line.what, line.against) for line in EVERY]
    write_json(path, {"machine": here, "lines": [lines[name] for name in order if name in lines]})


def row(line: Line, found: Found, *, judged: bool) -> str:
    """A line of the table."""
    time = "" if found.milliseconds is None else f"{found.milliseconds:.3f}"
    mark = f"  {found.flaw}" if found.flaw else "  MISSED" if judged and not line.is_met(found) else ""
    return (
        f"{line.what:<52}{line.against:<35}{found.samples:>12,}"
        f"{f'{line.goal:.3g}':>8}{f'{found.ratio:.3g}':>10}{time:>11}{mark}"
    )


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--list", action="store_true", help="print the lines and their goals, and measure nothing")
    options.add_argument("--only", metavar="TEXT", default="", help="measure only lines whose text has this in it")
    options.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, and judges no goal")
    options.add_argument(
        "--largest",
        metavar="N",
        type=int,
        default=Sizes().largest,
        help="samples of the bank on disk, and the end of the growth (default: %(default)s)",
    )
    options.add_argument("--owned", metavar="N", type=int, default=Sizes().owned, help="samples that 4 ranks share")
    options.add_argument(
        "--out", metavar="FILE", type=Path, help=f"where to keep the lines (default: benchmarks/{RESULTS.name})"
    )
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print the table, keep it, tell by the exit code whether every goal was reached."""
    options = parser().parse_args(words)
    chosen = [line for line in EVERY if options.only.lower() in f"{line.what}, {line.against}".lower()]
    if not chosen:
        print(f"no line has {options.only!r} in it; --list prints all", file=sys.stderr)
        return 2
    if options.list:
        for line in chosen:
            print(f"{line.what:<52}{line.against:<35}{line.goal:>8.3g}")
        return 0
    growing = (*(size for size in Sizes().growing if size < options.largest), options.largest)
    sizes = QUICK if options.quick else replace(Sizes(), largest=options.largest, owned=options.owned, growing=growing)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"{'what':<52}{'against':<35}{'samples':>12}{'goal':>8}{'ratio':>10}{'ms':>11}")
    out = options.out or (None if options.quick else RESULTS)
    fine = True
    for line in chosen:
        found = measured(line, sizes)
        fine &= not found.flaw if options.quick else line.is_met(found)
        print(row(line, found, judged=not options.quick), flush=True)
        if out:
            keep(out, line, found)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
