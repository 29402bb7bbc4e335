"""What a run depends on: one record of all settings, made from names, options or the flat settings of a cell.

Options and settings are flat: each name belongs to one of the records of `alignprune.bench.run.settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast, get_type_hints

from tyro.conf import arg

from alignprune import coresets, losses, presets
from alignprune._checks import choice, integer
from alignprune.bench import recipes
from alignprune.bench.data.cache import file_digest
from alignprune.bench.recipes import Recipe
from alignprune.bench.run import budget
from alignprune.bench.run.settings import (
    DataSettings,
    EarlierRuns,
    Features,
    KeptWeights,
    MachineSettings,
    NetworkSettings,
    Outputs,
    Place,
    PruningSettings,
)
from alignprune.errors import MissingFile, ValueMistake

_RECIPE_OF = {
    "cifar100n": "cifar100",
    "cifar10n": "cifar10",
    "webvision": "webvision",
    "clothing1m": "clothing1m",
    "imagenet": "infobatch-imagenet",
    "news": "news",
    "news20": "news",
    "news-document": "news",
    "news20-document": "news",
    "cifar100n-pretrained": "features",
    "news20-sentences": "features",
}

_FLAT = arg(name="")  # the options of a group have no prefix


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a run depends on.

    Attributes:
        data: which samples.
        pruning: which of them are trained on.
        recipe: optimiser, schedule, epochs, batch size.
        network: what is trained.
        kept: which of its weights are the trained model's.
        earlier: what other runs have to have found out before.
        outputs: what the run looks at and stores on its way.
        machine: where and how the run computes.
        place: where the run leaves what it makes.
        seed: of noise, subset, network, order and draws.
    """

    data: Annotated[DataSettings, _FLAT]
    pruning: Annotated[PruningSettings, _FLAT]
    recipe: Recipe
    network: Annotated[NetworkSettings, _FLAT] = field(default_factory=NetworkSettings)
    kept: Annotated[KeptWeights, _FLAT] = field(default_factory=KeptWeights)
    earlier: Annotated[EarlierRuns, _FLAT] = field(default_factory=EarlierRuns)
    outputs: Annotated[Outputs, _FLAT] = field(default_factory=Outputs)
    machine: Annotated[MachineSettings, _FLAT] = field(default_factory=MachineSettings)
    place: Annotated[Place, _FLAT] = field(default_factory=Place)
    seed: int = 0

    def __post_init__(self) -> None:
        pruning, devices = self.pruning, self.machine.devices
        integer("seed", self.seed, at_least=0, remedy="any non-negative integer")
        if self.outputs.trace and devices > 1:
            raise ValueMistake(
                f"trace=True is given on {devices} devices, each of which would see a part of the samples only, "
                f"expected one: leave --trace or --devices out"
            )
        whole = pruning.method == "full" and pruning.prune_ratio is None
        whole = whole and not pruning.oracle and not pruning.without_issues
        if self.outputs.collect and (not whole or devices > 1):
            raise ValueMistake(
                f"collect=True is given with {pruning.method} on {devices} devices, expected method full on one "
                f"device, without prune ratio, oracle and without_issues, since the proxy run sees every sample in "
                f"every epoch: leave the others out"
            )
        if pruning.folds is not None and (not whole or devices > 1 or self.outputs.collect or self.outputs.trace):
            raise ValueMistake(
                f"folds={pruning.folds} is given with {pruning.method} on {devices} devices, expected method full on "
                f"one device, without prune ratio, oracle, without_issues, collect and trace, since no network of a "
                f"cross-validation sees every sample: leave the others out"
            )
        if pruning.folds is not None and self.kept.ema is not None:
            raise ValueMistake(
                f"ema={self.kept.ema:g} is given with folds={pruning.folds}, whose networks are those of their best "
                f"and their last epoch as they are, expected one of the two: leave the other out"
            )
        if self.earlier.cross_validation is not None and not pruning.without_issues:
            raise ValueMistake(
                f"cross_validation={str(self.earlier.cross_validation)!r} is given without without_issues, expected "
                f"what to do by it: add --without-issues, or leave it out"
            )
        if self.outputs.collect and self.kept.patience is not None:
            raise ValueMistake(
                f"patience={self.kept.patience} is given with collect=True, expected None, since the proxy run "
                f"collects to its last epoch: leave one of them out"
            )
        if pruning.co_teaching is not None and self.machine.precision == "16":
            raise ValueMistake(
                "precision='16' is given with co_teaching, whose two optimisers would share one scale of gradients, "
                "expected another precision: choose bf16 or 32"
            )
        if pruning.loss is not None and pruning.loss.learns and self.machine.precision == "16":
            raise ValueMistake(
                f"precision='16' is given with loss={pruning.loss!r}, which learns by gradients that are not to be "
                f"scaled, expected another precision: choose bf16 or 32"
            )

    @property
    def folder(self) -> Path:
        """The run's folder."""
        if self.place.out is not None:
            return self.place.out
        parts = [Path(self.data.dataset).stem, self.data.noise or "given", self.pruning.method]
        if self.pruning.prune_ratio is not None:
            parts.append(f"P{100 * self.pruning.prune_ratio:g}")
        if self.pruning.folds is not None:
            parts.append(f"{self.pruning.folds}folds")
        return Path("runs") / "-".join([*parts, f"seed{self.seed}"])

    @property
    def batch_size(self) -> int:
        """Samples that a loader gives in one step, over all devices: so many that about the recipe's are trained on."""
        policy = self.pruning.chosen_policy
        kept = 1.0 - getattr(policy, "prune_ratio", 0.0) if policy.probes else 1.0
        return max(1, round(self.recipe.batch_size / kept))

    @property
    def batch_of_rank(self) -> int:
        """Samples that the loader of one device gives in one step."""
        return max(1, self.batch_size // self.machine.devices)

    @property
    def recorded_smoothing(self) -> float:
        """Label smoothing of the recorded losses: the recipe's; none for a run with another loss, or whose policy
        reads probabilities off them."""
        plain = self.pruning.loss is not None or self.pruning.policy.reads_probabilities
        return 0.0 if plain else self.recipe.label_smoothing

    def measured_base(self) -> float | None:
        """The mean share of its samples that an epoch of the base run left out, read or as given; None without a base.

        Raises:
            ValueError: if `base_run` is missing, or another run than the base.
            FileNotFoundError: if the base run is not complete.
        """
        base = self.pruning.base
        if base is None:
            return None
        if self.earlier.base_run is None and self.earlier.base_pruned_share is not None:
            return self.earlier.base_pruned_share
        if self.earlier.base_run is None:
            raise ValueMistake(
                f"base_run=None is missing, expected the folder of a run of {base}, since with a prune ratio "
                f"{self.pruning.method} runs as many epochs as its pruned share says: run {base} without --prune-ratio "
                f"on the same data, then add --base-run with its folder (alignprune sweep does both)"
            )
        return budget.measured_share(self.earlier.base_run, base, self.recipe.epochs)

    def decided_by(self) -> str | None:
        """The SHA-256 of the file of decisions on labels, read; None without.

        Raises:
            FileNotFoundError: if it is not there.
            ValueError: if it is another than the one of `labels_digest`.
        """
        file, expected = self.data.labels, self.data.labels_digest
        if file is None:
            return None
        if not file.is_file():
            raise MissingFile(
                f"labels={str(file)!r} is not there, expected the decisions.csv of a label report: check the path"
            )
        found = file_digest(file)
        if expected not in (None, found):
            raise ValueMistake(
                f"labels={str(file)!r} has the SHA-256 {found[:12]}..., expected {str(expected)[:12]}..., as the "
                f"settings say: give the file that was used, or take this one by --labels-digest None"
            )
        return found

    def epochs(self, base_share: float | None, part: float = 1.0) -> int:
        """Epochs to train; on a part of the data set, which the equal budget makes more of the smaller it is.

        Args:
            base_share: what `measured_base` has read.
            part: share of the samples that are chosen among, in (0, 1].
        """
        epochs, ratio = self.recipe.epochs, self.pruning.prune_ratio
        if ratio is None:
            return epochs
        if self.pruning.budget == "equal":
            own = base_share if base_share is not None else getattr(self.pruning.chosen_policy, "prune_ratio", 0.0)
            return budget.equal_epochs(epochs, ratio, 1 - part + part * own)
        return epochs if base_share is None else budget.calibrated_epochs(epochs, ratio, base_share)

    def training_samples(self, whole: int) -> int | None:
        """At how many training samples the equal budget stops, of a data set of so many; None for no limit."""
        if self.pruning.budget != "equal" or self.pruning.prune_ratio is None:
            return None
        return budget.training_samples(self.recipe.epochs, self.pruning.prune_ratio, whole)

    def model_for(self, input_shape: tuple[int, ...]) -> str:
        """The network's name: as given, the recipe's, or what fits samples of this shape."""
        return self.network.model or self.recipe.model or ("mlp" if len(input_shape) == 1 else "resnet18")

    def stored(self, base_share: float | None) -> dict[str, Any]:
        """The settings that a resumed run must share, flat, as plain values: all but where and how fast it runs.

        Args:
            base_share: what `measured_base` has read.

        Raises:
            FileNotFoundError, ValueError: as `decided_by`.
        """
        return {
            "version": VERSION,
            **{name: _plain(name, value) for name, value in self.options().items() if name not in _PLACES},
            "labels_digest": self.decided_by(),
            "base_pruned_share": base_share,
        }

    def options(self) -> dict[str, Any]:
        """All settings by their flat names: values, and the records of methods and recipe."""
        return {name: self._setting(name) for name in _GROUP_OF}

    def with_settings(self, **settings: Any) -> TrainConfig:
        """The configuration with some settings replaced, by their flat names.

        Raises:
            ValueError: for a name that there is not, with the nearest, and for values out of range.
        """
        changes: dict[str, dict[str, Any]] = {}
        for name, value in settings.items():
            choice("setting", name, _GROUP_OF)
            changes.setdefault(_GROUP_OF[name], {})[name] = value
        own = changes.pop("", {})
        return replace(self, **own, **{group: replace(getattr(self, group), **new) for group, new in changes.items()})

    def _setting(self, name: str) -> Any:
        group = _GROUP_OF[name]
        return getattr(getattr(self, group) if group else self, name)


VERSION = 2
"""Of config.json: raised when a setting changes its name or its meaning."""

_GROUPS: dict[str, type] = {
    "data": DataSettings,
    "pruning": PruningSettings,
    "network": NetworkSettings,
    "kept": KeptWeights,
    "earlier": EarlierRuns,
    "outputs": Outputs,
    "machine": MachineSettings,
    "place": Place,
}

# By the flat name of a setting the group that it belongs to; "" for none.
_GROUP_OF: dict[str, str] = {
    **{field.name: group for group, record in _GROUPS.items() for field in fields(record)},
    **{field.name: "" for field in fields(TrainConfig) if field.name not in _GROUPS},
}

SETTINGS: dict[str, Any] = {
    name: hint
    for record in (*_GROUPS.values(), TrainConfig)
    for name, hint in get_type_hints(record).items()
    if name in _GROUP_OF
}
"""By the flat name of a setting its type."""


def kinds_of(config: TrainConfig) -> dict[str, Any]:
    """By the flat name of a setting its type; of a record the one that the configuration has."""
    values = config.options()
    return {name: type(values[name]) if is_dataclass(values[name]) else kind for name, kind in SETTINGS.items()}


# Where a run takes place, who watches it, how often it is stored and what it was made from by hand: a resumed run may
# differ in these. On another number of devices it goes on too: the recipe's batch is that of all together, and the
# draws are by sample.
_PLACES = {
    "device",
    "devices",
    "rank_timeout",
    "compile",
    "workers",
    "data_root",
    "out",
    "resume",
    "track",
    "checkpoint_every",
    "base_run",
    "proxy",
    "cross_validation",
    "self_supervised",
}

_PATHS = {
    "labels",
    "feature_weights",
    "sentence_model",
    "base_run",
    "proxy",
    "cross_validation",
    "self_supervised",
    "data_root",
    "out",
}


def _plain(name: str, value: Any) -> Any:
    """A setting as config.json holds it: a record with its kind, where there are several kinds."""
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return asdict(value) if name == "recipe" else {"kind": type(value).__name__, **asdict(value)}


def default_config(
    dataset: str, method: str, recipe: str | None = None, loss: str | None = None, features: str | None = None
) -> TrainConfig:
    """The configuration that the named method and recipe stand for.

    Args:
        dataset: as in `DataSettings`.
        method: a name of `alignprune.presets.PRESETS` or `alignprune.coresets.CORESETS`.
        recipe: a name of `alignprune.bench.recipes.RECIPES`; None = the data set's, or that of features.
        loss: a name of `alignprune.losses.LOSSES`; None = cross-entropy.
        features: as in `DataSettings`; None trains on the samples themselves.

    Raises:
        ValueError: for a name that there is not, with the nearest.
    """
    choice("method", method, [*presets.PRESETS, *coresets.CORESETS])
    static = method in coresets.CORESETS
    preset = presets.get("full" if static else method)
    data = DataSettings(dataset, features=cast(Features, features or "none"))
    own = _RECIPE_OF.get(dataset, "sgd") if data.features == "none" else "features"
    return TrainConfig(
        data=data,
        pruning=PruningSettings(
            method=method,
            score=preset.score,
            policy=preset.policy,
            delta=preset.delta,
            coreset=coresets.get(method).settings if static else None,
            loss=None if loss is None else losses.get(loss).settings,
            prune_ratio=0.5 if static else None,
        ),
        recipe=recipes.get(recipe or own),
    )


def configure(settings: Mapping[str, Any]) -> TrainConfig:
    """The configuration of flat settings, as the cells of an experiment hold them.

    Args:
        settings: values by their option's name with dots, such as {"dataset": "cifar100n", "method": "infobatch",
            "recipe.epochs": 30, "score.window": 10}; ``recipe``, ``loss`` and ``features`` by name; paths as text.

    Raises:
        ValueError: for a name that there is not, with the nearest, and for values out of range.
    """
    rest = dict(settings)
    chosen = (rest.pop(name, None) for name in ("recipe", "loss", "features"))
    config = default_config(str(rest.pop("dataset")), str(rest.pop("method")), *chosen)
    flat: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for name, value in rest.items():
        head, _, tail = name.partition(".")
        choice("setting", head, _GROUP_OF)
        if tail:
            nested.setdefault(head, {})[tail] = value
        else:
            flat[head] = Path(value) if head in _PATHS and value is not None else value
    changed = {head: _changed(config, head, changes) for head, changes in nested.items()}
    return config.with_settings(**flat, **changed)


def _changed(config: TrainConfig, head: str, changes: Mapping[str, Any]) -> Any:
    """The record of that name with some of its settings replaced."""
    record = config._setting(head)
    known = [field.name for field in fields(record)] if is_dataclass(record) else []
    if not known:
        name, value = next(iter(changes.items()))
        other = "name a loss" if head == "loss" else "choose another method"
        raise ValueMistake(
            f"{head}.{name}={value!r} is given, but {config.pruning.method} has no {head} settings, expected none: "
            f"leave it out, or {other}"
        )
    for name in changes:
        choice("setting", name, known)
    return replace(record, **changes)
