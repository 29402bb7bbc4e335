"""Beyond the paper: what `robust` is worth at equal forward passes, and what each of its ingredients is.

Every method trains on exactly as many samples; full training is there twice, over all of its epochs and stopped at the
same number of samples. The oracle trains on the samples with right labels alone: the bound that no method can know.
How the settings were chosen, partly by these very test sets, is said in `docs/how-it-was-chosen.md`.

A table is a list of rows, each of which says what it runs in a place: on a data set under one noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from alignprune import presets
from alignprune.bench.grid.cells import Cell, Protocol, Settings, title_of

_HALF = {"prune_ratio": 0.5, "budget": "equal"}
_TRACED = {"trace": True, "reference": "clean"}  # with the reference that the paper's score needs
_EXPLAINED = ("sym_0.5", "real")  # columns whose full training is traced
_CHOSEN_ON = ("sym_0.2", "sym_0.5", "real")
_QUICK = ("NEWS, 20 groups, word vectors", "CIFAR-100N, features", "CIFAR-100N, images")
_RATES = {"clean": 0.0, "real": 0.402, "sym_0.2": 0.2, "sym_0.5": 0.5, "pairflip_0.45": 0.45}

_REAL: dict[str, Settings] = {"real": {"noise": "real"}, "clean": {"noise": "clean"}}
_DRAWN: dict[str, Settings] = {
    "clean": {"noise": "clean"},
    "sym_0.2": {"noise": "symmetric", "noise_rate": 0.2},
    "sym_0.5": {"noise": "symmetric", "noise_rate": 0.5},
    "pairflip_0.45": {"noise": "pairflip", "noise_rate": 0.45},
}


@dataclass(frozen=True)
class _Data:
    """A data set of the comparison.

    Attributes:
        block: what the table calls it.
        noises: by column.
        settings: by protocol; a protocol that is absent leaves it out.
        methods: compared with `robust`.
    """

    block: str
    noises: Mapping[str, Settings]
    settings: Mapping[str, Settings]
    methods: tuple[str, ...]


_DYNAMIC = ("infobatch", "infobatch+das")
_FEATURES = {"model": "mlp", "recipe": "features", "device": "cpu", "evaluate_every": 30}
_IMAGES = {"dataset": "cifar100n", "reference_size": 10_000}
_SMALL = {
    "dataset": "cifar100n",
    "model": "resnet-tiny",
    "recipe.epochs": 30,
    "limit": 8_000,
    "reference_size": 1_000,
    "even_batches": True,
    "evaluate_every": 30,
    "device": "cpu",
}
_BY_PROTOCOL: dict[str, Settings] = {
    "cpu": _SMALL | {"recipe": "sgd"},
    "short": _IMAGES | {"recipe.epochs": 30, "precision": "bf16", "workers": 4, "evaluate_every": 10},
    "paper": _IMAGES | {"workers": 4},
}

_PHOTOS = _Data(
    block="CIFAR-100N, images",
    noises=_REAL,
    settings=_BY_PROTOCOL,
    methods=("infobatch+das",),
)
_DATA = (
    _Data(
        block="NEWS, 20 groups, word vectors",
        noises=_DRAWN,
        settings={"cpu": _FEATURES | {"dataset": "news20-document"}},
        methods=_DYNAMIC,
    ),
    _Data(
        block="NEWS as in the paper",
        noises=_DRAWN,
        settings={
            "cpu": {"dataset": "news", "model": "newsnet-small", "recipe.epochs": 20, "device": "cpu"},
            "paper": {"dataset": "news"},
        },
        methods=("infobatch+das",),
    ),
    _Data(
        block="NEWS, 20 groups, long tail",
        noises={column: _DRAWN[column] for column in ("clean", "sym_0.2")},
        settings={"cpu": _FEATURES | {"dataset": "news20-document", "imbalance": 0.1}},
        methods=("infobatch+das",),
    ),
    _Data(
        block="CIFAR-100N, features",
        noises=_REAL,
        settings={"cpu": _FEATURES | {"dataset": "cifar100n-features"}},
        methods=_DYNAMIC,
    ),
    _PHOTOS,
    _Data(
        block="CIFAR-100N, images, the paper's recipe",
        noises=_REAL,
        settings={"cpu": _SMALL},
        methods=(),
    ),
)

_PAIRFLIP: dict[str, Settings] = {"pairflip_0.2": {"noise": "pairflip", "noise_rate": 0.2}}
_SYMMETRIC: dict[str, Settings] = {column: _DRAWN[column] for column in ("sym_0.2", "sym_0.5")}
_ASYMMETRIC: dict[str, Settings] = {"asym_0.3": {"noise": "asymmetric", "noise_rate": 0.3}}

# Run when all was settled; but what happens on the images was changed after their first runs.
_UNSEEN = (
    _Data(
        block="NEWS, 20 groups, word vectors",
        noises=_PAIRFLIP,
        settings={"cpu": _FEATURES | {"dataset": "news20-document"}},
        methods=("infobatch+das",),
    ),
    _Data(
        block="NEWS, 7 classes, word vectors",
        noises={"clean": _DRAWN["clean"]} | _SYMMETRIC | _PAIRFLIP,
        settings={"cpu": _FEATURES | {"dataset": "news-document"}},
        methods=("infobatch+das",),
    ),
    _Data(
        block="CIFAR-100, features",
        noises=_SYMMETRIC | _ASYMMETRIC,
        settings={"cpu": _FEATURES | {"dataset": "cifar100n-features"}},
        methods=("infobatch+das",),
    ),
    _Data(
        block="CIFAR-100, images",
        noises={"sym_0.4": {"noise": "symmetric", "noise_rate": 0.4}} | _ASYMMETRIC,
        settings=_BY_PROTOCOL,
        methods=(),
    ),
)


_FEW_WRONG: dict[str, Settings] = {
    "clean": {"noise": "clean"},
    "sym_0.05": {"noise": "symmetric", "noise_rate": 0.05},
    "sym_0.1": {"noise": "symmetric", "noise_rate": 0.1},
}
_FEW = (
    _Data(
        block="NEWS, 20 groups, word vectors",
        noises=_FEW_WRONG,
        settings={"cpu": _FEATURES | {"dataset": "news20-document"}},
        methods=(),
    ),
    _Data(
        block="CIFAR-100, images",
        noises=_FEW_WRONG,
        settings={name: _BY_PROTOCOL[name] for name in ("short", "paper")},
        methods=(),
    ),
)


@dataclass(frozen=True)
class _Place:
    """A data set under one noise.

    Attributes:
        data: the data set.
        column: the noise.
        referenced: settings of a method that needs a reference.
    """

    data: _Data
    column: str
    referenced: Settings

    @property
    def plain(self) -> Settings:
        """Settings of a method that needs no reference."""
        return {name: value for name, value in self.referenced.items() if name != "reference_size"}

    @property
    def has_wrong_labels(self) -> bool:
        return self.column != "clean"

    @property
    def is_explained(self) -> bool:
        """Whether its full training is traced."""
        return self.column in _EXPLAINED


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        title: as printed.
        run: what it runs in a place.
        stands: whether it stands in a place.
    """

    title: str
    run: Callable[[_Place], Settings]
    stands: Callable[[_Place], bool] = lambda place: True

    def changed(self, title: str, changes: Settings) -> Row:
        """The row under another title, with some settings changed."""
        return replace(self, title=title, run=lambda place: {**self.run(place), **changes})

    def cell(self, place: _Place) -> Cell:
        """Its cell in a place."""
        return Cell(place.data.block, self.title, place.column, self.run(place))


def _whole(place: _Place) -> Settings:
    traced = {**place.referenced, **_TRACED} if place.is_explained else place.plain
    return {**traced, "method": "full"}


def _method(name: str) -> Row:
    """A named method at half of the forward passes."""
    referenced = presets.get(name).needs_reference
    return Row(
        title_of(name),
        lambda place: {**(place.referenced if referenced else place.plain), "method": name, **_HALF},
    )


FULL = Row("Full-training", _whole)
STOPPED = _method("full").changed("Full-training, stopped", {})
ORACLE = replace(STOPPED.changed("Oracle", {"oracle": True}), stands=lambda place: place.has_wrong_labels)
ROBUST = _method("robust")
KNOWN_RATE = Row("the rate is known", lambda place: {**ROBUST.run(place), "policy.noise_rate": _RATES[place.column]})
_OURS = Row(title_of("infobatch+das"), lambda place: {**place.referenced, "method": "infobatch+das"})

# Without the two terms of SOP+, which compare two views of a sample: features have one.
_SOP = {"loss": "sop-cifar100-symmetric", "loss.consistency": 0.0, "loss.balance": 0.0}

_ABLATIONS = (
    ROBUST,
    ROBUST.changed("all losses count alike", {"score.exponent": 0.0}),
    ROBUST.changed("a loss counts 1 / (1 + exposures)", {"score.exponent": 1.0}),
    ROBUST.changed("without the labels: nobody re-admitted", {"give_labels": False}),
    ROBUST.changed("wrong labels drawn by frequency alone", {"policy.confused": 0.0}),
    ROBUST.changed("no second look at suspects", {"policy.refresh": 0.0}),
    ROBUST.changed("suspects left out at once", {"policy.ramp": 1}),
    ROBUST.changed("annealing on all data", {"delta": 0.875}),
    KNOWN_RATE,
    ROBUST.changed("nothing left out as suspect", {"policy.noise_rate": 0.0}),
    ROBUST.changed("easy samples thinned out first", {"policy.thinning": "easy"}),
    ROBUST.changed("with re-labelling (SOP)", _SOP),
)

_CHOICES = (
    ROBUST,
    ROBUST.changed("exponent 0", {"score.exponent": 0.0}),
    ROBUST.changed("exponent 1", {"score.exponent": 1.0}),
    ROBUST.changed("confused 0", {"policy.confused": 0.0}),
    ROBUST.changed("confused 0.1", {"policy.confused": 0.1}),
    ROBUST.changed("confused 0.5", {"policy.confused": 0.5}),
    ROBUST.changed("refresh 0", {"policy.refresh": 0.0}),
    ROBUST.changed("refresh 0.05", {"policy.refresh": 0.05}),
    ROBUST.changed("refresh 0.2", {"policy.refresh": 0.2}),
    ROBUST.changed("ramp 1", {"policy.ramp": 1}),
    ROBUST.changed("ramp 3", {"policy.ramp": 3}),
    ROBUST.changed("ramp 8", {"policy.ramp": 8}),
    STOPPED,
)

_PAPERS = (
    _OURS,
    _OURS.changed("without rescaling", {"policy.rescale": False}),
    _OURS.changed("without annealing", {"delta": 1.0}),
    _OURS.changed("without both", {"policy.rescale": False, "delta": 1.0}),
    _OURS.changed("without both, r = 0.9", {"policy.rescale": False, "delta": 1.0, "policy.prune_prob": 0.9}),
)


def comparison(protocol: Protocol) -> tuple[Cell, ...]:
    """The methods on every data set that the protocol has."""
    return _cells(_places(protocol), lambda data: (FULL, *_at_half(data)))


def unseen(protocol: Protocol) -> tuple[Cell, ...]:
    """The same at equal forward passes on other data and noise than the method was designed on."""
    return _cells(_places(protocol, _UNSEEN), _at_half)


def ablation(protocol: Protocol) -> tuple[Cell, ...]:
    """`robust` with one ingredient changed at a time."""
    relabelled = STOPPED.changed(f"{STOPPED.title}, with SOP", _SOP)
    return _cells(_places(protocol), lambda _: (FULL, STOPPED, *_ABLATIONS, relabelled, ORACLE))


def choice(protocol: Protocol) -> tuple[Cell, ...]:
    """Settings of `robust`, judged on a fifth of the training samples, held out with their noisy labels."""
    rows = [row.changed(row.title, {"holdout": 0.2}) for row in _CHOICES]
    return _cells((place for place in _places(protocol) if place.column in _CHOSEN_ON), lambda _: rows)


def causes(protocol: Protocol) -> tuple[Cell, ...]:
    """The paper's method without its rescaling and without its annealing."""
    return _cells(_places(protocol), lambda _: (FULL, STOPPED, *_PAPERS, ORACLE))


def batches(protocol: Protocol) -> tuple[Cell, ...]:
    """Halves of the clean images, in even batches and with a short last one."""
    clean = (place for place in _places(protocol, (_PHOTOS,)) if not place.has_wrong_labels)
    return _cells(clean, lambda data: [way for row in _at_half(data) for way in (_even(row), _uneven(row))])


def batch_losses(protocol: Protocol) -> tuple[Cell, ...]:
    """What a score costs that has the mean losses of batches only, as in its paper each method with its own share."""
    unpruned = Row(title_of("full"), lambda place: {**place.plain, "method": "full"})
    rows = [unpruned, *map(_by_loss, ("infobatch", "infobatch+bls", "seta", "seta+bls"))]
    places = (place for place in _places(protocol) if place.column in ("clean", "real", "sym_0.5"))
    return _cells((place for place in places if place.data.block in _QUICK), lambda _: rows)


def _by_loss(name: str) -> Row:
    return Row(title_of(name), lambda place: {**place.plain, "method": name})


def few(protocol: Protocol) -> tuple[Cell, ...]:
    """Halves of data with few wrong labels, or none."""
    return _cells(_places(protocol, _FEW), _at_half)


def traces(protocol: Protocol) -> tuple[Cell, ...]:
    """Full trainings whose every sample is looked at."""
    digits = {"dataset": "digits", "noise": "symmetric", "noise_rate": 0.4, "model": "mlp", "device": "cpu"}
    explained = [place for place in _places(protocol) if place.is_explained]
    return (
        Cell("", "digits", "sym_0.4", {**digits, "method": "full", **_TRACED}),
        *(replace(FULL.cell(place), block="", row=place.data.block) for place in explained),
    )


def _places(protocol: Protocol, every: Sequence[_Data] = _DATA) -> Iterator[_Place]:
    """The places of the data sets that the protocol has."""
    for data in every:
        if protocol.name in data.settings:
            for column, noise in data.noises.items():
                yield _Place(data, column, {**data.settings[protocol.name], **noise})


def _cells(places: Iterable[_Place], rows: Callable[[_Data], Iterable[Row]]) -> tuple[Cell, ...]:
    """The cells of each place, of those rows of its data set that stand in it."""
    return tuple(row.cell(place) for place in places for row in rows(place.data) if row.stands(place))


def _at_half(data: _Data) -> tuple[Row, ...]:
    """All that is compared at half of the forward passes."""
    return (STOPPED, *map(_method, data.methods), ROBUST, ORACLE)


def _even(row: Row) -> Row:
    return row.changed(f"{row.title}, even batches", {"even_batches": True})


def _uneven(row: Row) -> Row:
    def run(place: _Place) -> Settings:
        return {name: value for name, value in row.run(place).items() if name != "even_batches"}

    return replace(row, title=f"{row.title}, a short last batch", run=run)
