"""What is done to a raw input: a record that survives JSON, and the same arithmetic as the data set's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alignprune.bench.data import arrays, digits
from alignprune.bench.data.preparation import Features, Photo, Pixels, Preparation, Resized
from alignprune.bench.data.transforms import photo_transforms, resized_transforms

PREPARATIONS = [
    Preparation("photo", (Photo((64,), 48, (0.5, 0.4, 0.3), (0.2, 0.2, 0.3)),)),
    Preparation("pixels", (Pixels((0.1,), (1 / 3,)),), shape=(1, 8, 8)),
    Preparation("features", (Features((0.1, 1e-300), (2 / 3, 1.0)),), shape=(2,), names=("a", "b")),
    Preparation("pixels", (Pixels((0.1,), (0.5,)), Features((0.0,), (1.0,))), shape=(1, 1, 1)),
    Preparation("pixels", (Pixels((0.1,), (0.5,)), Resized(16)), shape=(1, 8, 8)),
    Preparation("features", shape=(3,)),
]


@pytest.mark.parametrize("preparation", PREPARATIONS)
def test_a_preparation_is_the_same_after_json(preparation: Preparation) -> None:
    assert Preparation.from_json(json.loads(json.dumps(preparation.to_json()))) == preparation


def test_a_record_of_another_kind_is_refused_with_what_is_expected() -> None:
    stored = PREPARATIONS[0].to_json()
    with pytest.raises(ValueError, match="kind='foto' is unknown.*did you mean 'photo'"):
        Preparation.from_json(stored | {"steps": [{**stored["steps"][0], "kind": "foto"}]})
    with pytest.raises(ValueError, match="expected the values crop, kind, mean, resize, std"):
        Preparation.from_json(stored | {"steps": [{"kind": "photo", "crop": 3}]})
    with pytest.raises(ValueError, match="raw='sound' is unknown"):
        Preparation.from_json(stored | {"raw": "sound"})
    with pytest.raises(ValueError, match="expected the values names, raw, shape, steps"):
        Preparation.from_json({"raw": "photo"})


def test_pixels_are_scaled_and_normalised_by_channel() -> None:
    image = torch.arange(2 * 3 * 4, dtype=torch.uint8).reshape(2, 3, 4) * 10
    found = Preparation("pixels", (Pixels((0.2, 0.4), (0.5, 0.25)),), shape=(2, 3, 4)).build()(image)
    expected = [(image[c].double() / 255 - mean) / std for c, (mean, std) in enumerate([(0.2, 0.5), (0.4, 0.25)])]
    torch.testing.assert_close(found, torch.stack(expected).float())
    assert found.dtype == torch.float32


def test_a_photo_is_cut_from_its_centre() -> None:
    picture = np.zeros((40, 80, 3), dtype=np.uint8)
    picture[:, 30:50] = 255  # the middle of the width
    step = Photo((40,), 20, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    found = Preparation("photo", (step,)).build()(Image.fromarray(picture))
    torch.testing.assert_close(found, torch.ones(3, 20, 20))
    squeezed = Preparation("photo", (Photo((20, 20), 20, step.mean, step.std),)).build()(Image.fromarray(picture))
    assert squeezed[:, :, 0].max() == -1  # the whole width is still there


@pytest.mark.parametrize("make", [photo_transforms, resized_transforms])
def test_photos_are_evaluated_as_their_record_says(make: type) -> None:
    transforms = make(28)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    again = Preparation.from_json(json.loads(json.dumps(transforms.preparation.to_json())))
    assert torch.equal(transforms.plain(picture), again.build()(picture))


def test_own_features_are_standardised_as_their_record_says(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(3, 2, size=(30, 4)).astype(np.float32)
    x[:, 2] = 5
    y = np.arange(30) % 2
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x[:7], y_test=y[:7])
    data = arrays(tmp_path / "own.npz")
    again = Preparation.from_json(json.loads(json.dumps(data.preparation.to_json()))).build()
    seen = torch.stack([data.test[i][0] for i in range(7)])
    assert torch.equal(again(torch.from_numpy(x[:7])), seen)
    double = x.astype(np.float64)
    spread = np.where(np.arange(4) == 2, 1, double.std(0))
    np.testing.assert_allclose(seen, (double[:7] - double.mean(0)) / spread, rtol=1e-5, atol=1e-6)


def test_own_images_are_normalised_as_their_record_says(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 200, (20, 9, 8, 3), dtype=np.uint8)
    y = np.arange(20) % 2
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x[:5], y_test=y[:5])
    data = arrays(tmp_path / "own.npz")
    assert data.preparation.shape == (3, 9, 8)
    raw = torch.from_numpy(x[:5]).permute(0, 3, 1, 2)
    assert torch.equal(data.preparation.build()(raw), torch.stack([data.test[i][0] for i in range(5)]))


def test_features_that_come_ready_are_read_as_they_are() -> None:
    data = digits()
    sample = data.test[3][0]
    assert data.preparation == Preparation("features", shape=(64,))
    assert torch.equal(data.preparation.build()(sample.double()), sample)
