"""Which data sets there are, how they are found, and what of them is there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from alignprune.bench.data import DATASETS, FORMATS, DatasetStatus, check, load, refuse_missing
from alignprune.bench.data.arrays import ARRAYS
from alignprune.bench.data.table import TABLE
from alignprune.noise import KINDS

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "data.md"


def test_an_unknown_data_set_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"dataset='cifar100' is unknown, .*\.npz .*mean 'cifar100n'"):
        load("cifar100")


def test_records_describe_every_data_set() -> None:
    for record in (*DATASETS.values(), *FORMATS.values()):
        assert record.description
        assert record.files or record.name == "digits"
        assert record.source
        assert record.default_noise in record.noises
        assert ("asymmetric" in record.noises) == (record.flips is not None)


def test_noise_of_any_classes_is_offered_wherever_noise_is_drawn() -> None:
    for record in (*DATASETS.values(), *FORMATS.values()):
        drawn = set(record.noises) & set(KINDS)
        assert not drawn or drawn >= set(KINDS) - {"asymmetric", "instance-dependent"}


def test_noise_that_depends_on_the_sample_is_offered_for_samples_of_numbers() -> None:
    offering = {
        record.name for record in (*DATASETS.values(), *FORMATS.values()) if "instance-dependent" in record.noises
    }
    ready = {"digits", "news", "news20", "news-document", "news20-document"}
    assert offering == ready | {name for name in DATASETS if name.startswith("cifar")} | {ARRAYS.name, TABLE.name}


def test_real_noise_takes_no_rate() -> None:
    with pytest.raises(ValueError, match=r"noise_rate=0.2 is given with the noise 'real', .* None: leave it out$"):
        load("webvision", root="nowhere", noise_rate=0.2)
    with pytest.raises(ValueError, match="noise='symmetric' is unknown, expected one of real"):
        load("clothing1m", root="nowhere", noise="symmetric", noise_rate=0.2)


def test_the_documentation_lists_every_data_set_as_its_record_does() -> None:
    text = DOCUMENTATION.read_text()
    for record in DATASETS.values():
        given = ", ".join(f"`{kind}`" for kind in record.noises if kind not in KINDS)
        if not set(record.noises) & set(KINDS):
            drawn = "none"
        else:
            drawn = "every kind" if record.flips is not None else "every kind but `asymmetric`"
        assert f"| `{record.name}` | {record.description} | {given} | {drawn} | {record.source} |" in text
        for file in record.files:
            assert Path(file).name in text
    for form in FORMATS:
        assert f"| `{form}` |" in text


# -- what is there -----------------------------------------------------------------------------------------


def status(root: Path, name: str) -> DatasetStatus:
    (found,) = (status for status in check(root) if status.name == name)
    return found


def test_an_empty_root_lacks_every_file_of_every_data_set(tmp_path: Path) -> None:
    found = check(tmp_path)
    assert [status.name for status in found] == list(DATASETS)
    for status in found:
        record = DATASETS[status.name]
        assert (status.complete, status.found) == (not record.files, ())
        assert status.missing == tuple(f"{file}: not there" for file in record.files)
        assert (status.source, status.note) == (record.source, record.note)


def test_a_complete_data_set_lacks_nothing(cifar100_root: Path) -> None:
    found = status(cifar100_root, "cifar100n")
    assert (found.complete, found.missing) == (True, ())
    assert found.found == ("cifar-100-python/", "CIFAR-100_human.pt")


def test_a_file_that_is_missing_empty_or_damaged_is_named(cifar100_root: Path) -> None:
    (cifar100_root / "CIFAR-100_human.pt").write_bytes(b"")
    with open(cifar100_root / "cifar-100-python" / "test", "ab") as file:
        file.write(b"!")
    (cifar100_root / "cifar-100-python" / "meta").unlink()
    found = status(cifar100_root, "cifar100n")
    assert not found.complete
    assert found.missing == (
        "cifar-100-python/: test, meta missing or not the official file (MD5)",
        "CIFAR-100_human.pt: empty",
    )


def test_folders_of_classes_are_counted(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "imagenet" / "train" / name).mkdir(parents=True)
    (tmp_path / "imagenet" / "val").write_text("")
    assert status(tmp_path, "imagenet").missing == (
        "imagenet/train/: 3 folders of classes, expected 1000",
        "imagenet/val/: not a folder",
    )


def test_the_data_root_to_look_in_comes_from_the_environment(
    cifar100_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGNPRUNE_DATA", str(cifar100_root))
    assert check()[0].complete
    monkeypatch.delenv("ALIGNPRUNE_DATA")
    with pytest.raises(ValueError, match="root=None is given"):
        check()


# -- what has to be there ----------------------------------------------------------------------------------


def test_all_data_sets_that_are_missing_are_refused_at_once_with_their_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [
        ("digits", None),
        ("cifar100n", "clean"),
        ("news", "clean"),
        ("news20-document", "clean"),
        ("x.npz", None),
    ]
    with pytest.raises(FileNotFoundError) as refused:
        refuse_missing(wanted, tmp_path)
    said = str(refused.value)
    assert said.startswith(f"root='{tmp_path}' is without cifar100n (cifar-100-python/: not there; source: images: ")
    assert "news and news20-document (20news-bydate_py3.pkz: not there; source: scikit-learn: " in said
    assert not any(other in said for other in ("digits", "cifar10n", "CIFAR-100_human.pt", "\n"))
    monkeypatch.delenv("ALIGNPRUNE_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"root=None .* is not set for cifar100n \(cifar-100-python/; source: "):
        refuse_missing(wanted)
    refuse_missing([("digits", None)])


def test_a_file_of_one_noise_is_missed_where_that_noise_is_wanted(cifar100_root: Path) -> None:
    (cifar100_root / "CIFAR-100_human.pt").unlink()
    drawn = [("cifar100n", noise) for noise in ("clean", "symmetric")]
    refuse_missing(drawn, cifar100_root)
    for noise in ("real", None):
        with pytest.raises(FileNotFoundError, match=r"is without cifar100n \(CIFAR-100_human.pt: not there; source"):
            refuse_missing([*drawn, ("cifar100n", noise)], cifar100_root)


def test_every_file_of_one_noise_is_one_of_its_data_set() -> None:
    for record in DATASETS.values():
        assert set(record.only_for) <= set(record.files)
        assert {noise for noises in record.only_for.values() for noise in noises} <= set(record.noises)


@pytest.mark.parametrize(
    "dataset, library", [("cifar100n-pretrained", "efficientnet_lite0"), ("news20-sentences", "sentence_transformers")]
)
def test_what_embeds_a_data_set_has_to_be_installed(
    dataset: str, library: str, cifar100_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cifar100_root / "20news-bydate_py3.pkz").write_bytes(b"documents")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if library in name else find(name, *rest))
    with pytest.raises(ImportError, match="pip install"):
        refuse_missing([(dataset, "clean")], cifar100_root)
