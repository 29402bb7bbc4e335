"""SFTTrainer of TRL: one loss a sample from the losses of its tokens, and what else the Trainer's tests ask."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import alignprune as ap
import launch

os.environ["HF_HUB_OFFLINE"] = "1"  # TRL reports its use otherwise
transformers = pytest.importorskip("transformers", reason="the extra trl is not installed")
trl = pytest.importorskip("trl", reason="the extra trl is not installed")

import datasets  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402
from trl import SFTConfig  # noqa: E402

from alignprune.integrations.trl import PrunedSFTTrainer  # noqa: E402

# This file is also the program of two ranks (see the end): all that needs them runs in one start.

pytestmark = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated"),
    pytest.mark.filterwarnings("ignore:`return_outputs=True`"),
]

N, EPOCHS, BATCH, WORLD, LONGEST = 41, 4, 4, 2, 16
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
SPECIAL = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
IDS = {word: number for number, word in enumerate([*SPECIAL.values(), *WORDS])}

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
datasets.disable_progress_bars()
torch.set_num_threads(1)


def words(seed: int, count: int) -> list[str]:
    drawn = torch.randint(len(WORDS), (count,), generator=torch.Generator().manual_seed(seed))
    return [WORDS[number] for number in drawn.tolist()]


def conversation(index: int) -> tuple[list[str], list[str]]:
    """A prompt and a completion of one to six words, the completion that of no other sample."""
    return words(index, 2 + index % 3), words(1000 + index, 1 + index % 6)


def conversations(size: int = N) -> datasets.Dataset:
    parts = [conversation(index) for index in range(size)]
    return datasets.Dataset.from_list(
        [{"prompt": " ".join(prompt), "completion": " " + " ".join(answer) + " "} for prompt, answer in parts]
    )


def tokens(index: int) -> tuple[list[int], list[bool]]:
    """A sample's tokens, and which of them have a label: those of the completion, the end included."""
    prompt, answer = conversation(index)
    ids = [IDS[word] for word in [*prompt, *answer, "<eos>"]]
    return ids, [place >= len(prompt) for place in range(len(ids))]


def tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel(IDS, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL)


def llama(dropout: float = 0.0) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(IDS),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=LONGEST,
        attention_dropout=dropout,
        initializer_range=0.5,  # so that samples differ
    )
    return LlamaForCausalLM(config)


def by_hand(model: nn.Module, index: int) -> float:
    """The mean loss of a sample's tokens that have a label, one token after the other."""
    ids, labelled = tokens(index)
    with torch.no_grad():
        logits = model.eval()(torch.tensor([ids])).logits[0]
    losses = [-float(logits[place - 1].log_softmax(0)[ids[place]]) for place in range(1, len(ids)) if labelled[place]]
    return sum(losses) / len(losses)


def a_pruner(preset: str = "infobatch", size: int = N, **settings: Any) -> ap.Pruner:
    return ap.Pruner.from_preset(preset, num_samples=size, epochs=EPOCHS, delta=1.0, **settings)


def trainer(
    folder: Path,
    pruner: ap.Pruner | None = None,
    *,
    kind: type[PrunedSFTTrainer] = PrunedSFTTrainer,
    dropout: float = 0.0,
    train_dataset: Any = None,
    reference: Any = None,
    **settings: Any,
) -> PrunedSFTTrainer:
    usual = {
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": 2,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "learning_rate": 1e-2,
        "max_length": LONGEST,
        "logging_strategy": "no",
    }
    return kind(
        llama(dropout),
        SFTConfig(str(folder), **{**usual, **settings}),
        train_dataset=conversations() if train_dataset is None else train_dataset,
        eval_dataset={"clean": conversations(12)},
        processing_class=tokenizer(),
        pruner=pruner or a_pruner(),
        reference=reference,
    )


class Watched(PrunedSFTTrainer):
    """Notes what each epoch selects and what it reads, by the samples' tokens."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.known = {tuple(tokens(index)[0]): index for index in range(N)}
        self.read: dict[int, list[int]] = {}
        self.selected: dict[int, list[int]] = {}

    def sample_losses(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        rows = zip(inputs["input_ids"].tolist(), inputs["attention_mask"].sum(1).tolist(), strict=True)
        if model.training:
            self.selected[self.pruner.epoch] = self.pruner.selection.indices.tolist()
            self.read.setdefault(self.pruner.epoch, []).extend(self.known[tuple(ids[:count])] for ids, count in rows)
        return super().sample_losses(model, inputs)


def result(done: PrunedSFTTrainer) -> dict[str, Any]:
    return {
        "weights": {name: tensor.clone() for name, tensor in done.model.state_dict().items()},
        "scores": done.pruner.scores.nan_to_num(-9.0),
        "reference": done.pruner.reference.nan_to_num(-9.0),
        "selected": done.pruner.selection.indices.tolist(),
        "passes": done.pruner.forward_passes,
        "steps": done.state.global_step,
        "epoch": done.state.epoch,
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


def checkpoints(folder: Path) -> list[str]:
    return sorted(map(str, folder.glob("checkpoint-*")), key=lambda path: int(path.rpartition("-")[2]))


# -------------------------------------------------------------------------- tokens and samples


def test_a_samples_loss_is_the_mean_over_its_tokens_that_have_a_label(tmp_path: Path) -> None:
    model_stands_still = {"learning_rate": 0.0, "logging_strategy": "steps", "logging_steps": 1}
    done = trainer(tmp_path, kind=Watched, reference="clean", **model_stands_still)
    assert isinstance(done, Watched)
    done.train()
    expected = torch.tensor([by_hand(done.model, index) for index in range(N)])
    assert len(set(expected.tolist())) == N
    torch.testing.assert_close(done.pruner.memory(ap.TrajectoryBank).losses[-1], expected, rtol=1e-4, atol=1e-5)
    clean = torch.full((EPOCHS,), float(expected[:12].mean()), dtype=torch.float64)
    torch.testing.assert_close(done.pruner.reference[1:], clean, rtol=1e-5, atol=1e-5)
    # the loss of a step is the mean over samples, each counted once, however many tokens it has
    first = [entry["loss"] for entry in done.state.log_history if "loss" in entry][: -(-N // (2 * BATCH))]
    order = done.read[0]
    cuts = [len(order) * batch // (2 * len(first)) for batch in range(2 * len(first) + 1)]
    for step, logged in enumerate(first):
        halves = [order[cuts[2 * step + half] : cuts[2 * step + half + 1]] for half in range(2)]
        assert logged == pytest.approx(sum(float(expected[half].mean()) for half in halves) / 2, rel=1e-4)


def test_every_selected_sample_is_read_once_an_epoch(tmp_path: Path) -> None:
    done = trainer(tmp_path, kind=Watched)
    assert isinstance(done, Watched)
    done.train()
    assert {epoch: sorted(read) for epoch, read in done.read.items()} == done.selected
    assert len(done.selected) == EPOCHS
    assert min(map(len, done.selected.values())) < N
    assert done.state.epoch == EPOCHS == done.pruner.epoch
    assert done.lr_scheduler.get_last_lr()[0] == pytest.approx(0.0, abs=1e-12)


def test_a_sample_whose_tokens_have_no_label_counts_nowhere(tmp_path: Path) -> None:
    rows = [tokens(index)[0] for index in range(N)]
    silent = range(0, N, 5)
    labels = [[-100] * len(row) if index in silent else row for index, row in enumerate(rows)]
    prepared = datasets.Dataset.from_dict({"input_ids": rows, "labels": labels})
    done = trainer(tmp_path, train_dataset=prepared, dataset_kwargs={"skip_prepare_dataset": True})
    done.train()
    losses = done.pruner.memory(ap.TrajectoryBank).losses[-1]
    assert losses.isnan().nonzero().squeeze(1).tolist() == list(silent)


def test_what_trl_logs_of_a_training_stays(tmp_path: Path) -> None:
    done = trainer(tmp_path, logging_strategy="epoch", eval_strategy="epoch", reference="clean")
    done.train()
    logged = [entry for entry in done.state.log_history if "loss" in entry]
    assert [entry["epoch"] for entry in logged] == list(range(1, EPOCHS + 1))
    for entry in logged:
        assert 0 <= entry["mean_token_accuracy"] <= 1
        assert entry["entropy"] > 0
    assert logged[0]["num_tokens"] == sum(len(tokens(index)[0]) for index in range(N))  # nothing is pruned yet
    evaluated = [entry for entry in done.state.log_history if "eval_clean_loss" in entry]
    assert len(evaluated) == EPOCHS


# -------------------------------------------------------------------------- interrupted


def test_a_training_resumed_at_a_step_is_one_that_was_never_stopped(tmp_path: Path) -> None:
    settings = {"dropout": 0.1, "reference": "clean", "eval_strategy": "epoch"}
    whole = trainer(tmp_path, save_strategy="steps", save_steps=1, **settings)
    whole.train()
    expected, steps = result(whole), whole.state.global_step
    assert len(checkpoints(tmp_path)) == steps
    assert expected["passes"] < 0.95 * EPOCHS * N
    for checkpoint in checkpoints(tmp_path)[::-3]:  # the Trainer's own tests take every step
        resumed = trainer(tmp_path / "resumed", **settings)
        resumed.train(resume_from_checkpoint=checkpoint)
        assert same(result(resumed), expected), checkpoint


# -------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "name, value, others",
    [
        ("packing", True, {}),
        ("padding_free", True, {"max_length": None}),
        ("shuffle_dataset", True, {}),
        ("loss_type", "dft", {}),
        ("label_smoothing_factor", 0.1, {}),
        ("max_steps", 3, {}),
        ("train_sampling_strategy", "group_by_length", {}),
    ],
)
@pytest.mark.filterwarnings("ignore:`label_smoothing_factor` is deprecated")
def test_a_setting_that_breaks_the_pruning_is_refused_at_the_start(
    tmp_path: Path, name: str, value: Any, others: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=rf"{name}={value!r} cannot be used here, expected .*: "):
        trainer(tmp_path, **{name: value, **others})


def test_samples_that_trl_leaves_out_and_streams_are_refused(tmp_path: Path) -> None:
    long = datasets.concatenate_datasets(
        [conversations(N - 1), datasets.Dataset.from_list([{"prompt": "one " * 20, "completion": " two"}])]
    )
    with pytest.raises(ValueError, match=f"train_dataset has {N - 1} samples as the Trainer prepares it"):
        trainer(tmp_path, train_dataset=long).train()
    with pytest.raises(TypeError, match="alignprune.integrations.streams"):
        trainer(tmp_path, train_dataset=conversations().to_iterable_dataset())


# -------------------------------------------------------------------------- two ranks


def rank_main(folder: Path, rank: int) -> None:
    pruner = a_pruner()  # as in a script, before the Trainer's arguments set up the ranks
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}  # asked for, and not used: the ranks are joined
    launch.join(folder, rank, WORLD)
    still = trainer(folder / "still", pruner, kind=Watched, learning_rate=0.0)
    assert isinstance(still, Watched)
    still.train()
    losses = pruner.memory(ap.TrajectoryBank).losses[-1]
    expected = torch.tensor([by_hand(still.model, index) for index in range(N)])
    out = {"read": still.read, "selected": still.selected, "losses": losses, "expected": expected, "resumed": {}}
    whole = trainer(folder / "whole", dropout=0.1, save_strategy="steps", save_steps=1)
    whole.train()
    out["whole"] = result(whole)
    for checkpoint in checkpoints(folder / "whole")[::3]:
        resumed = trainer(folder / "resumed", dropout=0.1)
        resumed.train(resume_from_checkpoint=checkpoint)
        out["resumed"][checkpoint] = result(resumed)
    launch.write(folder, rank, WORLD, out)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found."""
    return launch.results(__file__, tmp_path_factory, WORLD)


def test_two_ranks_read_every_selected_sample_once_and_hold_every_loss_at_its_index(
    ranks: list[dict[str, Any]],
) -> None:
    assert len(ranks[0]["selected"]) == EPOCHS
    for epoch, selected in ranks[0]["selected"].items():
        parts = [rank["read"][epoch] for rank in ranks]
        assert ranks[1]["selected"][epoch] == selected
        assert len(parts[0]) == len(parts[1]) == -(-len(selected) // WORLD)
        assert sorted(set(parts[0] + parts[1])) == selected
    for rank in ranks:
        torch.testing.assert_close(rank["losses"], rank["expected"], rtol=1e-4, atol=1e-5)


def test_two_ranks_resumed_at_any_step_are_two_that_were_never_stopped(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert same(rank["whole"], ranks[0]["whole"])
        assert rank["whole"]["passes"] < 0.95 * EPOCHS * N
        assert len(rank["resumed"]) >= 3
        for checkpoint, resumed in rank["resumed"].items():
            assert same(resumed, rank["whole"]), checkpoint


if __name__ == "__main__":
    rank_main(Path(sys.argv[1]), int(sys.argv[2]))
