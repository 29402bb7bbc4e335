"""Modes that a caller has switched on for the network: they change nothing of what is recorded and chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.utils.checkpoint import checkpoint

import alignprune as ap
from alignprune import coresets
from alignprune.memory import BankSpec, MemorySpec
from alignprune.scores import History, Score

N, EPOCHS, BATCH = 60, 6, 16
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3
every_preset = pytest.mark.parametrize("name", list(ap.PRESETS))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def begun(name: str = "infobatch", epochs: int = 1, **settings: Any) -> ap.Pruner:
    """A pruner in a later epoch, which leaves samples out and has weights."""
    pruner = ap.Pruner.from_preset(name, num_samples=N, epochs=EPOCHS, **settings)
    for epoch in range(epochs):
        for index in batches(pruner):
            pruner.reduce(index, known_losses(epoch, index))
        pruner.end_epoch()
    return pruner


def known_losses(epoch: int, index: Tensor) -> Tensor:
    return ((index * 7 + epoch * 13) % 31 + 1) / 8


def batches(pruner: ap.Pruner) -> list[Tensor]:
    return list(torch.tensor(list(pruner.sampler)).split(BATCH))


Step = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class Run:
    """What a training did: its losses, and what each epoch selected, bit for bit."""

    losses: list[float]
    selections: list[Any]
    scores: list[Tensor]


def train(name: str, wrapped: Callable[[Step], Step] = lambda step: step, **settings: Any) -> Run:
    """A whole training whose step, from the inputs to the loss, is wrapped."""
    model, run = network(), Run([], [], [])
    pruner = ap.Pruner.from_preset(name, num_samples=N, epochs=EPOCHS, labels=Y, **settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def step(index: Tensor, x: Tensor, y: Tensor) -> Tensor:
        logits = model(x)
        if pruner.score.needs_batches:
            return pruner.reduce_batch(index, F.cross_entropy(logits, y))
        return pruner.reduce(index, F.cross_entropy(logits, y, reduction="none"))

    taken = wrapped(step)
    for epoch in range(EPOCHS):
        for index in batches(pruner):
            if isinstance(pruner.policy, ap.BatchPolicy):
                with torch.no_grad():
                    index = index[pruner.choose(index, logits=model(X[index]), features=X[index], labels=Y[index])]
            loss = taken(index, X[index], Y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.losses.append(loss.item())
        if pruner.score.needs_pruned and len(pruner.pruned_sampler):
            left_out = pruner.selection.pruned
            with torch.no_grad():
                pruner.record(left_out, F.cross_entropy(model(X[left_out]), Y[left_out], reduction="none"))
        pruner.end_epoch(1 / (epoch + 1) if pruner.needs_reference else None)
        run.selections.append((pruner.selection.indices.tolist(), pruner.selection.dense_weights()))
        run.scores.append(pruner.scores)
    return run


def same(one: Any, other: Any) -> bool:
    """Equality to the bit; NaN equals NaN."""
    if isinstance(one, Tensor):
        return torch.equal(one.nan_to_num(-9), other.nan_to_num(-9))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


# -------------------------------------------------------------------------- torch.compile


@every_preset
def test_a_compiled_step_records_and_selects_bit_for_bit(name: str) -> None:
    torch._dynamo.reset()
    plain, compiled = train(name), train(name, lambda step: torch.compile(step, backend="eager", dynamic=True))
    assert same(compiled.selections, plain.selections)
    assert same(compiled.scores, plain.scores)
    assert compiled.losses == plain.losses


def test_a_step_whose_gradient_is_compiled_too_selects_the_same_and_comes_to_the_same_losses() -> None:
    """By the graphs of AOTAutograd; to make C++ of them, as Inductor does, takes half a minute and changes no call."""
    torch._dynamo.reset()
    plain = train("infobatch+das")
    compiled = train("infobatch+das", lambda step: torch.compile(step, backend="aot_eager", dynamic=True))
    assert [indices for indices, _ in compiled.selections] == [indices for indices, _ in plain.selections]
    torch.testing.assert_close(compiled.losses, plain.losses, rtol=1e-5, atol=1e-6)
    assert min(len(indices) for indices, _ in plain.selections) < N


def test_reduce_stands_between_two_graphs_and_is_the_only_break() -> None:
    torch._dynamo.reset()
    model, pruner, counter = network(), begun(), CompileCounter()
    index = batches(pruner)[0]

    def step(index: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return 2 * pruner.reduce(index, F.cross_entropy(model(x), y, reduction="none"))

    explained = torch._dynamo.explain(step)(index, X[index], Y[index])
    assert (explained.graph_count, explained.graph_break_count) == (2, 1)
    assert len(explained.break_reasons) == 1
    torch._dynamo.reset()
    pruner, counted = begun(epochs=0), torch.compile(step, backend=counter, dynamic=True)
    graphs = []
    for _ in range(3):
        for index in batches(pruner):
            counted(index, X[index], Y[index])
        pruner.end_epoch()
        graphs.append(counter.frame_count)
    assert graphs[0] == graphs[2]  # no epoch and no count of samples is traced into a graph


def test_a_graph_without_a_break_is_refused_by_the_compiler_itself() -> None:
    torch._dynamo.reset()
    pruner = begun()
    index = batches(pruner)[0]
    step = torch.compile(lambda losses: pruner.reduce(index, losses), backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"reduce"):
        step(torch.ones(BATCH))
    assert pruner.state_dict()["read"] == 0


def test_the_end_of_an_epoch_inside_a_compiled_function_is_left_to_run_as_it_is() -> None:
    torch._dynamo.reset()
    pruner, plain = begun(), begun()

    def last_step(pruner: ap.Pruner, index: Tensor, losses: Tensor) -> Tensor:
        mean = pruner.reduce(index, losses)
        pruner.end_epoch()
        return mean

    everything = pruner.selection.indices
    means = [
        step(each, everything, known_losses(1, everything))
        for each, step in ((plain, last_step), (pruner, torch.compile(last_step, backend="eager")))
    ]
    assert pruner.epoch == plain.epoch == 2
    assert same(*means)
    assert same(pruner.selection.indices, plain.selection.indices)


# -------------------------------------------------------------------------- torch.func

TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor]], Any]] = {
    "vmap": lambda loss: torch.func.vmap(loss)(torch.ones(3, BATCH)),
    "grad": lambda loss: torch.func.grad(loss)(torch.ones(BATCH)),
    "jvp": lambda loss: torch.func.jvp(loss, (torch.ones(BATCH),), (torch.ones(BATCH),)),
    "hessian": lambda loss: torch.func.hessian(loss)(torch.ones(BATCH)),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_inside_a_transform_of_torch_func_nothing_can_be_recorded_and_nothing_is(transform: str) -> None:
    pruner = begun()
    index = batches(pruner)[0]
    with pytest.raises(ap.errors.CallMistake, match=r"pruner.reduce is called inside a transform of torch.func, exp"):
        TRANSFORMS[transform](lambda losses: pruner.reduce(index, losses))
    assert pruner.state_dict()["read"] == 0
    pruner.reduce(index, torch.ones(BATCH))  # outside, the batch can be read


def test_the_gradients_of_a_functional_step_come_through_vjp() -> None:
    model, (pruner, other) = network(), (begun(), begun())
    index = batches(pruner)[0]
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def losses_of(parameters: dict[str, Tensor]) -> Tensor:
        logits = torch.func.functional_call(model, parameters, (X[index],))
        return F.cross_entropy(logits, Y[index], reduction="none")

    losses, pull = torch.func.vjp(losses_of, parameters)
    leaf = losses.detach().requires_grad_()
    pruner.reduce(index, leaf).backward()
    (gradients,) = pull(leaf.grad)
    other.reduce(index, F.cross_entropy(model(X[index]), Y[index], reduction="none")).backward()
    for name, value in model.named_parameters():
        assert value.grad is not None
        torch.testing.assert_close(gradients[name], value.grad)
    assert same(pruner.state_dict()["losses"], other.state_dict()["losses"])


def test_losses_of_an_ensemble_by_vmap_are_reduced_outside_of_it() -> None:
    models = [network(), network()]
    parameters, _ = torch.func.stack_module_state(models)
    pruner, other = begun(), begun()
    index = batches(pruner)[0]

    def losses_of(parameters: dict[str, Tensor]) -> Tensor:
        logits = torch.func.functional_call(models[0], parameters, (X[index],))
        return F.cross_entropy(logits, Y[index], reduction="none")

    losses = torch.func.vmap(losses_of)(parameters)
    mean = pruner.reduce(index, losses.mean(0))
    expected = other.reduce(index, F.cross_entropy(models[0](X[index]), Y[index], reduction="none"))
    torch.testing.assert_close(mean, expected)  # the two models are equal


# -------------------------------------------------------------------------- autocast


@every_preset
def test_a_step_under_autocast_records_the_losses_that_it_is_given(name: str) -> None:
    def under_autocast(step: Step) -> Step:
        def wrapped(index: Tensor, x: Tensor, y: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return step(index, x, y)

        return wrapped

    low, plain = train(name, under_autocast), train(name)
    assert all(map(math.isfinite, low.losses))
    torch.testing.assert_close(low.losses[0], plain.losses[0], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_losses_are_averaged_and_recorded_in_full_precision(dtype: torch.dtype) -> None:
    pruner = begun()
    index = batches(pruner)[0]
    losses = (known_losses(1, index) * 100).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        mean = pruner.reduce(index, losses)
    weights = pruner.selection.dense_weights()[index]  # type: ignore[index]
    assert mean.dtype == torch.float32
    assert mean.item() == pytest.approx(float((weights * losses.detach().float()).mean()), rel=1e-6)
    assert torch.equal(pruner.state_dict()["losses"][index], losses.detach().float())
    mean.backward()
    assert losses.grad is not None
    torch.testing.assert_close(losses.grad, (weights / BATCH).to(dtype))


def test_a_choice_inside_the_batch_is_that_of_full_precision_whatever_autocast_says() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, features = 3 * torch.randn(32, 5, generator=generator), torch.randn(32, 64, generator=generator)
    chosen = []
    for enabled in (False, True):
        pruner = ap.Pruner.from_preset("divbs", num_samples=N, epochs=EPOCHS, pick="argmax")
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            index = torch.arange(32)
            chosen.append(pruner.choose(index, logits=logits, features=features, labels=index % 5).tolist())
    assert chosen[0] == chosen[1]


@dataclass(frozen=True)
class Projected(Score):
    """A score of a user's own whose numbers a matrix product decides."""

    suspect: ClassVar[Any] = "high"

    @property
    def memories(self) -> tuple[MemorySpec, ...]:
        return (BankSpec(4),)

    def __call__(self, history: History) -> Tensor:
        losses = history.memory(ap.TrajectoryBank).losses
        return (torch.ones(1, len(losses)) @ losses)[0]


@pytest.mark.parametrize("score", [Projected(), ap.scores.Alignment(window=4)], ids=["own", "alignment"])
def test_the_end_of_an_epoch_under_autocast_scores_in_full_precision(score: Score) -> None:
    scores = []
    for enabled in (False, True):
        pruner = ap.Pruner(N, EPOCHS, score, ap.policies.Full())
        for epoch in range(4):
            for index in batches(pruner):
                pruner.reduce(index, known_losses(epoch, index) + 1e-3 * index)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                pruner.end_epoch(1 / (epoch + 1) if pruner.needs_reference else None)
        scores.append(pruner.scores)
    assert same(scores[0], scores[1])


BACKENDS = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None), torch.backends]
"""Where torch keeps the precision of products since 2.9, the last one for all that have none of their own."""

REDUCED: dict[str, Callable[[], Any]] = {
    "one word": lambda: torch.set_float32_matmul_precision("medium"),
    "cuda by the old name": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
}
if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
    REDUCED |= {
        "cuda": lambda: setattr(BACKENDS[0], "fp32_precision", "tf32"),
        "mkldnn": lambda: setattr(BACKENDS[1], "fp32_precision", "bf16"),
        "all backends": lambda: setattr(BACKENDS[2], "fp32_precision", "tf32"),
    }


@pytest.fixture
def precisions() -> Iterator[Callable[[], list[str]]]:
    """Gives the precisions that are set, and sets them back."""
    new = hasattr(torch.backends.cuda.matmul, "fp32_precision")
    before = [backend.fp32_precision for backend in BACKENDS] if new else [torch.get_float32_matmul_precision()]
    yield lambda: [backend.fp32_precision for backend in BACKENDS] if new else [torch.get_float32_matmul_precision()]
    torch.backends.cuda.matmul.allow_tf32 = False
    if new:
        for backend, precision in zip(BACKENDS, before, strict=True):
            backend.fp32_precision = precision
    else:
        torch.set_float32_matmul_precision(before[0])


@pytest.mark.parametrize("way", REDUCED)
@pytest.mark.parametrize("name", ["infobatch+das", "divbs", "robust"])
def test_a_reduced_precision_of_products_is_neither_followed_nor_changed(
    name: str, way: str, precisions: Callable[[], list[str]]
) -> None:
    runs = []
    for reduce_it in (lambda: None, REDUCED[way]):
        reduce_it()
        found = precisions()
        pruner = ap.Pruner.from_preset(name, num_samples=N, epochs=EPOCHS)
        for epoch in range(EPOCHS):
            for index in batches(pruner):
                if isinstance(pruner.policy, ap.BatchPolicy):
                    index = index[pruner.choose(index, logits=X[index], features=X[index], labels=Y[index])]
                pruner.reduce(index, known_losses(epoch, index))
            pruner.end_epoch(1 / (epoch + 1) if pruner.needs_reference else None)
        assert precisions() == found
        runs.append((pruner.selection.indices, pruner.scores))
    assert same(*runs)


@pytest.mark.skipif(len(REDUCED) == 2, reason="torch before 2.9 has one precision for all")
def test_a_precision_for_all_backends_is_still_that_of_each_after_an_epoch(precisions: Callable[[], Any]) -> None:
    pruner = begun("infobatch", epochs=1)
    torch.backends.fp32_precision = "tf32"
    for index in batches(pruner):
        pruner.reduce(index, known_losses(1, index))
    pruner.end_epoch()
    torch.backends.fp32_precision = "ieee"
    assert precisions() == ["ieee"] * 3


def test_a_scaler_skips_the_step_of_an_overflow_and_the_training_goes_on() -> None:
    model, pruner = network(), ap.Pruner.from_preset("infobatch", num_samples=N, epochs=EPOCHS, delta=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=10_000)
    skipped = 0
    for epoch in range(EPOCHS):
        for number, index in enumerate(batches(pruner)):
            logits = model(X[index])
            if epoch == 2 and number == 1:
                logits = (logits * 1e8).half().float()  # beyond 65504
            losses = F.cross_entropy(logits, Y[index], reduction="none")
            before = [parameter.detach().clone() for parameter in model.parameters()]
            optimizer.zero_grad()
            scaler.scale(pruner.reduce(index, losses)).backward()
            scale = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            if scaler.get_scale() < scale:
                skipped += 1
                assert all(map(torch.equal, before, model.parameters()))
        if epoch == 2:
            with pytest.warns(UserWarning, match=rf"{BATCH} losses of epoch 2 are not finite"):
                pruner.end_epoch()
        else:
            pruner.end_epoch()
    assert skipped == 1
    assert pruner.nonfinite == BATCH
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert pruner.scores.isfinite().all()


# -------------------------------------------------------------------------- inference mode


@every_preset
def test_inference_mode_leaves_nothing_behind_that_cannot_be_written_to(name: str) -> None:
    """Any call may stand in inference mode: validation hooks of trainers do, and loops that refresh losses."""
    runs = []
    for period in (10**9, 2, 3):
        calls = 0

        def mode(period: int = period) -> torch.inference_mode:
            nonlocal calls
            calls += 1
            return torch.inference_mode(calls % period == 0)

        with mode():
            pruner = ap.Pruner.from_preset(name, num_samples=N, epochs=EPOCHS, labels=Y)
        for epoch in range(EPOCHS):
            for index in batches(pruner):
                with mode():
                    if isinstance(pruner.policy, ap.BatchPolicy):
                        logits, ones = known_losses(epoch, index).outer(torch.arange(3.0)), torch.ones(len(index), 2)
                        index = index[pruner.choose(index, logits=logits, features=ones, labels=Y[index])]
                with mode():
                    if pruner.score.needs_batches:
                        pruner.reduce_batch(index, known_losses(epoch, index).mean())
                    else:
                        pruner.reduce(index, known_losses(epoch, index), predictions=Y[index])
            with mode():
                if pruner.score.needs_pruned and len(pruner.pruned_sampler):
                    pruner.record(pruner.selection.pruned, known_losses(epoch, pruner.selection.pruned))
            with mode():
                pruner.end_epoch(1 / (epoch + 1) if pruner.needs_reference else None)
            with mode():
                pruner.load_state_dict(pruner.state_dict())
        runs.append((pruner.selection.indices, pruner.scores, pruner.memory(ap.memory.Journal).mean_loss))
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])


def test_a_loss_that_is_reduced_after_an_inference_step_has_its_gradient() -> None:
    pruner = begun()
    first, second = batches(pruner)[:2]
    with torch.inference_mode():
        pruner.reduce(first, torch.ones(BATCH))
    losses = torch.ones(BATCH, requires_grad=True)
    pruner.reduce(second, losses).backward()
    weights = pruner.selection.dense_weights()[second]  # type: ignore[index]
    assert losses.grad is not None
    torch.testing.assert_close(losses.grad, weights / BATCH)


# -------------------------------------------------------------------------- gradients of gradients, recomputed ones


@pytest.mark.parametrize("epochs", [0, 1], ids=["plain", "weighted"])
def test_a_gradient_penalty_goes_through_the_weighted_mean(epochs: int) -> None:
    pruner, weights = begun(epochs=epochs), torch.ones(N)
    index = batches(pruner)[0]
    if pruner.selection.weights is not None:
        weights = pruner.selection.dense_weights()  # type: ignore[assignment]
    parameter = torch.full((BATCH,), 1.5, requires_grad=True)
    loss = pruner.reduce(index, known_losses(1, index) * parameter**3)
    (gradient,) = torch.autograd.grad(loss, parameter, create_graph=True)
    gradient.square().sum().backward()
    # d/dp of (w l 3 p^2 / B)^2 = 36 (w l / B)^2 p^3
    expected = 36 * (weights[index] * known_losses(1, index) / BATCH).square() * 1.5**3
    assert parameter.grad is not None
    torch.testing.assert_close(parameter.grad, expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_network_whose_activations_are_recomputed_is_recorded_once(reentrant: bool) -> None:
    pruners, gradients = (begun(), begun()), []
    index = batches(pruners[0])[0]
    for pruner, recomputed in zip(pruners, (False, True), strict=True):
        model, x = network(), X[index].clone().requires_grad_()
        logits = checkpoint(model, x, use_reentrant=reentrant) if recomputed else model(x)
        pruner.reduce(index, F.cross_entropy(logits, Y[index], reduction="none")).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert same(gradients[0], gradients[1])
    assert same(pruners[0].state_dict()["losses"], pruners[1].state_dict()["losses"])


def test_a_reduction_inside_of_what_is_recomputed_is_refused() -> None:
    pruner, model = begun(), network()
    index = batches(pruner)[0]

    def step(x: Tensor) -> Tensor:
        return pruner.reduce(index, F.cross_entropy(model(x), Y[index], reduction="none"))

    loss = checkpoint(step, X[index], use_reentrant=False)
    with pytest.raises(ap.errors.CallMistake, match=r"which were read in epoch 1 already.*reduce each batch once"):
        loss.backward()


# -------------------------------------------------------------------------- a default device, a default dtype


@contextmanager
def defaults(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


# The meta device stands for an accelerator, and would show every slip: what is kept on the host stays there.
DEFAULTS = [{}, {"device": "meta"}, *({"dtype": dtype} for dtype in (torch.float64, torch.bfloat16, torch.float16))]


@pytest.mark.parametrize(
    "name, settings", [*((name, {}) for name in ap.PRESETS), ("infobatch+das", {"gaps": "last_obs"})]
)
def test_defaults_of_the_caller_change_nothing(name: str, settings: dict[str, Any]) -> None:
    runs = []
    for given in DEFAULTS:
        with defaults(**given):
            pruner = ap.Pruner.from_preset(name, num_samples=N, epochs=2 * EPOCHS, labels=Y, **settings)
            for epoch in range(2 * EPOCHS):
                for index in torch.tensor(list(pruner.sampler), device="cpu").split(BATCH):
                    losses = (known_losses(epoch, index) + 3 * (index % 4 == 0)).float()
                    if isinstance(pruner.policy, ap.BatchPolicy):
                        outputs = losses.outer(torch.arange(3, dtype=torch.float32, device="cpu"))
                        chosen = pruner.choose(index, logits=outputs, features=outputs, labels=Y[index])
                        index, losses = index[chosen], losses[chosen]
                    if pruner.score.needs_batches:
                        pruner.reduce_batch(index, losses.mean())
                    else:
                        pruner.reduce(index, losses, predictions=Y[index])
                if pruner.score.needs_pruned and len(pruner.pruned_sampler):
                    left_out = torch.tensor(list(pruner.pruned_sampler), device="cpu")
                    pruner.record(left_out, known_losses(epoch, left_out).float())
                pruner.end_epoch(1 / (epoch + 1) if pruner.needs_reference else None)
                pruner.load_state_dict(pruner.state_dict())
        runs.append((pruner.selection.indices, pruner.selection.weights, pruner.scores, pruner.noise_rate))
    for run in runs[1:]:
        assert same(run, runs[0])


def test_a_reference_and_coresets_are_chosen_alike_under_the_defaults_of_the_caller() -> None:
    rows = torch.rand(30, N, generator=torch.Generator().manual_seed(1))
    outputs = {"logits": X[:, :3], "features": X, "strong_logits": X[:, :3], "strong_features": X, "self_supervised": X}
    epochs = {"label_probabilities": rows, "correct": rows > 0.5, "error_norms": rows[:2], "feature_norms": rows[:2]}
    proxy, chosen = coresets.Proxy(Y, 3, **outputs, **epochs, margins=2 * rows - 1), []
    for given in DEFAULTS:
        with defaults(**given):
            reference = ap.Reference.subset(torch.utils.data.TensorDataset(X, Y), size=20)
            parts = [coresets.select(name, proxy, 25, seed=0).tolist() for name in coresets.CORESETS]
            chosen.append([reference.loader.dataset.indices, *parts])  # type: ignore[union-attr]
    assert all(each == chosen[0] for each in chosen)
