from __future__ import annotations

import pytest
import torch
from torch import nn

from alignprune.bench.models import MODELS, Mlp, create, features_and_logits


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_resnet18_has_the_size_of_the_papers_network() -> None:
    # By hand: stem 3*64*9 + 128; a block of c channels 2 * 9c^2 + 4c (first of a stage: 9c^2/2 + 9c^2, and a
    # 1x1 shortcut c^2/2 + 2c); classifier 512 * 10 + 10.
    size = 3 * 64 * 9 + 128 + 2 * (18 * 64**2 + 4 * 64) + 512 * 10 + 10
    for c in (128, 256, 512):
        size += 9 * c * c // 2 + 9 * c * c + 4 * c + c * c // 2 + 2 * c + 18 * c * c + 4 * c
    assert parameters(create("resnet18", 10, (3, 32, 32))) == size == 11_173_962


def test_small_images_keep_their_resolution_in_the_stem() -> None:
    for name in ("resnet18", "resnet-small"):
        model = create(name, 10, (3, 64, 64))
        assert (model.conv1.kernel_size, model.conv1.stride, model.conv1.padding) == ((3, 3), (1, 1), (1, 1))
        assert model.conv1.bias is None
        assert isinstance(model.maxpool, nn.Identity)


def test_large_images_get_the_plain_stem() -> None:
    for name in ("resnet18", "resnet-small"):
        model = create(name, 10, (3, 96, 96))
        assert (model.conv1.kernel_size, model.conv1.stride) == ((7, 7), (2, 2))
        assert isinstance(model.maxpool, nn.MaxPool2d)


def test_no_scale_starts_at_zero_in_the_networks_for_small_images() -> None:
    for module in create("resnet18", 10, (3, 32, 32)).modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


def test_the_small_resnet_is_small() -> None:
    assert 250_000 < parameters(create("resnet-small", 10, (3, 32, 32))) < 350_000


def test_the_mlp_has_three_layers_of_256() -> None:
    model = create("mlp", 7, (20,))
    shapes = [(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)]
    assert shapes == [(20, 256), (256, 256), (256, 7)]


@pytest.mark.parametrize(
    "name, shape, width",
    [
        ("resnet18", (3, 32, 32), 512),
        ("resnet-small", (1, 28, 28), 128),
        ("mlp", (20,), 256),
        ("mobilenetv3_small_050", (3, 64, 64), 1024),
        ("convnext_atto", (3, 32, 32), 320),
    ],
)
def test_features_and_logits_agree_with_the_forward_pass(name: str, shape: tuple[int, ...], width: int) -> None:
    torch.manual_seed(0)
    model = create(name, 5, shape).eval()
    x = torch.randn(2, *shape)
    with torch.no_grad():
        features, logits = features_and_logits(model, x)
        torch.testing.assert_close(logits, model(x))
    assert features.shape == (2, width)
    assert logits.shape == (2, 5)


def test_every_network_learns_from_a_step() -> None:
    for record in MODELS.values():
        shape = (3, 32, 32) if record.inputs == "images" else (8,)
        model = create(record.name, 3, shape)
        x, y = torch.randn(4, *shape), torch.tensor([0, 1, 2, 0])
        nn.functional.cross_entropy(model(x), y).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        assert record.description


def test_an_unknown_name_lists_the_own_and_the_nearest_names() -> None:
    with pytest.raises(ValueError, match=r"name: 'resnet-smal' is unknown, .*resnet18, .*nearest: resnet-small"):
        create("resnet-smal", 10, (3, 32, 32))
    with pytest.raises(ValueError, match=r"nearest: convnext_tiny"):
        create("convnxt_tiny", 10, (3, 32, 32))


def test_images_and_features_are_not_confused() -> None:
    for name in ("resnet18", "resnet34"):
        with pytest.raises(ValueError, match=rf"name: '{name}' takes images, but .* features .* one of mlp"):
            create(name, 10, (20,))
    with pytest.raises(ValueError, match=r"name: 'mlp' takes features, but .* images .*resnet18, resnet-small"):
        create("mlp", 10, (3, 32, 32))


@pytest.mark.parametrize("shape", [(), (3, 32), (3, 0, 32)])
def test_other_input_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="input_shape: "):
        create("resnet18", 10, shape)


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="num_classes: 1 given, expected >= 2"):
        create("mlp", 1, (4,))


def test_features_of_an_unfit_model_are_refused() -> None:
    with pytest.raises(TypeError, match="model: a Linear without forward_features, forward_head"):
        features_and_logits(nn.Linear(2, 2), torch.zeros(1, 2))

    class TwoHeads(Mlp):
        def get_classifier(self) -> tuple[nn.Module, nn.Module]:  # type: ignore[override]
            return self.fc, self.fc

    with pytest.raises(TypeError, match=r"get_classifier\(\) gives a tuple, expected one classifier"):
        features_and_logits(TwoHeads(2, 2), torch.zeros(1, 2))
