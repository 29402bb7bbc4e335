"""Files that users give a run by an option: read as they are, or refused in a line before anything is trained.

Indices in .npy and .txt files, weights in .safetensors files, decisions and settings have no checksums: what is asked
of these is a line or a value of the right kind.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alignprune.audit import decisions
from alignprune.bench import models
from alignprune.bench.data import ClassificationData, arrays, subset
from alignprune.bench.files import write_record
from alignprune.bench.run import references, static, stored
from alignprune.bench.run.config import TrainConfig, configure, default_config
from alignprune.bench.run.folder import RESULT_KIND
from alignprune.coresets import Proxy
from alignprune.errors import UserError, ValueMistake
from mutation import FOREIGN, check_line, damaged, hostile, little_memory, made_of, npy, saved

N = 40
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all examples, each of which writes its file anew, with a finished proxy run in it."""
    folder = tmp_path_factory.mktemp("given")
    g = torch.Generator().manual_seed(0)
    proxy = Proxy(
        labels=torch.arange(N) % 2,
        num_classes=2,
        logits=torch.randn(N, 2, generator=g),
        features=torch.randn(N, 4, generator=g),
        label_probabilities=torch.rand(3, N, generator=g),
        correct=torch.rand(3, N, generator=g) < 0.5,
        error_norms=torch.rand(2, N, generator=g),
        feature_norms=torch.rand(2, N, generator=g),
    )
    (folder / "proxy").mkdir()
    proxy.save(folder / "proxy/proxy.npz")
    (folder / "proxy/result.json").write_bytes(RESULT)
    return folder


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> ClassificationData:
    file = tmp_path_factory.mktemp("samples") / "own.npz"
    np.savez(file, x_train=np.random.default_rng(0).normal(size=(N, 3)), y_train=np.arange(N) % 2)
    return arrays(file)


def config(method: str = "infobatch+das", **settings: Any) -> TrainConfig:
    return configure({"dataset": "own.npz", "method": method, "device": "cpu", **settings})


# -- one small valid file of each kind, and who reads it ----------------------------------------------------

WEIGHTS = models.create("mlp", 2, (3,)).state_dict()


def result_of(record: dict[str, Any]) -> bytes:
    """A result.json as a run writes it."""
    with tempfile.TemporaryDirectory() as folder:
        write_record(Path(folder) / "result.json", RESULT_KIND, record)
        return (Path(folder) / "result.json").read_bytes()


MEASURED = {
    "method": "infobatch",
    "epochs": 10,
    "prune_ratio": None,
    "pruned_share": 0.25,
    "forward_passes": 400,
    "collect_forward_passes": 80,
}
RESULT = result_of(MEASURED)
CONFIG = json.dumps(default_config("digits", "infobatch+das").stored(None)).encode()
NAMES = ("cat", "dog")
IDS = [str(i) for i in range(6)]
FINGERPRINT = decisions.fingerprint(IDS, NAMES * 3)
DECISIONS = "index,id,given_label,decision,label,data\n" + "".join(
    f"{i},{i},{NAMES[i % 2]},{choice},{NAMES[(i + 1) % 2] if choice == 'relabel' else ''},{FINGERPRINT}\n"
    for i, choice in enumerate(["keep", "relabel", "drop"])
)


def text_of(indices: Any) -> bytes:
    file = io.BytesIO()
    np.savetxt(file, indices, fmt="%d")
    return file.getvalue()


def reference(file: Path, samples: ClassificationData, place: Path) -> list[int]:
    found: Any = references.make(config(reference=str(file)), samples, CPU)
    return list(found.loader.dataset.indices)


def weights(file: Path, samples: ClassificationData, place: Path) -> list[bytes]:
    network = models.create("mlp", 2, (3,), weights=str(file))
    return [value.numpy().tobytes() for value in network.state_dict().values()]


def features(file: Path, samples: ClassificationData, place: Path) -> list[list[float]]:
    settings = {"proxy": str(place / "proxy"), "coreset.features": "self-supervised"}
    found = static.statistics(config("ssp", self_supervised=str(file), **settings), samples)
    assert found is not None
    assert found.self_supervised is not None
    return found.self_supervised.tolist()


def decided(file: Path, samples: ClassificationData, place: Path) -> Any:
    return decisions.load(file)


def settings_of(file: Path, samples: ClassificationData, place: Path) -> TrainConfig:
    return stored.from_file(file)


def base(file: Path, samples: ClassificationData, place: Path) -> float | None:
    return config("infobatch", prune_ratio=0.5, base_run=str(file.parent), **{"recipe.epochs": 10}).measured_base()


def passes(file: Path, samples: ClassificationData, place: Path) -> int:
    return static.cost(config("moderate", proxy=str(file.parent)))


@dataclass(frozen=True)
class Reader:
    """A reader of users' files.

    Attributes:
        name: of a valid file.
        valid: its content.
        read: from (file, samples, place) to what the file holds, comparable.
        checked: whether the format has checksums, so that no damage passes.
    """

    name: str
    valid: bytes
    read: Callable[[Path, ClassificationData, Path], Any]
    checked: bool = False


CHOSEN = np.arange(3, 21)
READERS = {
    "reference npy": Reader("trusted.npy", npy(CHOSEN), reference),
    "reference pt": Reader("trusted.pt", saved(torch.from_numpy(CHOSEN)), reference, checked=True),
    "reference pt before archives": Reader("trusted.pt", saved(torch.from_numpy(CHOSEN), archive=False), reference),
    "reference txt": Reader("trusted.txt", b"# mine\n" + text_of(CHOSEN), reference),
    "weights pt": Reader("start.pt", saved(WEIGHTS), weights, checked=True),
    "weights pth before archives": Reader("start.pth", saved(WEIGHTS, archive=False), weights),
    "weights safetensors": Reader("start.safetensors", safetensors.torch.save(WEIGHTS), weights),
    "self-supervised": Reader("features.pt", saved(torch.randn(N, 5)), features, checked=True),
    "labels": Reader("decisions.csv", DECISIONS.encode(), decided),
    "config": Reader("config.json", CONFIG, settings_of),
    "base run": Reader("result.json", RESULT, base, checked=True),
    "proxy": Reader("result.json", RESULT, passes, checked=True),
}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> Reader:
    return READERS[request.param]


@settings(max_examples=30)
@given(data=st.data())
@pytest.mark.parametrize("name", READERS)
def test_damage_is_refused_in_a_line_and_found_where_the_format_has_checksums(
    place: Path, samples: ClassificationData, name: str, data: st.DataObject
) -> None:
    reader = READERS[name]
    file = folder_of(reader, place) / reader.name
    whole = made_of(file, reader.valid, lambda: reader.read(file, samples, place))
    assert whole is not None
    content = data.draw(damaged(reader.valid))
    found = made_of_run(reader, file, content, lambda: reader.read(file, samples, place))
    if reader.checked:
        assert found is None or found == whole


def folder_of(reader: Reader, place: Path) -> Path:
    """A folder of its own for what is called as in every run."""
    folder = place / "run" if reader.name == "result.json" else place
    folder.mkdir(exist_ok=True)
    return folder


def made_of_run(reader: Reader, file: Path, content: bytes, read: Callable[[], Any]) -> Any:
    """`made_of`; of a run's folder the mistake names the folder, where the file itself is sound."""
    return made_of(file, content, read, named=file.parent if reader.name == "result.json" else file)


def test_other_kinds_of_files_are_refused_in_a_line(place: Path, samples: ClassificationData, reader: Reader) -> None:
    file = folder_of(reader, place) / reader.name
    for kind, content in FOREIGN.items():
        assert made_of_run(reader, file, content, lambda: reader.read(file, samples, place)) is None, kind


def test_nothing_that_a_file_holds_is_run(place: Path, samples: ClassificationData, reader: Reader) -> None:
    file, marker = folder_of(reader, place) / reader.name, place / "marker"
    for kind, content in hostile(marker).items():
        assert made_of_run(reader, file, content, lambda: reader.read(file, samples, place)) is None, kind
        assert not marker.exists(), kind


def test_a_folder_in_the_place_of_a_file_is_refused_in_a_line(
    tmp_path: Path, place: Path, samples: ClassificationData, reader: Reader
) -> None:
    file = tmp_path / reader.name
    file.mkdir()
    with pytest.raises(UserError) as caught:
        reader.read(file, samples, place)
    check_line(str(caught.value), file)


# -- indices of a reference ---------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    indices=st.one_of(
        hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=30)),
        hnp.arrays(hnp.integer_dtypes() | hnp.unsigned_integer_dtypes(), st.integers(0, 30), unique=True),
        st.permutations(range(N)).map(lambda order: np.array(order[:12])),
    ),
    form=st.sampled_from(["npy", "pt", "txt"]),
)
def test_indices_are_taken_as_they_are_or_refused(
    place: Path, samples: ClassificationData, indices: np.ndarray[Any, Any], form: str
) -> None:
    if form == "txt" and (indices.dtype.kind not in "iu" or indices.ndim == 0):
        form = "npy"
    if form == "pt" and indices.dtype.kind not in "biuf":
        form = "npy"
    file = place / f"trusted.{form}"
    native = indices.astype(indices.dtype.newbyteorder("="))
    content = {
        "npy": lambda: npy(indices),
        "pt": lambda: saved(torch.from_numpy(native)),
        "txt": lambda: text_of(indices),
    }[form]()
    found = made_of(file, content, lambda: reference(file, samples, place))
    sound = (
        indices.dtype.kind in "iu"
        and indices.ndim == 1
        and len(set(indices.tolist())) == len(indices) >= 10
        and all(0 <= i < N for i in indices.tolist())
    )
    assert found == (indices.tolist() if sound else None)


@pytest.mark.parametrize(
    "content, said",
    [
        (b"0\n1\n2.5\n", "cannot be read"),
        (b"0\n1\nnan\n", "cannot be read"),
        (b"0 1\n2 3\n", r"of shape \(2, 2\)"),
        (b"# nothing\n", "cannot be read"),
        (b"\xef\xbb\xbf0\r\n1\r\n", "has 2 samples, expected at least 10"),
        (text_of([*range(11), 3]), "has 1 repetitions"),
        (text_of([*range(11), N]), f"reaches from 0 to {N}, expected 0 to {N - 1}"),
        (text_of([*range(11), -1]), "reaches from -1 to 10"),
    ],
)
def test_what_is_wrong_with_indices_is_said(
    tmp_path: Path, samples: ClassificationData, content: bytes, said: str
) -> None:
    file = tmp_path / "trusted.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"reference='.*trusted.txt'.*{said}"):
        reference(file, samples, tmp_path)


def test_indices_are_places_in_the_data_and_those_of_samples_held_out_are_left_out(
    samples: ClassificationData, tmp_path: Path
) -> None:
    (tmp_path / "trusted.npy").write_bytes(npy(np.arange(5, 25)))
    part = subset(samples, torch.arange(0, N, 2))
    with pytest.warns(UserWarning, match="10 of 20 indices are of no training sample, the first is 5, expected places"):
        found = reference(tmp_path / "trusted.npy", part, tmp_path)
    assert part.places is not None
    assert part.places[found].tolist() == list(range(6, 25, 2))


def test_indices_that_go_on_after_the_last_of_their_shape_are_refused(
    tmp_path: Path, samples: ClassificationData
) -> None:
    file, content = tmp_path / "trusted.npy", npy(CHOSEN)
    for longer in (content + bytes(8), content.replace(b"(18,)", b"(12,)")):
        assert made_of(file, longer, lambda: reference(file, samples, tmp_path)) is None


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch advises against two of the tensors
def test_shapes_of_indices_are_believed_only_as_far_as_the_file_reaches(
    tmp_path: Path, samples: ClassificationData
) -> None:
    content = npy(np.arange(12))
    for shape in ("(2000000000000,)", "(12, 10000000000)"):
        text = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}".encode()
        huge = content[:10] + text.ljust(len(content) - 10 - 12 * 8 - 1) + b"\n" + content[-12 * 8 :]
        with little_memory():
            assert made_of(tmp_path / "a.npy", huge, lambda: reference(tmp_path / "a.npy", samples, tmp_path)) is None
    for odd in (
        torch.zeros(1, dtype=torch.int64).expand(2 * 10**9),
        torch.sparse_coo_tensor(torch.zeros(1, 12, dtype=torch.int64), torch.arange(12), (10**12,)),
        torch.empty(12, dtype=torch.int64, device="meta"),
        torch.quantize_per_tensor(torch.arange(12.0), 1.0, 0, torch.quint8),
    ):
        with little_memory():
            found = made_of(tmp_path / "a.pt", saved(odd), lambda: reference(tmp_path / "a.pt", samples, tmp_path))
        assert found is None


# -- weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"fc.weight": torch.full((2, 256), torch.nan)},
        {"fc.bias": torch.tensor([0.0, -torch.inf])},
        {"fc.bias": None},
        {"fc.bias": [0.0, 0.0]},
        {"fc.bias": torch.zeros(2).to_sparse()},
        {"fc.bias": torch.zeros(1).expand(2 * 10**9)},
        {"fc.bias": torch.zeros(())},
        {"further": torch.zeros(2)},
        {3: torch.zeros(2)},
    ],
)
def test_weights_of_any_kind_are_loaded_or_refused(tmp_path: Path, change: dict[Any, Any]) -> None:
    file = tmp_path / "start.pt"
    with little_memory():
        assert (
            made_of(file, saved({**WEIGHTS, **change}), lambda: models.create("mlp", 2, (3,), weights=str(file)))
            is None
        )


def test_a_checkpoint_with_the_options_of_its_training_is_read_and_theirs_alone(tmp_path: Path) -> None:
    file = tmp_path / "start.pt"
    with_options = {"state_dict": WEIGHTS, "args": argparse.Namespace(lr=0.1)}  # as timm saves them
    network = made_of(file, saved(with_options), lambda: models.create("mlp", 2, (3,), weights=str(file)))
    assert network is not None
    assert all(torch.equal(value, WEIGHTS[name]) for name, value in network.state_dict().items())
    assert made_of(file, saved({**with_options, "place": Path()}), lambda: weights(file, samples, tmp_path)) is None  # type: ignore[arg-type]


# -- features, results and settings -------------------------------------------------------------------------


@settings(max_examples=40)
@given(value=hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=3, max_side=N)))
def test_features_of_any_kind_are_taken_as_they_are_or_refused(
    place: Path, samples: ClassificationData, value: np.ndarray[Any, Any]
) -> None:
    value = value.astype(value.dtype.newbyteorder("="))
    content = saved(torch.from_numpy(value)) if value.dtype.kind in "biuf" else saved(value.tolist())
    file = place / "features.pt"
    found = made_of(file, content, lambda: features(file, samples, place))
    assert found is None or found == value.tolist()


@pytest.mark.parametrize(
    "value",
    [torch.full((N, 2), torch.nan), torch.zeros(N, 2, dtype=torch.int64), torch.zeros(N), torch.zeros(N - 1, 2)],
)
def test_features_that_no_coreset_is_chosen_by_are_refused(
    place: Path, samples: ClassificationData, value: torch.Tensor
) -> None:
    file = place / "features.pt"
    assert made_of(file, saved(value), lambda: features(file, samples, place)) is None


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.just(10**30)
    | st.just("x" * 5_000),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=5), parts, max_size=3),
    max_leaves=5,
)


@settings(max_examples=80)
@given(name=st.sampled_from([*json.loads(CONFIG), "foreign"]), value=JSON, inside=st.booleans())
def test_settings_of_any_kind_are_taken_or_refused(
    place: Path, samples: ClassificationData, name: str, value: Any, inside: bool
) -> None:
    content = json.loads(CONFIG)
    if inside and isinstance(content.get(name), dict):
        content[name][next(iter(content[name]))] = value
    else:
        content[name] = value
    file = place / "config.json"
    made_of(file, json.dumps(content).encode(), lambda: settings_of(file, samples, place))


@settings(max_examples=60)
@given(name=st.sampled_from([*MEASURED, "foreign"]), value=JSON)
def test_results_of_any_kind_are_taken_or_refused(
    place: Path, samples: ClassificationData, name: str, value: Any
) -> None:
    file = place / "run/result.json"
    file.parent.mkdir(exist_ok=True)
    content = result_of({**MEASURED, name: value})
    share = made_of(file, content, lambda: base(file, samples, place), named=file.parent)
    cost = made_of(file, content, lambda: passes(file, samples, place), named=file.parent)
    given_share = value if name == "pruned_share" else 0.25
    assert share is None or share == given_share
    assert cost is None or isinstance(cost, int)


def test_a_result_without_its_numbers_is_refused_with_the_name_of_what_is_missing(
    tmp_path: Path, samples: ClassificationData
) -> None:
    file = tmp_path / "result.json"
    for name, read in (("pruned_share", base), ("forward_passes", passes), ("collect_forward_passes", passes)):
        file.write_bytes(result_of({key: value for key, value in MEASURED.items() if key != name}))
        with pytest.raises(UserError, match=f"result.json: {name}=None"):
            read(file, samples, tmp_path)


@pytest.mark.parametrize("column", decisions.COLUMNS)
def test_a_cell_of_decisions_that_is_long_is_not_repeated_in_full(tmp_path: Path, column: str) -> None:
    rows = [dict(zip(decisions.COLUMNS, line.split(","), strict=True)) for line in DECISIONS.splitlines()]
    rows[2][column] = "\x1b[31m" * 20_000
    file = tmp_path / "decisions.csv"
    file.write_text("\n".join(",".join(row.values()) for row in rows))
    with pytest.raises(ValueMistake) as caught:
        decisions.load(file).apply(torch.arange(6) % 2, NAMES, IDS)
    check_line(f"{file}: {caught.value}", file)
