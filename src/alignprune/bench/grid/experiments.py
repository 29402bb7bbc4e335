"""The paper's tables and figures as grids of cells: what has to run for each of them, under which protocol.

The other experiments stand in `beyond`, `claims`, `evidence` and `label_issues`; the registry at the end of this file
holds all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from alignprune import coresets, presets
from alignprune._checks import choice
from alignprune.bench import paper
from alignprune.bench.grid import beyond, claims, evidence, label_issues
from alignprune.bench.grid.cells import Cell, Experiment, Protocol, Settings, title_of
from alignprune.errors import ValueMistake

# -- protocols ---------------------------------------------------------------------------------------------

_CIFAR_PAPER = {"reference_size": 10_000, "workers": 4, "proxy_epochs": 30}
_CIFAR_SHORT = _CIFAR_PAPER | {
    "proxy_epochs": 5,
    "recipe.epochs": 30,
    "precision": "bf16",
    "evaluate_every": 10,
}
_CIFAR_CPU = {
    "model": "resnet-small",
    "limit": 4_000,
    "reference_size": 1_000,
    "recipe.epochs": 30,
    "evaluate_every": 30,
    "device": "cpu",
}
_NEWS_CPU = {"model": "newsnet-small", "recipe.epochs": 20, "evaluate_every": 20, "device": "cpu"}

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="paper",
            summary="the paper's own: ResNet-18, 200 epochs, ...; needs a GPU",
            settings={
                "cifar100n": _CIFAR_PAPER,
                "cifar10n": _CIFAR_PAPER | {"proxy_epochs": 10},
                "webvision": {"workers": 8},
                "clothing1m": {"workers": 8, "weights": "pretrained", "score.window": 5},
                "imagenet": {"workers": 16},
                "news": {},
            },
        ),
        Protocol(
            name="short",
            summary="the paper's networks and recipes, but 30 epochs on CIFAR, bfloat16; a GPU",
            settings={
                "cifar100n": _CIFAR_SHORT,
                "cifar10n": _CIFAR_SHORT,
            },
        ),
        Protocol(
            name="cpu",
            summary="CIFAR: a residual network of 0.3 million parameters, 4,000 images, 30 epochs; NEWS: a smaller "
            "network on the paper's features, 20 epochs",
            settings={
                "cifar100n": _CIFAR_CPU,
                "cifar10n": _CIFAR_CPU,
                "news": _NEWS_CPU,
            },
        ),
        Protocol(
            name="document",
            summary="NEWS with the mean word vector of each document, on a CPU, 20 epochs of the small network",
            settings={"news": _NEWS_CPU | {"dataset": "news-document"}},
        ),
        Protocol(
            name="pretrained",
            summary="a head of 512 units on the features of a pretrained network, 20 epochs: minutes a run on a CPU",
            settings={"cifar100n": {"dataset": "cifar100n-pretrained", "recipe": "head"}},
            seeds=5,
        ),
        Protocol(
            name="scratch",
            summary="airbench's network at half width from scratch, all 50,000 images of CIFAR, 20 epochs: half an "
            "hour a run on a CPU core, half of that at half of the passes",
            settings={"cifar100n": {"recipe": "scratch"}, "cifar10n": {"recipe": "scratch"}},
        ),
        Protocol(
            name="scratch-40",
            summary="the same in 40 epochs",
            settings={
                "cifar100n": {"recipe": "scratch", "recipe.epochs": 40},
                "cifar10n": {"recipe": "scratch", "recipe.epochs": 40},
            },
        ),
        Protocol(
            name="finetune",
            summary="the last two stages of a pretrained EfficientNet-Lite0 at 64 pixels, 10,000 images of CIFAR, 10 "
            "epochs: minutes a run on a CPU",
            settings={"cifar100n": {"recipe": "finetune", "image_size": 64, "limit": 10_000, "reference_size": 1_000}},
        ),
    )
}

# -- the paper's noises and methods ------------------------------------------------------------------------

_SYNTHETIC = {
    "sym_0.2": {"noise": "symmetric", "noise_rate": 0.2},
    "sym_0.5": {"noise": "symmetric", "noise_rate": 0.5},
    "sym_0.8": {"noise": "symmetric", "noise_rate": 0.8},
    "asym_0.2": {"noise": "asymmetric", "noise_rate": 0.2},
    "asym_0.4": {"noise": "asymmetric", "noise_rate": 0.4},
}
NOISES: dict[str, dict[str, Settings]] = {
    "cifar100n": {"clean": {"noise": "clean"}, "real": {"noise": "real"}, **_SYNTHETIC},
    "cifar10n": {
        "clean": {"noise": "clean"},
        "real_aggre": {"noise": "aggre"},
        "real_worst": {"noise": "worse"},
        **_SYNTHETIC,
    },
    "imagenet": {"clean": {"noise": "clean"}, "asym_0.2": {"noise": "asymmetric", "noise_rate": 0.2}},
    "news": {
        "clean": {"noise": "clean"},
        "sym_0.2": {"noise": "symmetric-independent", "noise_rate": 0.2},
        "sym_0.5": {"noise": "symmetric-independent", "noise_rate": 0.5},
        "pairflip_0.45": {"noise": "pairflip", "noise_rate": 0.45},
    },
}
"""By data set, the settings behind the columns of the paper's tables."""

_MAIN = ("static-random", "dynamic-random", "infobatch", "infobatch+das", "seta", "seta+das")
_STATIC = (
    "small-loss",
    "margin",
    "forgetting",
    "grand",
    "el2n",
    "moderate",
    "ssp",
    "prune4rel",
    "dyn-unc",
    "dual",
)
_ALL = ("static-random", *_STATIC, "dynamic-random", "ies", "divbs", *_MAIN[2:])
_OURS = ("infobatch+das", "seta+das")
_RATIOS = (0.3, 0.5, 0.7)


# What the methods' own repositories set where the default is CIFAR-100's. Forgetting counts the warm-up alone, as where
# it is Prune4ReL's baseline, if that is long enough to forget in.
_CORESET_SETTINGS: dict[tuple[str, str, str], Settings] = {
    ("paper", "cifar100n", "forgetting"): {"coreset.epochs": 30},
    ("paper", "cifar10n", "forgetting"): {"coreset.epochs": 10},
    **{
        (protocol, "cifar10n", method): setting
        for protocol in PROTOCOLS
        for method, setting in (("prune4rel", {"coreset.tau": 0.975}), ("dual", {"coreset.c_d": 5.5}))
    },
    # of proxy runs that take 10 or 20 epochs
    **{
        (protocol, dataset, method): {"coreset.epochs": 10}
        for protocol, dataset in (
            *(("pretrained", "cifar100n"), ("finetune", "cifar100n")),
            *(("scratch", "cifar100n"), ("scratch", "cifar10n")),
        )
        for method in ("forgetting", "dual")
    },
    ("scratch", "cifar10n", "dual"): {"coreset.epochs": 10, "coreset.c_d": 5.5},
}


def full_training(settings: Settings) -> Settings:
    """The full training beside a cell: the same data and network, nothing pruned.

    On images it also collects what the static methods are chosen by, so that one run serves as both.
    """
    own = {"method", "prune_ratio", "reference", "reference_size", "base_run", "budget"}
    rest = {name: value for name, value in settings.items() if name not in own and not name.startswith(_OWN)}
    return {**rest, "method": "full", **({} if str(settings["dataset"]).startswith("news") else {"collect": True})}


_OWN = ("score.", "policy.", "coreset.")


def _run(protocol: Protocol, dataset: str, method: str, **settings: Any) -> Settings:
    base = {"dataset": dataset, "method": method, **protocol.settings[dataset]}
    if method in coresets.CORESETS or not presets.get(method).needs_reference:
        base = {name: value for name, value in base.items() if name not in ("reference_size", "score.window")}
    found = {**base, **_CORESET_SETTINGS.get((protocol.name, dataset, method), {}), **settings}
    return full_training(found) if method == "full" else found


def _found(table: str, value: str = "accuracy", **where: str) -> float | None:
    return paper.find(table, value=value, **where)


# -- tables ------------------------------------------------------------------------------------------------


def _accuracies(
    protocol: Protocol, *, table: str, dataset: str, methods: Iterable[str], ratios: Iterable[float] = _RATIOS
) -> tuple[Cell, ...]:
    """Tables 1, 2, B and C: methods by noises, at several prune ratios, below full training."""
    cells = []
    for block, rows in (("0", ("full",)), *((f"{100 * ratio:g}", tuple(methods)) for ratio in ratios)):
        for method in rows:
            for column, noise in NOISES[dataset].items():
                ratio = {} if method == "full" else {"prune_ratio": int(block) / 100}
                number = None
                if method != "el2n":  # the paper does not list it
                    number = _found(table, prune_ratio=block, method=title_of(method), noise=column)
                settings = _run(protocol, dataset, method, **noise, **ratio)
                cells.append(Cell(block, title_of(method), column, settings, number))
    return tuple(cells)


def _efficiency(protocol: Protocol) -> tuple[Cell, ...]:
    cells = []
    for method in ("full", "static-random", "dynamic-random", "seta", "infobatch", "infobatch+das"):
        ratio = {} if method == "full" else {"prune_ratio": 0.5}
        settings = _run(protocol, "cifar100n", method, **NOISES["cifar100n"]["real"], **ratio)
        name = "Full Data" if method == "full" else title_of(method)
        minutes = _found("3", value="time_min", method=name)
        cells.append(Cell("", name, "accuracy", settings))
        cells.append(Cell("", name, "minutes", settings, minutes, "minutes"))
        cells.append(Cell("", name, "forward passes", settings, measure="forward_fraction"))
    return tuple(cells)


_IMAGENET_MODELS = {
    "ConvNeXt-Tiny": "convnext-t",
    "ConvNeXt-Base": "convnext-b",
    "DeiT-Small": "deit-s",
    "DeiT-Base": "deit-b",
    "Swin-Tiny": "swin-t",
    "Swin-Base": "swin-b",
}


def _imagenet(protocol: Protocol) -> tuple[Cell, ...]:
    cells = []
    for column, noise in NOISES["imagenet"].items():
        for method in ("full", "infobatch", "infobatch+das"):
            for model, recipe in _IMAGENET_MODELS.items():
                settings = _run(protocol, "imagenet", method, recipe=recipe, **noise)
                if method == "full":
                    settings = {name: value for name, value in settings.items() if name != "collect"}
                number = _found("4", model=model, method=title_of(method), noise=column)
                cells.append(Cell(column, title_of(method), model, settings, number))
    return tuple(cells)


_REFERENCES = {
    "Noisy Train-set": "noisy",
    "Clean Validation-set": "clean",
    "Pseudo Clean-set (SmallL)": "small-loss",
    "Pseudo Clean-set (Moderate)": "moderate",
}


def _fraction(settings: Settings, fraction: float) -> int:
    """Samples of a fraction of the protocol's reference, at least the ten that a reference needs."""
    return max(10, round(fraction * settings["reference_size"]))


def _pseudo_clean(protocol: Protocol) -> tuple[Cell, ...]:
    """Table 5. Its numbers agree with SeTa + Ours at 30 %, so that method is run beside InfoBatch + Ours."""
    cells = []
    for method in _OURS:
        for row, reference in _REFERENCES.items():
            for percent in (100, 10, 1):
                for noise in ("clean", "real"):
                    settings = _run(protocol, "cifar100n", method, **NOISES["cifar100n"][noise], reference=reference)
                    settings = {**settings, "reference_size": _fraction(settings, percent / 100)}
                    name = f"AlignPrune, reference = {row}, fraction {percent}%"
                    number = _found("5", method=name, noise=noise)
                    cells.append(Cell(title_of(method), row, f"{percent}% {noise}", settings, number))
    return tuple(cells)


def _relabelled(protocol: Protocol, *, table: str, dataset: str) -> tuple[Cell, ...]:
    """Tables D and E: SOP+ on top of pruning, beside full training with plain cross-entropy."""
    cells = []
    noises = {column: noise for column, noise in NOISES[dataset].items() if column != "clean"}
    for column, noise in noises.items():
        number = _found(table, prune_ratio="0", method="Full-training (CE)", noise=column)
        cells.append(Cell("0", "Full-training (CE)", column, _run(protocol, dataset, "full", **noise), number))
    names = {
        "prune4rel": "Prune4ReL [SOP+]",
        "infobatch": "InfoBatch [SOP+]",
        "infobatch+das": "InfoBatch + Ours [SOP+]",
    }
    family = dataset.removesuffix("n")
    for ratio in _RATIOS:
        for method, name in names.items():
            for column, noise in noises.items():
                kind = str(noise["noise"])
                loss = f"sop-{family}-{kind}" if kind in ("symmetric", "asymmetric") else f"sop-{dataset}"
                settings = _run(protocol, dataset, method, **noise, prune_ratio=ratio, loss=loss, recipe="sop")
                epochs = {"recipe.epochs": 200, **settings}
                number = _found(table, prune_ratio=f"{100 * ratio:g}", method=name, noise=column)
                cells.append(Cell(f"{100 * ratio:g}", name, column, epochs, number))
    return tuple(cells)


def _pruned_shares(protocol: Protocol) -> tuple[Cell, ...]:
    """Table F, for which the paper states neither data set nor noise."""
    return tuple(
        Cell(
            "",
            title_of(method),
            "real",
            _run(protocol, "cifar100n", method, **NOISES["cifar100n"]["real"]),
            _found("F", value="avg_pruned_per_epoch_percent", method=title_of(method)),
            "pruned_share",
        )
        for method in ("infobatch", "infobatch+das")
    )


def _windows(protocol: Protocol, *, windows: Iterable[int], as_lines: bool) -> tuple[Cell, ...]:
    """Table G and figure 2b. The paper gives one average for all windows from 4 to 50."""
    cells = []
    for method in ("infobatch+das",) if as_lines else _OURS:
        for window in windows:
            for column, noise in NOISES["cifar100n"].items():
                settings = _run(protocol, "cifar100n", method, **noise, **{"score.window": window})
                row = f"AlignPrune N={window}" if window < 4 else "AlignPrune N=4..50 (average over N)"
                number = _found("G", method=row, noise=column)
                place = (column, str(window)) if as_lines else (f"N = {window}", column)
                cells.append(Cell("" if as_lines else title_of(method), *place, settings, None if as_lines else number))
    return tuple(cells)


def _news(protocol: Protocol) -> tuple[Cell, ...]:
    return tuple(
        Cell(
            "",
            title_of(method),
            column,
            _run(protocol, "news", method, **noise),
            _found("H", method=title_of(method), noise=column),
        )
        for method in ("full", "infobatch", "infobatch+das")
        for column, noise in NOISES["news"].items()
    )


def _spreads(protocol: Protocol) -> tuple[Cell, ...]:
    return tuple(
        Cell(
            "30",
            title_of(method),
            column,
            _run(protocol, "cifar100n", method, **noise, prune_ratio=0.3),
            _found("I", value="std", method=title_of(method), noise=column),
            "accuracy_std",
        )
        for method in _MAIN[2:]
        for column, noise in NOISES["cifar100n"].items()
    )


# -- figures -----------------------------------------------------------------------------------------------


def _large(protocol: Protocol) -> tuple[Cell, ...]:
    """Figure 1, whose numbers the paper only draws."""
    cells = []
    for dataset in ("webvision", "clothing1m"):
        for method in ("full", "static-random", "dynamic-random", "infobatch", "infobatch+das"):
            for ratio in _RATIOS:
                own = {} if method == "full" else {"prune_ratio": ratio}
                if method.startswith("infobatch"):
                    own["policy.prune_prob"] = 0.75
                settings = _run(protocol, dataset, method, **own)
                if method == "full":
                    settings = {name: value for name, value in settings.items() if name != "collect"}
                cells.append(Cell(dataset, title_of(method), f"{100 * ratio:g}", settings))
    return tuple(cells)


def _lines(protocol: Protocol, setting: str, values: Iterable[Any]) -> tuple[Cell, ...]:
    """Figure 2: one line a noise, over the values of a setting of InfoBatch + Ours."""
    return tuple(
        Cell("", column, str(value), _run(protocol, "cifar100n", "infobatch+das", **noise, **{setting: value}))
        for column, noise in NOISES["cifar100n"].items()
        for value in values
    )


def _reference_sizes(protocol: Protocol) -> tuple[Cell, ...]:
    cells = []
    for column, noise in NOISES["cifar100n"].items():
        settings = _run(protocol, "cifar100n", "infobatch+das", **noise)
        sizes = {_fraction(settings, fraction) for fraction in (1.0, 0.5, 0.1, 0.05, 0.01, 0.002, 0.001)}
        for size in sorted(sizes):
            cells.append(Cell("", column, str(size), {**settings, "reference_size": size}))
    return tuple(cells)


def _static_and_dynamic(protocol: Protocol) -> tuple[Cell, ...]:
    wanted = {"random": ("static-random", "dynamic-random"), "chosen": ("prune4rel", "infobatch", "infobatch+das")}
    known = {(cell.row, cell.column): cell for cell in _TABLE_B(protocol) if cell.block == "50"}
    return tuple(
        replace(known[title_of(method), column], block=block)
        for block, methods in wanted.items()
        for method in methods
        for column in NOISES["cifar100n"]
    )


def _one_full_training(protocol: Protocol) -> tuple[Cell, ...]:
    """Figures B and C: a full training on CIFAR-100N, whose losses are looked at."""
    return (Cell("", "Full-training", "real", _run(protocol, "cifar100n", "full", **NOISES["cifar100n"]["real"])),)


_TABLE_B = partial(_accuracies, table="B", dataset="cifar100n", methods=_ALL)
_WINDOWS = (2, 3, 4, 5, 10, 15, 20, 25, 30, 40, 50)

_REGISTRY = (
    Experiment(
        "table-1",
        "CIFAR-100N: dynamic pruning under seven noises",
        partial(_accuracies, table="1", dataset="cifar100n", methods=_MAIN),
    ),
    Experiment(
        "table-2",
        "CIFAR-10N: dynamic pruning under eight noises",
        partial(_accuracies, table="2", dataset="cifar10n", methods=_MAIN),
    ),
    Experiment("table-3", "CIFAR-100N, human noise, 50 %: training time", _efficiency, column_title="measure"),
    Experiment(
        "table-4",
        "ImageNet-1K: six networks, clean and 20 % asymmetric noise",
        _imagenet,
        block_title="noise",
        column_title="network",
    ),
    Experiment(
        "table-5",
        "CIFAR-100N: where the reference comes from, and how much of it",
        _pseudo_clean,
        block_title="method",
        row_title="reference",
        column_title="fraction, noise",
    ),
    Experiment("table-B", "CIFAR-100N: static and dynamic pruning under seven noises", _TABLE_B),
    Experiment(
        "table-C",
        "CIFAR-10N: static and dynamic pruning under eight noises",
        partial(_accuracies, table="C", dataset="cifar10n", methods=_ALL),
    ),
    Experiment("table-D", "CIFAR-100N: pruning and re-labelling", partial(_relabelled, table="D", dataset="cifar100n")),
    Experiment("table-E", "CIFAR-10N: pruning and re-labelling", partial(_relabelled, table="E", dataset="cifar10n")),
    Experiment("table-F", "Mean share of pruned samples per epoch", _pruned_shares),
    Experiment(
        "table-G",
        "CIFAR-100N: the trajectory window",
        partial(_windows, windows=_WINDOWS, as_lines=False),
        block_title="method",
        row_title="window",
    ),
    Experiment("table-H", "NEWS: text, three-layer network", _news),
    Experiment("table-I", "CIFAR-100N, 30 %: standard deviation over seeds", _spreads),
    Experiment(
        "figure-1", "WebVision and Clothing-1M", _large, "bars", block_title="data set", column_title="prune ratio"
    ),
    Experiment(
        "figure-2a",
        "Prune probability r",
        partial(_lines, setting="policy.prune_prob", values=(0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
        "lines",
        row_title="noise",
        column_title="prune probability r",
    ),
    Experiment(
        "figure-2b",
        "Trajectory window N",
        partial(_windows, windows=(5, 10, 15, 20, 25), as_lines=True),
        "lines",
        row_title="noise",
        column_title="window N",
    ),
    Experiment(
        "figure-2c",
        "Correlation function",
        partial(_lines, setting="score.correlation", values=("pearson", "cosine")),
        "bars",
        row_title="noise",
        column_title="correlation",
    ),
    Experiment(
        "figure-3",
        "Size of the clean reference",
        _reference_sizes,
        "lines",
        row_title="noise",
        column_title="reference samples",
    ),
    Experiment("figure-A", "Static against dynamic pruning, 50 %", _static_and_dynamic, "bars", block_title="choice"),
    Experiment("figure-B", "Loss distribution of right and wrong labels", _one_full_training, "losses"),
    Experiment("figure-C", "Mean loss trajectories of right and wrong labels", _one_full_training, "trajectories"),
    Experiment(
        "beyond",
        "Half of the forward passes: the paper's methods, robust, and an oracle",
        beyond.comparison,
        block_title="data",
    ),
    Experiment(
        "beyond-unseen",
        "Half of the forward passes, under other noise",
        beyond.unseen,
        block_title="data",
    ),
    Experiment(
        "beyond-batch-losses",
        "Scores by a sample's losses and by those of its batches",
        beyond.batch_losses,
        block_title="data",
    ),
    Experiment(
        "evidence",
        "Networks that people use: robust, the paper's method, and what people would pick instead",
        evidence.comparison,
        block_title="data",
    ),
    Experiment(
        "evidence-costs",
        "Accuracy over cost: six ways",
        evidence.costs,
        "costs",
        block_title="data",
    ),
    Experiment(
        "evidence-choice",
        "Losses for robust, by held-out training samples with noisy labels",
        evidence.choice,
        block_title="data",
        row_title="loss",
    ),
    Experiment(
        "evidence-ablation",
        "robust and ELR with one ingredient changed, by held-out training samples with noisy labels",
        evidence.ablation,
        block_title="data",
        row_title="change",
    ),
    Experiment("evidence-rivals", "The same, with the other rivals", evidence.rivals, block_title="data"),
    Experiment(
        "claims",
        "The paper's claims one by one, on features of a pretrained network",
        claims.claims,
        block_title="claim",
        row_title="setting",
    ),
    Experiment(
        "label-issues",
        "How well, and at which cost, the wrong labels are found",
        label_issues.rankings,
        block_title="data",
        row_title="ranking",
    ),
)

EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in _REGISTRY}
"""The paper's tables and figures with runs, and those beyond it, by name."""


def get(name: str) -> tuple[Experiment, ...]:
    """The experiments of that name: one, the parts of a figure ("figure-2"), or all of them ("all").

    Raises:
        ValueError: for an unknown name, with the known ones and the nearest.
    """
    parts = tuple(part for part in _REGISTRY if name == "all" or part.name.rstrip("abc") == name)
    if not parts:
        choice("experiment", name, EXPERIMENTS)
    return parts or (EXPERIMENTS[name],)


def protocol(name: str) -> Protocol:
    """The protocol of that name; an unknown one raises ValueError with the known ones and the nearest."""
    choice("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def cells_of(experiment: Experiment, protocol: Protocol) -> tuple[Cell, ...]:
    """The experiment's cells.

    Raises:
        ValueError: if the protocol does not say how to run its data set, or any of its data sets.
    """
    try:
        cells = experiment.cells(protocol)
    except KeyError as missing:
        raise ValueMistake(
            f"{experiment.name} needs the data set {missing}, and the protocol {protocol.name!r} has settings only for "
            f"{', '.join(protocol.settings)}"
        ) from None
    if not cells:
        raise ValueMistake(
            f"{experiment.name} has no cells under protocol {protocol.name!r}, which leaves all of its data sets out: "
            f"choose another"
        )
    return cells
