"""The Trainer of Transformers: a script without pruning differs in the lines that end in "# pruning".

Headlines of four topics, of which a quarter carries a wrong label; a tiny BERT made from scratch.

python examples/transformers_topics.py
torchrun --standalone --nproc-per-node 2 examples/transformers_topics.py
"""

import tempfile

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    TrainingArguments,
)

import alignprune as ap  # pruning
from alignprune.integrations.transformers import PrunedTrainer  # pruning

EPOCHS, SIZE = 12, 1200
TOPICS = [
    topic.split()
    for topic in (
        "match goal team coach league final striker win",
        "market shares bank profit price trade fund loss",
        "vote party minister law election senate campaign poll",
        "probe orbit rocket planet moon launch comet telescope",
    )
]
COMMON = [*"abcdefghijkl"]


def headline(topic: int, draw: np.random.Generator) -> str:
    words = [*draw.choice(TOPICS[topic], 2), *draw.choice(TOPICS[draw.integers(4)], 1), *draw.choice(COMMON, 4)]
    return " ".join(draw.permutation(words))


class Headlines(Dataset[dict[str, list[int] | int]]):
    def __init__(self, size: int, seed: int, wrong: float = 0.0) -> None:
        draw = np.random.default_rng(seed)
        topics = draw.integers(4, size=size)
        self.wrong = draw.random(size) < wrong
        self.labels = np.where(self.wrong, (topics + draw.integers(1, 4, size=size)) % 4, topics)
        self.tokens = [tokenizer(headline(topic, draw))["input_ids"] for topic in topics]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, list[int] | int]:
        return {"input_ids": self.tokens[index], "label": int(self.labels[index])}


words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(["[PAD]", *sum(TOPICS, COMMON)])}))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")
train_set, test_set = Headlines(SIZE, seed=0, wrong=0.25), Headlines(400, seed=1)

torch.manual_seed(0)
config = BertConfig(
    vocab_size=len(tokenizer),
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    num_labels=4,
)
pruner = ap.Pruner.from_preset("robust", num_samples=SIZE, epochs=EPOCHS, labels=train_set.labels)  # pruning
trainer = PrunedTrainer(  # pruning
    BertForSequenceClassification(config),
    TrainingArguments(
        tempfile.mkdtemp(),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    ),
    data_collator=DataCollatorWithPadding(tokenizer),
    train_dataset=train_set,
    eval_dataset=test_set,
    compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())},
    pruner=pruner,  # pruning
)
trainer.train()

accuracy = trainer.evaluate()["eval_accuracy"]
if trainer.is_world_process_zero():
    kept, wrong = pruner.forward_passes / (EPOCHS * SIZE), train_set.wrong[pruner.suspects].mean()
    print(f"{kept:.0%} of the forward passes, accuracy {accuracy:.1%}; {wrong:.1%} of the suspects have a wrong label")
