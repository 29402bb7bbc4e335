"""What a run depends on: typed records, made from names, options or the flat settings of an experiment's cell.

The records are plain values and read no file. Options and settings are flat: each name belongs to one record.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args, get_type_hints

import torch
from tyro.conf import Positional, arg

from alignprune import coresets, losses, presets
from alignprune._checks import choice, integer, number
from alignprune.bench import recipes
from alignprune.bench.data.cache import file_digest
from alignprune.bench.recipes import Recipe
from alignprune.bench.run import budget, trackers
from alignprune.bench.run.budget import Budget
from alignprune.errors import MissingFile, ValueMistake
from alignprune.losses import LossSettings
from alignprune.policies import Policy
from alignprune.scores import Score

Precision = Literal["32", "16", "bf16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Features = Literal["none", "pretrained", "sentences", "tfidf"]

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

FEATURES_OF = {"feature_weights": "pretrained", "feature_model": "pretrained", "sentence_model": "sentences"}
"""The features that an option is for."""


@dataclass(frozen=True)
class DataSettings:
    """Which samples.

    Attributes:
        dataset: a named data set, the path of an .npz, .csv, .tsv or .parquet file, a folder with a folder of images
            for each class, or hf:NAME_OR_PATH.
        noise: kind of label noise; None = the data set's own.
        noise_rate: rate of synthetic noise, in [0, 1].
        labels: file of decisions on the given labels (decisions.csv of the label report): samples are relabelled and
            dropped before anything else is done to them; decisions on what a holdout leaves come after it. None leaves
            all as they are given.
        labels_digest: SHA-256 of that file, which config.json has; another file is refused. None takes any.
        imbalance: share of its samples that the last class keeps, in (0, 1]; the first keeps all, those between
            exponentially fewer. None leaves the classes as they are.
        limit: train on a random, class-balanced subset of this size.
        holdout: share of the training set, in (0, 1), that is held out and takes the place of the test set, with its
            given (noisy) labels: for choosing settings without looking at the test set, and for data without one.
        image_size: height and width of photos, and of CIFAR's images, which are enlarged; None = the data set's own, or
            what fits a pretrained network.
        embeddings: word vectors that NEWS is made of: "glove" for those of the extra glove, or a file in GloVe's text
            format; None = trained on the training documents.
        features: train on fixed vectors in the place of the samples: "pretrained" for images by a pretrained network,
            "sentences" for texts by a sentence model, "tfidf" for texts by their weighted word counts.
        feature_weights: file of the pretrained network's weights; None = those of the extra pretrained.
        feature_model: name of the pretrained network in timm; None = tf_efficientnet_lite0.
        sentence_model: folder of the sentence model; None = that of the extra sentences.
        even_batches: cut every epoch into batches of about the same size, instead of ending it in a short one.
    """

    dataset: Positional[str]
    noise: str | None = None
    noise_rate: float | None = None
    labels: Path | None = None
    labels_digest: str | None = None
    imbalance: float | None = None
    limit: int | None = None
    holdout: float | None = None
    image_size: int | None = None
    embeddings: str | None = None
    features: Features = "none"
    feature_weights: Path | None = None
    feature_model: str | None = None
    sentence_model: Path | None = None
    even_batches: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None:
            integer("limit", self.limit, at_least=1, remedy="training samples")
        if self.imbalance is not None and not 0 < self.imbalance <= 1:
            raise ValueMistake(
                f"imbalance={self.imbalance!r} is out of range, expected a number in (0, 1]: 0.1 leaves the last "
                f"class a tenth"
            )
        if self.holdout is not None and not 0 < self.holdout < 1:
            raise ValueMistake(
                f"holdout={self.holdout!r} is out of range, expected a number in (0, 1): 0.1 holds out a tenth"
            )
        if self.labels_digest is not None and self.labels is None:
            raise ValueMistake(
                f"labels_digest={self.labels_digest!r} is given without labels, expected the file that it is of: add "
                f"--labels FILE, or leave it out"
            )
        choice("features", self.features, get_args(Features))
        for name, features in FEATURES_OF.items():
            given = getattr(self, name)
            if given is not None and self.features != features:
                raise ValueMistake(
                    f"{name}={str(given)!r} is given with features={self.features!r}, expected {features!r}: add "
                    f"--features {features}, or leave it out"
                )


@dataclass(frozen=True)
class PruningSettings:
    """Which of the samples are trained on, and by which loss.

    Attributes:
        method: a named method, or a coreset method; its settings follow as score and policy, or coreset.
        score: settings of the score.
        policy: settings of the policy.
        delta: annealing starts at epoch floor(delta * epochs).
        coreset: settings of the coreset method; None for a dynamic method.
        loss: settings of a loss that resists wrong labels; None is cross-entropy with the label smoothing of the
            recipe, which no other loss takes. On the command line: --loss NAME.
        co_teaching: share of wrong labels, in [0, 1): two networks are trained by co-teaching, each of which leaves
            so many samples of a batch out for the other. The first is the trained model. None trains one network.
        prune_ratio: share P of the forward passes of a full training to save, in [0, 1); None leaves a dynamic method
            its own share. Methods without a share of their own run fewer epochs: see base_run.
        budget: "calibrated" takes the epochs from the base method's pruned share, "equal" stops every method at the
            same number of training samples.
        reference: "auto" takes "clean" where the method needs a reference; "clean", "noisy" (random training samples
            with their given labels, the paper's control), "none", a coreset method that chooses a pseudo-clean set
            ("small-loss", "moderate", ...), or a file of training indices (.npy, .pt or .txt).
        reference_size: samples of the reference, at most; at least 10.
        give_labels: whether methods that can use the given labels get them: robust, to separate hard samples from
            wrong ones.
        oracle: train on the samples with right labels only: a bound that no method can know. Shares of forward passes
            and the equal budget stay those of the whole data set.
        without_issues: train without the samples whose label confident learning (cleanlab) flags by a cross-validation.
            Shares of forward passes and the equal budget stay those of the whole data set.
        folds: cross-validate: for each of so many parts of the samples a network is trained on the others, and says
            what it sees in that part (probabilities.npz); None trains one network on all of them.
    """

    method: str
    score: Score
    policy: Policy
    delta: float
    coreset: coresets.Settings | None = None
    loss: LossSettings | None = None
    co_teaching: float | None = None
    prune_ratio: float | None = None
    budget: Budget = "calibrated"
    reference: str = "auto"
    reference_size: int = 10_000
    give_labels: bool = True
    oracle: bool = False
    without_issues: bool = False
    folds: int | None = None

    def __post_init__(self) -> None:
        if self.folds is not None:
            integer("folds", self.folds, at_least=2, remedy="5 trains on four fifths at a time")
        integer("reference_size", self.reference_size, at_least=10, remedy="a smaller mean would be noise")
        if self.co_teaching is not None:
            remedy = "0.4 where two of five labels are wrong"
            number("co_teaching", self.co_teaching, low=0, high=1, open_high=True, remedy=remedy)
            if self.loss is not None:
                raise ValueMistake(
                    f"loss={self.loss!r} is given with co_teaching={self.co_teaching:g}, each of which says what "
                    f"is learned from a batch, expected one of the two: leave the other out"
                )
        if self.prune_ratio is not None:
            number("prune_ratio", self.prune_ratio, low=0, high=1, open_high=True, remedy="0.5 saves half")
        if self.coreset is not None and self.prune_ratio is None:
            raise ValueMistake(
                f"prune_ratio=None is missing with {self.method}, expected the share of the samples that it leaves out "
                f"for good: say it with --prune-ratio 0.5"
            )
        if self.prune_ratio and self.budget == "calibrated" and not self._realises_ratio:
            raise ValueMistake(
                f"prune_ratio={self.prune_ratio:g} is given with {self.method}, which has no share of its own and no "
                f"base to calibrate its epochs by, expected the equal budget: stop it at as many training samples with "
                f"--budget equal"
            )
        if self.oracle and self.without_issues:
            raise ValueMistake(
                "oracle=True is given with without_issues=True, each of which says which labels are right, expected "
                "one of the two: leave the other out"
            )
        chosen = "oracle" if self.oracle else "without_issues"
        if getattr(self, chosen) and self.coreset is not None:
            raise ValueMistake(
                f"{chosen}=True is given with {self.method}, expected a dynamic method, since each chooses the samples "
                f"to train on for good: leave one of them out"
            )
        if getattr(self, chosen) and self.prune_ratio is not None and self.budget == "calibrated":
            raise ValueMistake(
                f"{chosen}=True is given with prune_ratio={self.prune_ratio:g} and the calibrated budget, whose epochs "
                f"are those of the whole data set, expected the equal budget: add --budget equal"
            )
        if self.loss is not None and self.policy.probes:
            raise ValueMistake(
                f"loss={self.loss!r} is given with {self.method}, which chooses inside each batch by cross-entropy "
                f"gradients, expected a method that chooses by epoch: leave --loss out, or choose another method"
            )

    @property
    def chosen_policy(self) -> Policy:
        """The policy, with the prune ratio where it has one itself."""
        if self.prune_ratio is None or not hasattr(self.policy, "prune_ratio"):
            return self.policy
        return replace(self.policy, prune_ratio=self.prune_ratio)  # type: ignore[call-arg]

    @property
    def base(self) -> str | None:
        """The method whose pruned share the epochs have to be calibrated on; None where they are the recipe's."""
        if self.prune_ratio is None or self.coreset is not None:
            return None
        base = presets.get(self.method).base
        return self.method if base is not None and self.budget == "equal" else base

    @property
    def needs_proxy(self) -> bool:
        """Whether its coreset or its pseudo-clean reference is chosen by what a proxy run collected."""
        looks = self.coreset is not None and not isinstance(self.coreset, coresets.Random)
        return looks or self.reference in coresets.CORESETS

    @property
    def _realises_ratio(self) -> bool:
        """Whether a prune ratio is saved by a share of the samples, or by epochs that a base calibrates."""
        return self.coreset is not None or self.base is not None or hasattr(self.policy, "prune_ratio")


@dataclass(frozen=True)
class NetworkSettings:
    """What is trained.

    Attributes:
        model: network; None = the recipe's, else mlp for features and resnet18 for images.
        weights: "pretrained", "packaged", or a file to start from; None = the recipe's, which mostly is random weights.
    """

    model: str | None = None
    weights: str | None = None


@dataclass(frozen=True)
class KeptWeights:
    """Which of the weights that a training goes through are the trained model's.

    Attributes:
        stop_on_holdout: share of the training set, in (0, 1), that is held out with its given (noisy) labels: the
            epoch in which most of them are met is the trained model, and the one that the result judges. None takes
            the last epoch.
        patience: epochs after the best one that end the training; None trains to the end.
        ema: decay, in [0, 1), of an exponential moving average of the weights over the steps, which is judged and is
            the trained model; it rises to that, so that the average looks back over a ninth of the steps at most. The
            method goes on to see the losses of the network itself. None takes the weights as they are.
    """

    stop_on_holdout: float | None = None
    patience: int | None = None
    ema: float | None = None

    def __post_init__(self) -> None:
        if self.stop_on_holdout is not None and not 0 < self.stop_on_holdout < 1:
            raise ValueMistake(
                f"stop_on_holdout={self.stop_on_holdout!r} is out of range, expected a number in (0, 1): 0.1 holds "
                f"out a tenth"
            )
        if self.ema is not None:
            remedy = "0.999 averages about the last thousand steps, and fewer in a short run"
            number("ema", self.ema, low=0, high=1, open_high=True, remedy=remedy)
        if self.patience is not None:
            integer("patience", self.patience, at_least=1, remedy="5 ends the training five epochs after the best")
            if self.stop_on_holdout is None:
                raise ValueMistake(
                    f"patience={self.patience} is given without stop_on_holdout, expected samples that say which epoch "
                    f"is the best: add --stop-on-holdout 0.1, or leave it out"
                )


@dataclass(frozen=True)
class EarlierRuns:
    """What other runs have to have found out before.

    Attributes:
        base_run: folder of a finished run over the recipe's epochs, whose pruned share calibrates the epochs: of the
            base method, or, for the equal budget, of the method itself.
        proxy: folder of a finished run with --collect, which coresets and pseudo-clean references are chosen by; None
            trains one first.
        cross_validation: folder of a finished run with --folds, by whose probabilities labels are flagged that the run
            is to be trained without.
        base_pruned_share: what the base run measured, in place of its folder; config.json has it.
        self_supervised: file of features (.pt, float [N, d]) for the coreset method ssp; None trains them first.
    """

    base_run: Path | None = None
    base_pruned_share: float | None = None
    proxy: Path | None = None
    cross_validation: Path | None = None
    self_supervised: Path | None = None

    def __post_init__(self) -> None:
        if self.base_pruned_share is not None:
            remedy = "take pruned_share of the base run's result.json"
            number("base_pruned_share", self.base_pruned_share, low=0, high=1, open_high=True, remedy=remedy)


@dataclass(frozen=True)
class Outputs:
    """What the run looks at and stores on its way.

    Attributes:
        collect: also store the statistics that coreset methods need (proxy.npz).
        proxy_epochs: after how many epochs of the proxy run these are taken; None = 15 % of them.
        trace: also store every sample's loss and margin in every epoch (trace.npz), for explanations.
        evaluate_every: epochs between two looks at the test set; the last epoch always has one.
        track: "tensorboard" or "trackio": also log every epoch there, on this machine.
        checkpoint_every: store a checkpoint in the middle of an epoch, too: after so many steps (500), or so much time
            (10min, 2h); None = at the end of every epoch, and when the run is asked to end.
    """

    collect: bool = False
    proxy_epochs: int | None = None
    trace: bool = False
    evaluate_every: int = 1
    track: str | None = None
    checkpoint_every: str | None = None

    def __post_init__(self) -> None:
        if self.track is not None:
            choice("track", self.track, trackers.TRACKERS)
        integer("evaluate_every", self.evaluate_every, at_least=1, remedy="1 evaluates after every epoch")


def started_ranks() -> int | None:
    """How many ranks torchrun has started, of which this process is one; None without it."""
    found = torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()
    return int(os.environ["WORLD_SIZE"]) if found else None


@dataclass(frozen=True)
class MachineSettings:
    """Where and how the run computes.

    Attributes:
        device: where to train.
        precision: of the forward and backward pass.
        compile: let torch.compile write code for the network, which takes minutes and a C++ compiler; worth it in long
            runs. Numbers agree to within float error.
        devices: ranks, which are processes of one device each and share a batch; as many as torchrun has started.
        rank_timeout: minutes after which a rank that does not answer ends the run.
        workers: loader processes per device.
        data_root: folder of the named data sets; None = the environment variable ALIGNPRUNE_DATA.
    """

    device: Device = "auto"
    precision: Precision = "32"
    compile: bool = False
    devices: int = field(default_factory=lambda: started_ranks() or 1)
    rank_timeout: float = 10.0
    workers: int = 0
    data_root: Path | None = None

    def __post_init__(self) -> None:
        integer("devices", self.devices, at_least=1, remedy="1 trains in this process")
        number("rank_timeout", self.rank_timeout, low=0.01, high=10_000, remedy="10 waits ten minutes for a rank")
        integer("workers", self.workers, at_least=0, remedy="0 loads in this process")

    @property
    def torch_device(self) -> torch.device:
        """The device of this process; "auto" takes an accelerator where there is one."""
        return torch_device(self.device)


def torch_device(device: Device) -> torch.device:
    """The device of that name; "auto" takes an accelerator where there is one.

    Raises:
        ValueError: for a GPU where torch sees none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueMistake(
            "device='cuda' is given, but torch sees no GPU here, expected one: use --device cpu, or --device auto"
        )
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu")


@dataclass(frozen=True)
class Place:
    """Where the run leaves what it makes.

    Attributes:
        out: the run's folder; None = runs/<data set>-<noise>-<method>-<seed>.
        resume: go on with the run in the folder, or begin one where there is none.
    """

    out: Path | None = None
    resume: bool = False


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
