"""What a run depends on: one typed record, made from names, options or the flat settings of an experiment's cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tyro.conf import Positional

from alignprune import coresets, presets, relabel
from alignprune._checks import choice, integer, number
from alignprune.bench import recipes
from alignprune.bench.recipes import Recipe
from alignprune.bench.run import budget
from alignprune.bench.run.budget import Budget
from alignprune.errors import ValueMistake
from alignprune.policies import Policy
from alignprune.relabel import SOPSettings
from alignprune.scores import Score

Precision = Literal["32", "16", "bf16"]
Device = Literal["auto", "cpu", "cuda", "mps"]

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
}

# Where a run takes place and what it was made from by hand: a resumed run may differ in these.
_PLACES = {"device", "workers", "data_root", "out", "resume", "base_run", "proxy", "self_supervised"}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a run depends on.

    Attributes:
        dataset: a named data set, the path of an .npz file, a folder with train/ and test/, or hf:NAME_OR_PATH.
        method: a named method, or a coreset method; its settings follow as score and policy, or coreset.
        score: settings of the score.
        policy: settings of the policy.
        delta: annealing starts at epoch floor(delta * epochs).
        recipe: optimiser, schedule, epochs, batch size.
        coreset: settings of the coreset method; None for a dynamic method.
        relabel: settings of SOP or SOP+; None trains on the given labels. On the command line: --relabel NAME.
        noise: kind of label noise; None = the data set's own.
        noise_rate: rate of synthetic noise, in [0, 1].
        model: network; None = the recipe's, else mlp for features and resnet18 for images.
        weights: "pretrained", or a file to start from; None = the recipe's, which mostly is random weights.
        prune_ratio: share P of the forward passes of a full training to save, in [0, 1); None leaves a dynamic method
            its own share. Methods without a share of their own run fewer epochs: see base_run.
        budget: "calibrated" takes the epochs from the base method's pruned share, "equal" stops every method at the
            same number of training samples.
        base_run: folder of a finished run over the recipe's epochs, whose pruned share calibrates the epochs: of the
            base method, or, for the equal budget, of the method itself.
        proxy: folder of a finished run with --collect, which coresets and pseudo-clean references are chosen by; None
            trains one first.
        self_supervised: file of features (.pt, float [N, d]) for the coreset method ssp; None trains them first.
        collect: also store the statistics that coreset methods need (proxy.npz).
        trace: also store every sample's loss and margin in every epoch (trace.npz), for explanations.
        oracle: train on the samples with right labels only: a bound that no method can know. Shares of forward passes
            and the equal budget stay those of the whole data set.
        proxy_epochs: after how many epochs of the proxy run these are taken; None = 15 % of them.
        reference: "auto" takes "clean" where the method needs a reference; "clean", "noisy" (random training samples
            with their given labels, the paper's control), "none", a coreset method that chooses a pseudo-clean set
            ("small-loss", "moderate", ...), or a file of training indices (.npy, .pt or .txt).
        reference_size: samples of the reference, at most; at least 10.
        give_labels: whether methods that can use the given labels get them: robust, to tell hard samples from wrong
            ones.
        imbalance: share of its samples that the last class keeps, in (0, 1]; the first keeps all, those between
            exponentially fewer. None leaves the classes as they are.
        limit: train on a random, class-balanced subset of this size.
        holdout: share of the training set, in (0, 1), that is held out and takes the place of the test set, with its
            given (noisy) labels: for choosing settings without looking at the test set.
        seed: of noise, subset, network, order and draws.
        device: where to train.
        precision: of the forward and backward pass.
        devices: processes of one device each; more than one under torchrun.
        even_batches: cut every epoch into batches of about the same size, instead of ending it in a short one.
        workers: loader processes per device.
        image_size: height and width of photos; None = the data set's own.
        evaluate_every: epochs between two looks at the test set; the last epoch always has one.
        data_root: folder of the named data sets; None = the environment variable ALIGNPRUNE_DATA.
        out: the run's folder; None = runs/<data set>-<noise>-<method>-<seed>.
        resume: go on with the run in the folder.
    """

    dataset: Positional[str]
    method: str
    score: Score
    policy: Policy
    delta: float
    recipe: Recipe
    coreset: coresets.Settings | None = None
    relabel: SOPSettings | None = None
    noise: str | None = None
    noise_rate: float | None = None
    model: str | None = None
    weights: str | None = None
    prune_ratio: float | None = None
    budget: Budget = "calibrated"
    base_run: Path | None = None
    proxy: Path | None = None
    self_supervised: Path | None = None
    collect: bool = False
    trace: bool = False
    oracle: bool = False
    proxy_epochs: int | None = None
    reference: str = "auto"
    reference_size: int = 10_000
    give_labels: bool = True
    imbalance: float | None = None
    limit: int | None = None
    holdout: float | None = None
    seed: int = 0
    device: Device = "auto"
    precision: Precision = "32"
    devices: int = 1
    even_batches: bool = False
    workers: int = 0
    image_size: int | None = None
    evaluate_every: int = 1
    data_root: Path | None = None
    out: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        integer("seed", self.seed, at_least=0, remedy="any non-negative integer")
        integer("devices", self.devices, at_least=1, remedy="1 trains in this process")
        integer("workers", self.workers, at_least=0, remedy="0 loads in this process")
        integer("reference_size", self.reference_size, at_least=10, remedy="a smaller mean would be noise")
        integer("evaluate_every", self.evaluate_every, at_least=1, remedy="1 evaluates after every epoch")
        if self.limit is not None:
            integer("limit", self.limit, at_least=1, remedy="training samples")
        if self.imbalance is not None and not 0 < self.imbalance <= 1:
            raise ValueMistake(
                f"imbalance={self.imbalance!r} is out of range, expected a share in (0, 1]: 0.1 leaves the last "
                f"class a tenth"
            )
        if self.holdout is not None and not 0 < self.holdout < 1:
            raise ValueMistake(
                f"holdout={self.holdout!r} is out of range, expected a share in (0, 1): 0.1 holds out a tenth"
            )
        if self.prune_ratio is not None:
            number("prune_ratio", self.prune_ratio, low=0, high=1, open_high=True, remedy="0.5 saves half")
        if self.coreset is not None and self.prune_ratio is None:
            raise ValueMistake(
                f"prune_ratio is missing: {self.method} keeps a share of the samples for good, say which with "
                f"--prune-ratio 0.5"
            )
        if self.prune_ratio and self.budget == "calibrated" and not self._realises_ratio:
            raise ValueMistake(
                f"prune_ratio={self.prune_ratio:g} is given with {self.method}, which has no share of its own and no "
                f"base to calibrate its epochs by: stop it at as many training samples with --budget equal"
            )
        if self.oracle and self.coreset is not None:
            raise ValueMistake(
                f"oracle is given with {self.method}, expected a dynamic method: each chooses the samples to train on "
                f"for good. Leave one of them out"
            )
        if self.oracle and self.prune_ratio is not None and self.budget == "calibrated":
            raise ValueMistake(
                f"oracle is given with prune_ratio={self.prune_ratio:g} and calibrated epochs, which are those of the "
                f"whole data set: add --budget equal"
            )
        if self.trace and self.devices > 1:
            raise ValueMistake(
                f"trace is given on {self.devices} devices, expected one: each would see a part of the samples only"
            )
        whole = self.method == "full" and self.prune_ratio is None and not self.oracle
        if self.collect and (not whole or self.devices > 1):
            raise ValueMistake(
                f"collect is given with {self.method!r} on {self.devices} devices, expected method full on one device, "
                f"without prune ratio and oracle: the proxy run sees every sample in every epoch"
            )
        if self.relabel is not None and self.policy.in_batch:
            raise ValueMistake(
                f"relabel is given with {self.method}, which chooses inside each batch by cross-entropy gradients: "
                f"choose another method"
            )
        if self.relabel is not None and self.precision == "16":
            raise ValueMistake(
                "precision='16' is given with relabel: its scaled gradients would move u and v; choose bf16 or 32"
            )

    @property
    def folder(self) -> Path:
        """The run's folder."""
        if self.out is not None:
            return self.out
        parts = [Path(self.dataset).stem, self.noise or "given", self.method]
        if self.prune_ratio is not None:
            parts.append(f"P{100 * self.prune_ratio:g}")
        return Path("runs") / "-".join([*parts, f"seed{self.seed}"])

    @property
    def torch_device(self) -> torch.device:
        """The device of this process; "auto" takes an accelerator where there is one."""
        if self.device != "auto":
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu")

    @property
    def chosen_policy(self) -> Policy:
        """The policy, with the prune ratio where it has one itself."""
        if self.prune_ratio is None or not hasattr(self.policy, "prune_ratio"):
            return self.policy
        return replace(self.policy, prune_ratio=self.prune_ratio)  # type: ignore[call-arg]

    @property
    def batch_size(self) -> int:
        """Samples that a loader gives in one step, over all devices: so many that about the recipe's are trained on."""
        kept = 1.0 - getattr(self.chosen_policy, "prune_ratio", 0.0) if self.policy.in_batch else 1.0
        return max(1, round(self.recipe.batch_size / kept))

    @property
    def base(self) -> str | None:
        """The method whose pruned share the epochs have to be calibrated on; None where they are the recipe's."""
        if self.prune_ratio is None or self.coreset is not None:
            return None
        base = presets.get(self.method).base
        return self.method if base is not None and self.budget == "equal" else base

    def measured_base(self) -> float | None:
        """Read the mean share of its samples that an epoch of the base run left out; None without a base.

        Raises:
            ValueError: if `base_run` is missing, or another run than the base.
            FileNotFoundError: if the base run is not complete.
        """
        if self.base is None:
            return None
        if self.base_run is None:
            raise ValueMistake(
                f"base_run=None is missing, expected the folder of a run of {self.base}: with a prune ratio "
                f"{self.method} runs as many epochs as its pruned share says. Run {self.base} without --prune-ratio on "
                f"the same data, then add --base-run with its folder (alignprune sweep does both)"
            )
        return budget.measured_share(self.base_run, self.base, self.recipe.epochs)

    def epochs(self, base_share: float | None, part: float = 1.0) -> int:
        """Epochs to train; on a part of the data set, which the equal budget makes more of the smaller it is.

        Args:
            base_share: what `measured_base` has read.
            part: share of the samples that are chosen among, in (0, 1].
        """
        epochs = self.recipe.epochs
        if self.prune_ratio is None:
            return epochs
        if self.budget == "equal":
            own = base_share if base_share is not None else getattr(self.chosen_policy, "prune_ratio", 0.0)
            return budget.equal_epochs(epochs, self.prune_ratio, 1 - part + part * own)
        return epochs if base_share is None else budget.calibrated_epochs(epochs, self.prune_ratio, base_share)

    def training_samples(self, whole: int) -> int | None:
        """At how many training samples the equal budget stops, of a data set of so many; None for no limit."""
        if self.budget != "equal" or self.prune_ratio is None:
            return None
        return budget.training_samples(self.recipe.epochs, self.prune_ratio, whole)

    @property
    def needs_proxy(self) -> bool:
        """Whether its coreset or its pseudo-clean reference is chosen by what a proxy run collected."""
        looks = self.coreset is not None and not isinstance(self.coreset, coresets.Random)
        return looks or (self.score.needs_reference and self.reference in coresets.CORESETS)

    @property
    def recorded_smoothing(self) -> float:
        """Label smoothing of the recorded losses: the recipe's; a run that re-labels records plain cross-entropy."""
        return self.recipe.label_smoothing if self.relabel is None else 0.0

    def model_for(self, input_shape: tuple[int, ...]) -> str:
        """The network's name: as given, the recipe's, or what fits samples of this shape."""
        return self.model or self.recipe.model or ("mlp" if len(input_shape) == 1 else "resnet18")

    def stored(self, base_share: float | None) -> dict[str, Any]:
        """The settings that a resumed run must share, as plain values: all but where and how fast it runs.

        Args:
            base_share: what `measured_base` has read.
        """
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _PLACES}
        named = {"score": self.score, "policy": self.policy, "coreset": self.coreset, "relabel": self.relabel}
        return plain | {
            **{
                name: None if record is None else {"kind": type(record).__name__, **asdict(record)}
                for name, record in named.items()
            },
            "recipe": asdict(self.recipe),
            "base_pruned_share": base_share,
        }

    @property
    def _realises_ratio(self) -> bool:
        """Whether a prune ratio is saved by a share of the samples, or by epochs that a base calibrates."""
        return self.coreset is not None or self.base is not None or hasattr(self.policy, "prune_ratio")


def default_config(dataset: str, method: str, recipe: str | None = None) -> TrainConfig:
    """The configuration that the named method and recipe stand for.

    Args:
        dataset: as in `TrainConfig`.
        method: a name of `alignprune.presets.PRESETS` or `alignprune.coresets.CORESETS`.
        recipe: a name of `alignprune.bench.recipes.RECIPES`; None = the data set's.
    """
    choice("method", method, [*presets.PRESETS, *coresets.CORESETS])
    static = method in coresets.CORESETS
    preset = presets.get("full" if static else method)
    return TrainConfig(
        dataset=dataset,
        method=method,
        score=preset.score,
        policy=preset.policy,
        delta=preset.delta,
        recipe=recipes.get(recipe or _RECIPE_OF.get(dataset, "sgd")),
        coreset=coresets.get(method).settings if static else None,
        prune_ratio=0.5 if static else None,
    )


def relabelling(name: str) -> SOPSettings:
    """The published settings of SOP or SOP+ of that name; an unknown one raises ValueError with the nearest."""
    choice("relabel", name, relabel.SETTINGS)
    return relabel.SETTINGS[name]


def configure(settings: Mapping[str, Any]) -> TrainConfig:
    """The configuration of flat settings, as the cells of an experiment hold them.

    Args:
        settings: values by their option's name with dots, such as {"dataset": "cifar100n", "method": "infobatch",
            "recipe.epochs": 30, "score.window": 10}; ``recipe`` and ``relabel`` by name; paths as text.

    Raises:
        ValueError: for a name that there is not, with the nearest, and for values out of range.
    """
    rest = dict(settings)
    config = default_config(str(rest.pop("dataset")), str(rest.pop("method")), rest.pop("recipe", None))
    if "relabel" in rest:
        config = replace(config, relabel=relabelling(rest.pop("relabel")))
    nested: dict[str, dict[str, Any]] = {}
    flat: dict[str, Any] = {}
    for name, value in rest.items():
        head, _, tail = name.partition(".")
        choice("setting", head, [field.name for field in fields(TrainConfig)])
        if tail:
            nested.setdefault(head, {})[tail] = value
        else:
            is_path = head in {"base_run", "proxy", "self_supervised", "data_root", "out"} and value is not None
            flat[head] = Path(value) if is_path else value
    for head, changes in nested.items():
        record = getattr(config, head)
        known = [field.name for field in fields(record)] if is_dataclass(record) else []
        if not known:
            raise ValueMistake(f"{head}.{next(iter(changes))} is given, but {config.method} has no {head} settings")
        for tail in changes:
            choice(f"setting of {head}", tail, known)
        flat[head] = replace(record, **changes)
    return replace(config, **flat)
