"""skorch: what is read, what is recorded, how it resumes, and what mistakes report."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

import alignprune as ap

pytest.importorskip("skorch", reason="skorch is not installed")
from sklearn.base import clone
from skorch import NeuralNet, NeuralNetClassifier
from skorch.callbacks import Callback, LRScheduler
from skorch.dataset import Dataset
from skorch.helper import predefined_split

from alignprune.integrations.skorch import Pruned

N, EPOCHS, BATCH = 77, 5, 8
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0)).numpy()
Y = np.arange(N) % 3


class Net(Pruned, NeuralNetClassifier):
    pass


class Read(Callback):
    """Which samples were read in each epoch; stops in the middle of one where it is asked to."""

    def __init__(self, stop: tuple[int, int] | None = None) -> None:
        self.stop = stop
        self.batches: dict[int, list[list[int]]] = {}
        self.kept: dict[int, list[int]] = {}

    def on_batch_end(self, net: Any, batch: Any = None, training: bool = False, **_: Any) -> None:
        if not training:
            return
        epoch = net.pruner.epoch
        self.kept[epoch] = net.pruner.selection.indices.tolist()
        self.batches.setdefault(epoch, []).append(batch[0].tolist())
        if (epoch, len(self.batches[epoch])) == self.stop:
            raise KeyboardInterrupt


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 3))


def pruner_of(preset: str = "infobatch", size: int = N) -> ap.Pruner:
    settings: dict[str, Any] = {"window": 2} if preset.endswith("das") else {}
    return ap.Pruner.from_preset(preset, num_samples=size, epochs=EPOCHS, delta=1.0, **settings)


def net_of(pruner: ap.Pruner, *callbacks: Any, **settings: Any) -> Net:
    every: dict[str, Any] = {
        "criterion": nn.CrossEntropyLoss,
        "criterion__reduction": "none",
        "optimizer__momentum": 0.9,
        "lr": 0.3,
        "max_epochs": EPOCHS,
        "batch_size": BATCH,
        "train_split": None,
        "callbacks": list(callbacks),
        "verbose": 0,
    }
    return Net(module(), pruner=pruner, **{**every, **settings})


def by_hand(rate: Any = None) -> tuple[dict[str, torch.Tensor], ap.Pruner]:
    """The same training in a plain loop; ``rate`` is the learning rate at a share of the training."""
    pruner, model = pruner_of(), module()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    data = ap.Indexed(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)))
    loader = DataLoader(data, sampler=pruner.sampler, batch_size=BATCH)
    for _ in range(EPOCHS):
        for index, (x, y) in loader:
            if rate is not None:
                optimizer.param_groups[0]["lr"] = rate(pruner.progress)
            optimizer.zero_grad()
            pruner.reduce(index, F.cross_entropy(model(x), y, reduction="none")).backward()
            optimizer.step()
        pruner.end_epoch()
    return model.state_dict(), pruner


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# -------------------------------------------------------------------------- what is read and recorded


class Itself(nn.Module):
    """The loss of a sample is its first number, whatever the weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0] + 0.0 * self.weight


class Output(nn.Module):
    def forward(self, prediction: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return prediction


@pytest.mark.parametrize("workers", [0, 1])
def test_every_selected_sample_is_read_once_and_its_loss_stands_at_its_index(workers: int) -> None:
    class Plain(Pruned, NeuralNet):
        def on_epoch_end(self, net: Any, **datasets: Any) -> None:
            kept = self.pruner.selection.indices
            super().on_epoch_end(net, **datasets)
            row = self.pruner.memory(ap.TrajectoryBank).losses[-1]
            assert torch.equal(row[kept], torch.from_numpy(X[:, 0])[kept])

    pruner, read = pruner_of(), Read()
    settings = {"iterator_train__multiprocessing_context": "fork"} if workers else {}
    net = Plain(
        Itself,
        Output,
        pruner=pruner,
        max_epochs=EPOCHS,
        batch_size=BATCH,
        train_split=None,
        verbose=0,
        callbacks=[read],
        iterator_train__num_workers=workers,
        **settings,
    )
    net.fit(X, Y)
    for epoch in range(EPOCHS):
        assert sorted(sample for batch in read.batches[epoch] for sample in batch) == read.kept[epoch]
    assert min(map(len, read.kept.values())) < N
    assert pruner.epoch == EPOCHS


def test_a_net_trains_as_a_plain_loop() -> None:
    net = net_of(pruner_of()).fit(X, Y)
    weights, pruner = by_hand()
    assert same(net.module_.state_dict(), weights)
    assert torch.equal(net.pruner.scores, pruner.scores)


def test_validation_and_prediction_read_everything_without_pruning() -> None:
    valid = Dataset(X[:30], Y[:30])
    net = net_of(pruner_of(), train_split=predefined_split(valid)).fit(X, Y)
    logits = net.module_(torch.from_numpy(X[:30]))
    assert net.history[-1, "valid_loss"] == pytest.approx(F.cross_entropy(logits, torch.from_numpy(Y[:30])).item())
    assert net.predict_proba(X).shape == (N, 3)
    assert same(net.module_.state_dict(), by_hand()[0])


def test_a_reference_is_measured_after_every_epoch() -> None:
    clean = TensorDataset(torch.from_numpy(X[:20]), torch.from_numpy(Y[:20]))
    reference = ap.Reference.subset(clean)
    net = net_of(pruner_of("infobatch+das"), reference=reference).fit(X, Y)
    assert net.pruner.reference[1:].isfinite().all()
    assert net.pruner.reference[-1] == pytest.approx(reference.loss(net.module_))


def test_a_paced_schedule_follows_the_training_to_its_end() -> None:
    pruner = pruner_of()
    steps = pruner.planned_steps(BATCH)

    def rate(step: int) -> float:
        return 1 - 0.9 * step / steps

    class Paced(LRScheduler):
        def on_train_end(self, net: Any, **_: Any) -> None:
            rates.append(self.lr_scheduler_.get_last_lr()[0])

    rates: list[float] = []
    schedule = Paced(
        policy=lambda optimizer, last_epoch: ap.PacedScheduler(LambdaLR(optimizer, rate), pruner, steps),
        step_every="batch",
    )
    net = net_of(pruner, schedule).fit(X, Y)
    assert rates == pytest.approx([0.3 * 0.1])
    weights, _ = by_hand(lambda progress: 0.3 * rate(int(progress * steps)))
    for name, weight in net.module_.state_dict().items():
        torch.testing.assert_close(weight, weights[name])


# -------------------------------------------------------------------------- interrupted and resumed


@pytest.mark.parametrize("stop", [(0, 1), (0, 10), (1, 3), (4, 2)])
def test_a_net_that_was_interrupted_goes_on_bit_for_bit_from_its_files(stop: tuple[int, int], tmp_path: Any) -> None:
    stopped = net_of(pruner_of(), Read(stop)).fit(X, Y)  # skorch stops in peace at an interrupt
    assert (stopped.pruner.epoch, stopped.pruner.progress > 0) == (stop[0], True)
    stopped.save_params(f_params=tmp_path / "model.pt", f_optimizer=tmp_path / "optimizer.pt")
    torch.save(stopped.pruner.state_dict(), tmp_path / "pruner.pt")

    read = Read()
    again = net_of(pruner_of(), read)
    again.initialize().load_params(f_params=tmp_path / "model.pt", f_optimizer=tmp_path / "optimizer.pt")
    again.pruner.load_state_dict(torch.load(tmp_path / "pruner.pt", weights_only=True))
    again.partial_fit(X, Y, epochs=EPOCHS - again.pruner.epoch)

    weights, pruner = by_hand()
    assert same(again.module_.state_dict(), weights)
    assert torch.equal(again.pruner.scores, pruner.scores)
    whole = net_of(pruner_of(), Read()).fit(X, Y).callbacks[0].batches
    assert read.batches.get(stop[0], []) == whole[stop[0]][stop[1] :]


def test_a_net_that_was_interrupted_goes_on_in_the_same_process() -> None:
    net = net_of(pruner_of(), Read((1, 2))).fit(X, Y)
    net.pruner.load_state_dict(net.pruner.state_dict())  # the sampler begins where the net stopped
    net.set_params(callbacks=[])
    net.partial_fit(X, Y, epochs=EPOCHS - net.pruner.epoch)
    assert same(net.module_.state_dict(), by_hand()[0])


def test_a_net_that_is_cloned_has_a_pruner_of_its_own() -> None:
    net = net_of(pruner_of())
    twin = clone(net).fit(X, Y)
    assert (net.pruner.epoch, twin.pruner.epoch) == (0, EPOCHS)
    assert same(twin.module_.state_dict(), by_hand()[0])


# -------------------------------------------------------------------------- mistakes


def test_a_split_that_takes_samples_away_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dataset has \d+ samples, expected num_samples=77"):
        Net(module(), pruner=pruner_of(), criterion__reduction="none", verbose=0).fit(X, Y)


def test_averaged_losses_are_refused() -> None:
    with pytest.raises(ValueError, match="reduction='none'"):
        net_of(pruner_of(), criterion__reduction="mean").fit(X, Y)


def test_a_sampler_of_another_make_is_refused() -> None:
    with pytest.raises(ValueError, match="sampler"):
        net_of(pruner_of(), iterator_train__shuffle=True).fit(X, Y)


def test_a_loader_of_another_make_is_refused() -> None:
    class Other(DataLoader[Any]):
        pass

    with pytest.raises(ValueError, match="iterator_train=.*Other.*expected torch's DataLoader"):
        net_of(pruner_of(), iterator_train=Other).fit(X, Y)


def test_more_epochs_than_the_pruner_has_are_refused() -> None:
    with pytest.raises(RuntimeError, match="all 5 epochs have ended"):
        net_of(pruner_of(), max_epochs=EPOCHS + 1).fit(X, Y)


def test_an_interrupt_without_a_resume_is_reported() -> None:
    net = net_of(pruner_of(), Read((1, 2))).fit(X, Y)
    net.set_params(callbacks=[])
    with pytest.raises(RuntimeError, match="read in epoch 1 already"):
        net.partial_fit(X, Y, epochs=1)


def test_what_the_network_says_is_recorded_for_the_label_report() -> None:
    pruner = ap.Pruner.from_preset("full", num_samples=N, epochs=EPOCHS, labels=Y)
    network = nn.Linear(3, 3)
    with torch.no_grad():
        network.weight.copy_(torch.eye(3))
        network.bias.zero_()
    net = Net(network, pruner=pruner, criterion=nn.CrossEntropyLoss, criterion__reduction="none", lr=0.0,
              max_epochs=EPOCHS, batch_size=BATCH, train_split=None, verbose=0)  # fmt: skip
    net.fit(X, Y)
    journal, said = pruner.memory(ap.memory.Journal), X.argmax(1)
    assert (journal.predictions == EPOCHS).all()
    assert journal.agreeing.tolist() == [EPOCHS * int(here == given) for here, given in zip(said, Y, strict=True)]
    assert (journal.alternative.numpy() == np.where(said == Y, -1, said)).all()
