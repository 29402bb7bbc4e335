"""SFTTrainer of TRL: a script without pruning differs in the lines that end in "# pruning".

Sums in words, of which a fifth has a wrong result; a tiny Llama and its tokenizer made from scratch.

python examples/trl_sums.py
"""

import tempfile

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig

import alignprune as ap  # pruning
from alignprune.integrations.trl import PrunedSFTTrainer  # pruning

EPOCHS, SIZE = 12, 1200
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]

draw = np.random.default_rng(0)
sums = draw.integers(7, size=(SIZE, 2))
wrong = draw.random(SIZE) < 0.2
results = np.where(wrong, (sums.sum(1) + draw.integers(1, 13, size=SIZE)) % 13, sums.sum(1))
train_set = Dataset.from_list(
    [
        {"prompt": f"{NUMBERS[a]} plus {NUMBERS[b]} is", "completion": f" {NUMBERS[result]} "}
        for (a, b), result in zip(sums, results, strict=True)
    ]
)

words = {word: number for number, word in enumerate(["<pad>", "<end>", "<unk>", "plus", "is", *NUMBERS])}
by_word = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
by_word.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=by_word, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", padding_side="left"
)

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=len(words),
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=16,
)
pruner = ap.Pruner.from_preset("robust", num_samples=SIZE, epochs=EPOCHS)  # pruning
trainer = PrunedSFTTrainer(  # pruning
    LlamaForCausalLM(config),
    SFTConfig(
        tempfile.mkdtemp(),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=32,
        learning_rate=1e-2,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
    ),
    train_dataset=train_set,
    processing_class=tokenizer,
    pruner=pruner,  # pruning
)
trainer.train()

if trainer.is_world_process_zero():
    kept, right = pruner.forward_passes / (EPOCHS * SIZE), wrong[pruner.suspects].mean()
    print(f"{kept:.0%} of the forward passes; {right:.1%} of the suspects have a wrong result")
