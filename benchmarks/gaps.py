"""What to do about the epochs in which a sample was pruned: the three choices of the alignment score, on the digits.

    python benchmarks/gaps.py

Prints, for each, mean and 95 % interval over seeds of the share pruned per epoch, the share of wrong labels among the
kept samples of the pruning epochs, the AUROC of the score for finding the wrong labels, and the accuracy.
"""

from __future__ import annotations

import argparse

import alignprune as ap
from alignprune.bench import demo
from alignprune.bench.results.measures import statistics

GAPS = ("paired", "carry", "last_obs")


def main() -> None:
    """Run the grid and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    print("| score | pruned per epoch % | wrong labels kept % | AUROC x 100 | accuracy % |")
    print("| --- | --- | --- | --- | --- |")
    for name, knobs in [("infobatch", {}), *((f"infobatch+das, {gaps}", {"gaps": gaps}) for gaps in GAPS)]:
        results = []
        for seed in range(options.seeds):
            data = demo.digits(seed)
            pruner = ap.Pruner.from_preset(
                name.split(",")[0], num_samples=len(data.train), epochs=options.epochs, seed=seed, **knobs
            )
            results.append(demo.train(data, pruner, seed, lambda: None))
        pruned = [1 - result["forward_fraction"] for result in results]
        columns = [pruned, *([result[key] for result in results] for key in ("kept_noise", "noise_auroc", "accuracy"))]
        shown = (f"{statistics([100 * value for value in column]):.1f}" for column in columns)
        print(f"| {name} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
