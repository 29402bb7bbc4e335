"""Data files of users that are damaged, foreign, hostile or huge: read as they are, or refused in a line.

A format without checksums cannot tell a flipped digit from another digit: text tables and lists, .npy, .bmp, .gif, .jpg
and most Parquet files are such, and what is asked of them is a line or data. Archives (.npz, what torch.save writes),
.png, and Parquet files whose pages have checksums are given back as they were, or refused.
"""

from __future__ import annotations

import csv
import io
import os
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pyarrow import parquet
from sklearn.utils import Bunch

from alignprune.bench.data import ClassificationData, Texts, cifar10n, image_folder, load, open_all, table
from alignprune.bench.data.embeddings import read_glove
from alignprune.bench.data.images import read_image
from alignprune.bench.data.lists import entries
from alignprune.bench.data.news import FILE as NEWS_FILE
from alignprune.bench.data.news import read_documents
from alignprune.bench.data.preparation import Features, Preparation
from alignprune.bench.data.raw import read as read_raw
from alignprune.errors import MissingFile, UserError, ValueMistake
from alignprune.noise import NoisyLabels
from mutation import FOREIGN, check_line, damaged, hostile, little_memory, made_of, npy, npz, saved

RNG = np.random.default_rng(0)

# -- one small valid file of each kind, and who reads it ----------------------------------------------------


def content_of(data: ClassificationData) -> tuple[Any, ...]:
    """All that a data set is, comparable."""
    views = [view if view is None else content_of_view(view) for view in (data.train_eval, data.test, data.reference)]
    return (*views, data.labels.tolist(), data.class_names, None if data.ids is None else list(data.ids))


def content_of_view(view: Any) -> tuple[Any, ...]:
    samples = list(view.texts) if isinstance(view, Texts) else view.inputs.numpy().tobytes()
    return samples, view.labels.tolist()


def loaded(file: Path) -> tuple[Any, ...]:
    return content_of(load(file))


def predicted(preparation: Preparation) -> Callable[[Path], tuple[Any, ...]]:
    """What `alignprune predict` reads."""

    def read(file: Path) -> tuple[Any, ...]:
        found = read_raw(str(file), preparation, ("cat", "dog"))
        samples = [
            x if isinstance(x, str) else x.numpy().tobytes()
            for x, _ in map(found.samples.__getitem__, range(len(found.ids)))
        ]
        return samples, list(found.ids), list(found.given)

    return read


NUMBERS = Preparation("features", (Features((0.0, 0.0), (1.0, 1.0)),), (2,), ("a", "b"))
WORDS = Preparation("text")

FRAME = pd.DataFrame(
    {
        "label": ["cat", "dog"] * 6,
        "a": RNG.normal(size=12),
        "b": range(12),
        "id": [f"k{i}" for i in range(12)],
        "split": ["train"] * 10 + ["test"] * 2,
    }
)
TEXTS = pd.DataFrame({"label": ["cat", "dog"] * 4, "text": [f'a "cat",\nsat {i}' for i in range(8)]})


def as_parquet(frame: pd.DataFrame, **settings: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pandas(frame), file, **settings)
    return file.getvalue()


def as_image(form: str, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    blocks = np.kron(RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8), np.ones((8, 8, 1), dtype=np.uint8))
    Image.fromarray(blocks).convert(mode).save(file, form)
    return file.getvalue()


def read_pixels(file: Path) -> bytes:
    return read_image(f"file={str(file)!r}", str(file)).tobytes()


ARRAYS = {
    "x_train": RNG.normal(size=(20, 3)),
    "y_train": np.arange(20) % 2,
    "x_test": RNG.normal(size=(4, 3)),
    "y_test": np.arange(4) % 2,
    "class_names": np.array(["cat", "dog"]),
    "ids": np.array([f"k{i}" for i in range(20)]),
}
PIXELS = {"x_train": RNG.integers(0, 256, (8, 4, 4, 3), dtype=np.uint8), "y_train": np.arange(8) % 2}

CORPUS = {
    part: Bunch(data=[f"{part} {i}" for i in range(9)], target=np.arange(9) % 20, filenames=np.array(["x"]))
    for part in ("train", "test")
}


@dataclass(frozen=True)
class Reader:
    """A reader of users' files.

    Attributes:
        name: of a valid file.
        valid: its content.
        read: gives what it holds, comparable.
        checked: whether the format has checksums, so that no damage passes.
    """

    name: str
    valid: bytes
    read: Callable[[Path], Any]
    checked: bool = False


READERS = {
    "features": Reader("own.npz", npz(**ARRAYS), loaded, checked=True),
    "pixels": Reader("own.npz", npz(**PIXELS), loaded, checked=True),
    "csv": Reader("own.csv", FRAME.to_csv(index=False).encode(), loaded),
    "csv of texts": Reader("own.csv", TEXTS.to_csv(index=False).encode("utf-8-sig"), loaded),
    "tsv": Reader("own.tsv", FRAME.to_csv(index=False, sep="\t", lineterminator="\r\n").encode(), loaded),
    "parquet": Reader("own.parquet", as_parquet(FRAME, write_page_checksum=True), loaded),
    "parquet of texts": Reader("own.parquet", as_parquet(TEXTS), loaded),
    "parquet of categories": Reader("own.parquet", as_parquet(TEXTS.astype("category")), loaded),
    "png": Reader("own.png", as_image("PNG"), read_pixels, checked=True),
    "png of grey": Reader("own.png", as_image("PNG", "L"), read_pixels, checked=True),
    "jpg": Reader("own.jpg", as_image("JPEG"), read_pixels),
    "gif": Reader("own.gif", as_image("GIF", "P"), read_pixels),
    "bmp": Reader("own.bmp", as_image("BMP"), read_pixels),
    "webp": Reader("own.webp", as_image("WEBP"), read_pixels),
    "predict npz": Reader(
        "new.npz", npz(x=RNG.normal(size=(5, 2)), y=np.arange(5) % 2), predicted(NUMBERS), checked=True
    ),
    "predict csv": Reader("new.csv", FRAME.to_csv(index=False).encode(), predicted(NUMBERS)),
    "predict csv of texts": Reader("new.csv", TEXTS.to_csv(index=False).encode(), predicted(WORDS)),
    "predict parquet": Reader("new.parquet", as_parquet(FRAME), predicted(NUMBERS)),
    "predict parquet of texts": Reader("new.parquet", as_parquet(TEXTS), predicted(WORDS)),
    "documents": Reader(
        NEWS_FILE,
        zlib.compress(pickle.dumps(CORPUS)),
        lambda file: [part if isinstance(part, list) else part.tolist() for part in read_documents(file.parent)],
        checked=True,
    ),
    "list of images": Reader(
        "list.txt",
        b"".join(b"google/q%d/%d.jpg %d\n" % (i, i, i % 7) for i in range(20)),
        lambda file: list(entries(file, 1_000)) or None,  # who reads a list refuses an empty one
    ),
    "word vectors": Reader(
        "glove.txt",
        b"cat 0.1 -2.5 3\ndog 1 2 3\nthe 0 0 1e-3\n",
        lambda file: read_glove(file, ["cat", "dog"]).tobytes(),
    ),
}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> Reader:
    return READERS[request.param]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all examples, each of which writes its file anew."""
    return tmp_path_factory.mktemp("given")


@settings(max_examples=25)
@given(data=st.data())
@pytest.mark.parametrize("name", READERS)
def test_damage_is_refused_in_a_line_and_found_where_the_format_has_checksums(
    place: Path, name: str, data: st.DataObject
) -> None:
    reader = READERS[name]
    file = place / reader.name
    whole = made_of(file, reader.valid, lambda: reader.read(file))
    assert whole is not None
    found = made_of(file, data.draw(damaged(reader.valid)), lambda: reader.read(file))
    if reader.checked:
        assert found is None or found == whole


def test_other_kinds_of_files_are_refused_in_a_line(place: Path, reader: Reader) -> None:
    file = place / reader.name
    for kind, content in FOREIGN.items():
        assert made_of(file, content, lambda: reader.read(file)) is None, kind


def test_nothing_that_a_file_holds_is_run(place: Path, reader: Reader) -> None:
    file, marker = place / reader.name, place / "marker"
    for kind, content in hostile(marker).items():
        assert made_of(file, content, lambda: reader.read(file)) is None, kind
        assert not marker.exists(), kind


def test_what_is_not_run_would_do_harm(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for kind, content in hostile(marker).items():
        file = tmp_path / "harm"
        file.write_bytes(zlib.decompress(content) if kind == "a pickle that is packed" else content)
        if "array" in kind:
            found = np.load(file, allow_pickle=True)
            found = found["x_train"] if isinstance(found, np.lib.npyio.NpzFile) else found
        elif "torch" in kind:
            torch.load(file, weights_only=False)
        else:
            pickle.loads(file.read_bytes())
        assert marker.exists(), kind
        marker.unlink()


def test_a_folder_in_the_place_of_a_file_is_refused_in_a_line(tmp_path: Path, reader: Reader) -> None:
    file = tmp_path / reader.name
    file.mkdir()
    with pytest.raises(UserError) as caught:
        reader.read(file)
    check_line(str(caught.value), file)


# -- checksums of which a part of the file has none ---------------------------------------------------------


def test_a_flipped_bit_in_a_page_of_parquet_is_found_where_the_page_has_a_checksum(tmp_path: Path) -> None:
    plain = {"compression": "none", "use_dictionary": False}
    file = tmp_path / "own.parquet"
    for checked in (True, False):
        content = bytearray(as_parquet(FRAME, write_page_checksum=checked, **plain))
        content[content.index(struct.pack("<d", FRAME["a"][3])) + 6] ^= 1
        found = made_of(file, bytes(content), lambda: load(file))
        assert (found is None) == checked  # without one, as pandas writes them, no reader can tell


def test_the_part_of_an_archive_that_its_directory_has_lost_is_missed(tmp_path: Path) -> None:
    content, file = npz(**ARRAYS), tmp_path / "own.npz"
    last = content.rindex(b"PK\x01\x02")  # the entry of the last array, which nothing would ask for
    end = content.rindex(b"PK\x05\x06")
    size = struct.pack("<L", int.from_bytes(content[end + 12 : end + 16], "little") - (end - last))
    without = content[:last] + content[end : end + 12] + size + content[end + 16 :]
    assert made_of(file, without, lambda: load(file)) is None


def test_an_array_that_goes_on_after_its_last_value_is_refused(tmp_path: Path) -> None:
    file, packed = tmp_path / "own.npz", io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, array in ARRAYS.items():
            archive.writestr(f"{name}.npy", npy(array) + b"7" * (name == "x_train"))
    assert made_of(file, packed.getvalue(), lambda: load(file)) is None


def test_no_byte_of_a_png_changes_the_picture(tmp_path: Path) -> None:
    whole, file = as_image("PNG"), tmp_path / "own.png"
    file.write_bytes(whole)
    picture = read_pixels(file)
    for place in range(len(whole)):  # of some Pillow makes other pixels, and reads the checksum afterwards
        other = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
        assert made_of(file, other, lambda: read_pixels(file)) in (None, picture)


def test_a_word_that_is_not_utf_8_is_found_inside_parquet(tmp_path: Path) -> None:
    content = as_parquet(TEXTS, compression="none", use_dictionary=False).replace(b"sat 3", b"s\xfft 3")
    for name, read in (("own.parquet", loaded), ("new.parquet", predicted(WORDS))):
        assert made_of(tmp_path / name, content, lambda: read(tmp_path / name)) is None  # noqa: B023


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_labels_of_people_are_read_as_they_are_or_refused(cifar10_root: Path, data: st.DataObject) -> None:
    file, whole = cifar10_root / "CIFAR-10_human.pt", cifar10_root / "whole.pt"
    if not whole.exists():
        file.rename(whole)

    def read() -> NoisyLabels | None:
        return cifar10n(cifar10_root, "worse").noise

    expected = made_of(file, whole.read_bytes(), read)
    found = made_of(file, data.draw(damaged(whole.read_bytes())), read)
    assert expected is not None
    assert found is None or torch.equal(found.labels, expected.labels)


def test_labels_of_people_run_nothing(cifar10_root: Path) -> None:
    file, marker = cifar10_root / "CIFAR-10_human.pt", cifar10_root / "marker"
    for kind, content in (hostile(marker) | FOREIGN).items():
        assert made_of(file, content, lambda: cifar10n(cifar10_root, "worse")) is None, kind
        assert not marker.exists(), kind
    for value in (np.zeros(100), [0.5] * 100, ["a"] * 100, [[1], [2, 3]], {1}):  # no integers
        content = saved({"clean_label": np.arange(100) % 10, "worse_label": value})
        assert made_of(file, content, lambda: cifar10n(cifar10_root, "worse")) is None


def test_images_whose_sum_is_another_are_not_unpickled(cifar10_root: Path) -> None:
    marker = cifar10_root / "marker"
    for name in ("data_batch_2", "test_batch", "batches.meta"):
        file = cifar10_root / "cifar-10-batches-py" / name
        official = file.read_bytes()
        assert made_of(file, hostile(marker)["a pickle"], lambda: cifar10n(cifar10_root, "clean")) is None
        assert not marker.exists()
        file.write_bytes(official)


@pytest.mark.parametrize("kind", ["text", "numbers", "images"])
@settings(max_examples=15)
@given(data=st.data())
def test_a_damaged_hugging_face_data_set_is_refused_in_a_line_and_ends_no_process(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    import datasets

    folder = tmp_path_factory.getbasetemp() / f"hf-{kind}"
    columns: dict[str, tuple[Any, list[Any]]] = {
        "text": (datasets.Value("string"), [f"a cat {i}" for i in range(8)]),
        "numbers": (datasets.List(datasets.Value("float32")), RNG.normal(size=(8, 3)).tolist()),
        "images": (datasets.Image(), [{"bytes": as_image("PNG"), "path": None} for _ in range(8)]),
    }
    if not folder.exists():
        feature, values = columns[kind]
        features = datasets.Features({"label": datasets.ClassLabel(names=["cat", "dog"]), kind: feature})
        made = datasets.Dataset.from_dict({"label": [0, 1] * 4, kind: values}, features=features)
        datasets.DatasetDict({"train": made}).save_to_disk(str(folder))
    whole = {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
    file = data.draw(st.sampled_from(list(whole)))

    def read() -> list[Any]:
        found = load(f"hf:{folder}", image_size=8)
        return [found.train_eval[i] for i in range(len(found.labels))]

    try:
        file.write_bytes(data.draw(damaged(whole[file])))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except UserError as mistake:
        check_line(str(mistake), folder)
    finally:
        file.write_bytes(whole[file])


def test_words_of_a_hugging_face_data_set_that_lie_outside_of_it_end_no_process(tmp_path: Path) -> None:
    import datasets

    columns = {"label": ["cat", "dog"] * 4, "text": [f"a cat {i}" for i in range(8)]}
    datasets.Dataset.from_dict(columns).save_to_disk(str(tmp_path / "saved"))
    (file,) = (tmp_path / "saved").glob("*.arrow")
    bounds = [struct.pack("<9i", *(place if i == 4 else 7 * i for i in range(9))) for place in (28, 2**30)]
    file.write_bytes(file.read_bytes().replace(*bounds))
    with pytest.raises(ValueMistake, match="saved' cannot be loaded .*[Oo]ffset"):
        load(f"hf:{tmp_path / 'saved'}")


# -- contents that a sound file may have --------------------------------------------------------------------

CELLS = st.text(
    st.one_of(st.sampled_from(list("\"',;\t\n\r\0 \ufeffN=-\u2028\x85\x1b")), st.characters(codec="utf-8")), max_size=9
)


@settings(max_examples=40)
@given(texts=st.lists(CELLS, min_size=2, max_size=4), name=st.sampled_from(["own.csv", "own.tsv", "own.parquet"]))
def test_texts_are_what_the_file_says_down_to_the_last_character(place: Path, texts: list[str], name: str) -> None:
    file, labels = place / name, ["cat", "dog"] * 2
    if file.suffix == ".parquet":
        content = as_parquet(pd.DataFrame({"text": texts, "label": labels[: len(texts)]}))
    else:
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter="," if file.suffix == ".csv" else "\t", quoting=csv.QUOTE_ALL)
        writer.writerows([("text", "label"), *zip(texts, labels)])  # noqa: B905
        content = text.getvalue().encode()
    assert made_of(file, content, lambda: loaded(file)[0][0]) == texts
    assert made_of(file, content, lambda: predicted(WORDS)(file)[0]) == texts


@settings(max_examples=40)
@given(
    arrays=st.dictionaries(
        st.sampled_from([*ARRAYS, "y_train_clean", "x_reference", "y_reference", "x", "y"]),
        hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)),
        min_size=1,
        max_size=2,
    )
)
def test_arrays_of_any_kind_are_read_as_finite_numbers_or_refused(place: Path, arrays: dict[str, Any]) -> None:
    file = place / "own.npz"
    content = npz(**{**ARRAYS, **arrays})
    found = made_of(file, content, lambda: load(file))
    if found is not None:
        for view in (found.train, found.test, found.reference):
            assert view is None or bool(torch.stack([x for x, _ in view]).isfinite().all())
    made_of(file, content, lambda: predicted(NUMBERS)(file))


@pytest.mark.parametrize("value", [1e200, 1e300, -1e308, np.longdouble("1e4000"), np.nan, np.inf])
@pytest.mark.parametrize("name", ["x_train", "x_test"])
def test_numbers_that_a_network_would_read_as_none_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    x = ARRAYS[name].astype(np.longdouble)
    x[1, 2] = value
    file = tmp_path / "own.npz"
    assert made_of(file, npz(**{**ARRAYS, name: x}), lambda: load(file)) is None
    frame = pd.DataFrame({"label": ARRAYS["y_train"], "a": ARRAYS["x_train"][:, 0]})
    frame.loc[1, "a"] = float(value)
    file = tmp_path / "own.csv"
    assert made_of(file, frame.to_csv(index=False).encode(), lambda: load(file)) is None
    frame["b"] = 0.0
    assert made_of(file, frame.to_csv(index=False).encode(), lambda: predicted(NUMBERS)(file)) is None


def test_characters_beyond_unicode_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.npz"
    names = np.array([0x61, 0x110000], dtype=np.uint32).view("<U1")
    assert made_of(file, npz(**{**ARRAYS, "class_names": names}), lambda: load(file)) is None


@pytest.mark.parametrize("role", ["label", "text", "path", "split", "id", "column"])
def test_a_cell_that_is_long_is_not_repeated_in_full(tmp_path: Path, role: str) -> None:
    long, file = "\x1b[31mx" * 50_000, tmp_path / "own.csv"
    columns = {name: ["cat", "dog"] for name in ("label", "a" if role not in ("text", "path") else role)}
    columns |= {role: [long, long]} if role != "column" else {long: ["a", "b"]}
    assert (
        made_of(file, pd.DataFrame(columns).to_csv(index=False).encode(), lambda: load(file)) is None or role == "text"
    )


def test_a_table_may_name_images_anywhere_and_nothing_else_becomes_of_them(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "a.png").write_bytes(as_image("PNG"))
    outside = {"path": ["../a.png", str(tmp_path / "data/../a.png")], "label": ["cat", "dog"]}
    with pytest.raises(ValueMistake, match="is the file of row=0 and row=1"):  # the same file by another name
        table(pd.DataFrame(outside), folder=tmp_path / "data")
    for name in ("\0", "a\0b.png", "x" * 5_000, "../nowhere.png", "/proc/self/nowhere"):
        with pytest.raises(MissingFile, match="names 1 files that are not there"):
            table(pd.DataFrame({"path": ["../a.png", name], "label": ["cat", "dog"]}), folder=tmp_path / "data")


def test_a_class_id_longer_than_python_reads_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    assert made_of(file, b"a.jpg " + b"9" * 5_000 + b"\n", lambda: list(entries(file, 14))) is None
    assert made_of(file, b"a.jpg " + "\u0663".encode() + b"\n", lambda: list(entries(file, 14))) == [("a.jpg", 3)]


def test_a_list_may_name_anything_and_what_is_not_there_is_said(tmp_path: Path) -> None:
    for name, said in (("/nowhere/a.jpg", "nowhere"), ("x" * 5_000, "xxx"), ("a\0b.jpg", "a"), ("../a.jpg", "a.jpg")):
        folder = tmp_path / "clothing1m"
        folder.mkdir(exist_ok=True)
        for part in ("noisy_train_key_list", "clean_val_key_list", "clean_test_key_list"):
            (folder / f"{part}.txt").write_text(f"{name}\n")
        for part in ("noisy_label_kv", "clean_label_kv"):
            (folder / f"{part}.txt").write_text(f"{name} 3\n")
        with pytest.raises(MissingFile, match=f"is without .*{said}"):
            load("clothing1m", root=tmp_path)


# -- folders -----------------------------------------------------------------------------------------------


def test_a_link_that_leads_back_gives_no_image_twice(folder: Path) -> None:
    link = folder / "train/ant/again"
    link.symlink_to(folder / "train/ant", target_is_directory=True)
    with pytest.raises(ValueMistake, match="ant/again' is a link to .*ant', .* expected each folder once: remove"):
        image_folder(folder)
    link.unlink()
    link.symlink_to(folder / "test/ant", target_is_directory=True)  # elsewhere is no mistake
    assert len(image_folder(folder).labels) == 20


def test_what_is_no_file_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "train/bee/pipe.png")
    (folder / "train/bee/link.png").symlink_to(folder / "nowhere.png")
    (folder / "train/bee/folder.png").mkdir()
    found = open_all(load(folder), workers=1)
    assert [damage.sample for damage in found.damaged] == ["train/bee/link.png", "train/bee/pipe.png"]


# -- files that say they are huge ---------------------------------------------------------------------------


def header(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    """An .npy file of that shape without a value."""
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (53 - len(text)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize("shape", [(10**12, 100), (2**40,), (10**30,), (-1,), (10**12, 0)])
def test_a_shape_is_believed_only_as_far_as_the_file_reaches(tmp_path: Path, shape: tuple[int, ...]) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("x_train.npy", "y_train.npy", "x.npy"):
            archive.writestr(name, header(shape) + bytes(800))
    for name, read in (("own.npz", loaded), ("own.npz", predicted(NUMBERS))):
        with little_memory():
            assert made_of(tmp_path / name, packed.getvalue(), lambda: read(tmp_path / name)) is None  # noqa: B023


def test_an_archive_that_unpacks_to_far_more_than_it_is_is_refused(tmp_path: Path) -> None:
    content = bytearray(npz(x_train=np.zeros((100, 100)), y_train=np.arange(100) % 2))
    file = tmp_path / "own.npz"
    assert made_of(file, bytes(content), lambda: load(file)) is not None  # a hundred times as much is no trap
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = struct.pack("<L", 3 * 2**30)
    with little_memory():
        assert made_of(file, bytes(content), lambda: load(file)) is None


def test_parts_of_an_archive_that_lie_in_one_another_are_refused(tmp_path: Path) -> None:
    content = npz(x_train=RNG.normal(size=(100, 20)), y_train=np.arange(100) % 2)
    start, end = content.index(b"PK\x01\x02"), content.rindex(b"PK\x05\x06")
    second = content.index(b"PK\x01\x02", start + 1)
    directory = content[start:second] + content[start:end]
    closing = bytearray(content[end:])
    closing[8:12] = struct.pack("<HH", 3, 3)
    closing[12:16] = struct.pack("<L", len(directory))
    file = tmp_path / "own.npz"
    assert made_of(file, content[:start] + directory + bytes(closing), lambda: load(file)) is None


def test_a_table_of_a_million_columns_is_refused_by_its_first_line(tmp_path: Path) -> None:
    line = ",".join(f"c{i}" for i in range(10**6)).encode()
    file = tmp_path / "own.csv"
    with little_memory():
        assert made_of(file, line + b",label\n", lambda: load(file)) is None
        assert made_of(file, line + b",label\n", lambda: predicted(NUMBERS)(file)) is None


def test_a_table_that_unpacks_to_far_more_than_it_is_is_refused(tmp_path: Path) -> None:
    nothing = pyarrow.nulls(70_000_000)
    parquet.write_table(pyarrow.table({"a": nothing, "label": nothing}), tmp_path / "made.parquet")
    content = (tmp_path / "made.parquet").read_bytes()
    file = tmp_path / "own.parquet"
    with little_memory():
        assert made_of(file, content, lambda: load(file)) is None
        assert made_of(file, content, lambda: predicted(NUMBERS)(file)) is None


def test_documents_that_unpack_to_far_more_than_they_are_are_refused(tmp_path: Path) -> None:
    file = tmp_path / NEWS_FILE
    with little_memory():
        assert made_of(file, zlib.compress(bytes(2 * 2**20)), lambda: read_documents(tmp_path)) is None


def test_an_image_that_says_it_is_huge_is_refused(tmp_path: Path) -> None:
    content = bytearray(as_image("PNG"))
    content[16:24] = struct.pack(">LL", 60_000, 60_000)
    content[29:33] = struct.pack(">L", zlib.crc32(content[12:29]))
    file = tmp_path / "own.png"
    with little_memory():
        assert made_of(file, bytes(content), lambda: read_pixels(file)) is None
