"""What a run is told, by subject: typed records, each of which refuses what its own values cannot be.

The records are plain values and read no file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
from tyro.conf import Positional, arg

from alignprune import coresets, presets
from alignprune._checks import choice, integer, number
from alignprune.bench.run import trackers
from alignprune.bench.run.budget import Budget
from alignprune.errors import ValueMistake
from alignprune.losses import LossSettings
from alignprune.policies import Policy
from alignprune.scores import Score

Precision = Literal["32", "16", "bf16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Features = Literal["none", "pretrained", "sentences", "tfidf"]

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

    dataset: Annotated[str, Positional, arg(metavar="DATASET", help_behavior_hint="(required)")]
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
        with_a_ratio: Any = self.policy
        chosen: Policy = replace(with_a_ratio, prune_ratio=self.prune_ratio)
        return chosen

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
