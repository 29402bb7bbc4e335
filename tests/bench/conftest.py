"""What tests of several rooms share: a sentence model so small that it is made anew, and a package of weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from packaged import write_package

_SIGNS = [",", "!", ";", "?"]
_ANIMALS = ["a", "and", "cat", "cats", "dog", "dogs", "log", "mat", "on", "sat", "the", "was", "wet"]
_COLOURS = ["red", "green", "blue", "apple", "grass", "sky", "is", "of", "colour"]
WORDS = sorted([*_SIGNS, *_ANIMALS, *_COLOURS])


@pytest.fixture(scope="session")
def sentence_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as SentenceTransformer.save writes it: a small network with drawn weights, mean of its word pieces."""
    pytest.importorskip("sentence_transformers", reason="the extra sentences is not installed")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("sentences")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = BertModel(BertConfig(vocab_size=len(WORDS) + 5, max_position_embeddings=64, **settings))
    network.save_pretrained(folder / "network")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "network")
    transformer = modules.Transformer(str(folder / "network"))
    SentenceTransformer(modules=[transformer, modules.Pooling(16)], device="cpu").save(str(folder / "model"))
    return folder / "model"


@pytest.fixture
def image_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """A package as the real one, with drawn weights under names of its own; gives the weights by timm's names."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state: dict[str, Tensor] = timm.create_model("tf_efficientnet_lite0").state_dict()
    write_package(tmp_path / "site", state)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return state
