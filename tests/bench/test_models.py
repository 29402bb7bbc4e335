from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import is_model_pretrained
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from alignprune.bench.data import TensorData
from alignprune.bench.data.preparation import Pixels, Preparation
from alignprune.bench.feature_networks import Mlp
from alignprune.bench.models import MODELS, create, features_and_logits, look_at, normalised_otherwise


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def meta(name: str, num_classes: int, shape: tuple[int, ...]) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return create(name, num_classes, shape)


def last_map(name: str, side: int) -> tuple[int, ...]:
    """Shape of the last features before the pool."""
    model: Any = meta(name, 10, (3, side, side))
    return tuple(model.forward_features(torch.zeros(1, 3, side, side, device="meta")).shape)


def test_resnet18_has_the_size_of_the_papers_network() -> None:
    # By hand: stem 3*64*9 + 128; a block of c channels 2 * 9c^2 + 4c (first of a stage: 9c^2/2 + 9c^2, and a
    # 1x1 shortcut c^2/2 + 2c); classifier 512 * 10 + 10.
    size = 3 * 64 * 9 + 128 + 2 * (18 * 64**2 + 4 * 64) + 512 * 10 + 10
    for c in (128, 256, 512):
        size += 9 * c * c // 2 + 9 * c * c + 4 * c + c * c // 2 + 2 * c + 18 * c * c + 4 * c
    assert parameters(create("resnet18", 10, (3, 32, 32))) == size == 11_173_962


def test_preactresnet18_normalises_before_each_convolution() -> None:
    # By hand: stem 3*64*9; a block of c channels 2 * 9c^2 + 4c (first of a stage, from c/2: 9c^2/2 + 9c^2,
    # norms c + 2c, and a 1x1 shortcut c^2/2 without norm); a last norm; classifier 512 * 10 + 10.
    size = 3 * 64 * 9 + 2 * (18 * 64**2 + 4 * 64) + 2 * 512 + 512 * 10 + 10
    for c in (128, 256, 512):
        size += 9 * c * c // 2 + 9 * c * c + 3 * c + c * c // 2 + 18 * c * c + 4 * c
    model = create("preactresnet18", 10, (3, 32, 32))
    assert parameters(model) == size == 11_172_170
    assert last_map("preactresnet18", 32) == (1, 512, 4, 4)
    assert last_map("preactresnet18", 96) == (1, 512, 3, 3)


def test_newsnet_is_the_papers_network() -> None:
    torch.manual_seed(0)
    model, x = create("newsnet", 7, (4800,)), torch.randn(6, 4800)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(4800, 1200), (1200, 300), (300, 7)]
    assert parameters(model) == 4800 * 1200 + 3 * 1200 + 1200 * 300 + 3 * 300 + 300 * 7 + 7
    hidden = x
    for layer in linear[:2]:  # the norms have neither scale nor shift yet
        hidden = hidden @ layer.weight.T + layer.bias
        hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
        hidden = hidden / (1 + hidden.abs())
    expected = hidden @ linear[2].weight.T + linear[2].bias
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_the_small_newsnet_is_narrower() -> None:
    model = create("newsnet-small", 7, (100,))
    shapes = [(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)]
    assert shapes == [(100, 300), (300, 100), (100, 7)]


@pytest.mark.parametrize("name, widths", [("airbench", (64, 256, 256)), ("airbench-half", (32, 128, 128))])
def test_airbench_has_the_size_of_its_papers_network(name: str, widths: tuple[int, ...]) -> None:
    # By hand: 24 filters of 2x2x3 and their biases; a block from b to c channels 9bc + 9c^2, and two norms of 2c.
    size = 24 * 12 + 24 + widths[-1] * 10
    for before, after in zip((24, *widths), widths, strict=False):
        size += 9 * before * after + 9 * after * after + 4 * after
    model = create(name, 10, (3, 32, 32))
    assert parameters(model) == size == {"airbench": 1_972_792, "airbench-half": 498_104}[name]
    fixed = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    assert fixed == 24 * 12 + 2 * sum(widths)  # the filters, and the scale of each norm
    assert last_map(name, 32) == (1, widths[-1], 3, 3)


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    """Images whose neighbouring pixels and channels are correlated, as those of photos are."""
    drawn = torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return nn.functional.avg_pool2d(drawn, 3, stride=1) * 3 + 0.5 * drawn.mean(1, keepdim=True)[..., 1:-1, 1:-1]


def test_the_first_layer_of_airbench_whitens_patches() -> None:
    model: Any = create("airbench-half", 3, (3, 10, 10))
    images = pictures(300)
    look_at(model, TensorData(images, torch.zeros(300, dtype=torch.int64)))
    out = model.whitening(images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(out[:12], -out[12:])
    moments = out[:12] @ out[:12].T / out.shape[1]
    torch.testing.assert_close(moments, torch.eye(12), atol=0.01, rtol=0)  # but for the ridge
    patches = torch.stack([images[:, :, i : i + 9, j : j + 9] for i in (0, 1) for j in (0, 1)], dim=2)
    raw = patches.flatten(1, 2).transpose(0, 1).flatten(1)  # in the order of a filter: channel, row, column
    variances = torch.linalg.eigvalsh(raw @ raw.T / raw.shape[1])
    assert variances.max() > 20 * variances.min()  # there was something to whiten
    torch.testing.assert_close(moments.diag(), (variances / (variances + 5e-4)).flip(0), rtol=1e-3, atol=1e-4)


def test_the_whitening_depends_on_the_images_alone_and_is_kept_with_the_weights(tmp_path: Path) -> None:
    samples = TensorData(pictures(50), torch.zeros(50, dtype=torch.int64))
    models: list[Any] = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(create("airbench-half", 3, (3, 10, 10)))
        drawn = torch.get_rng_state()
        look_at(models[-1], samples)
        assert torch.equal(torch.get_rng_state(), drawn)
    first, second = models
    assert torch.equal(first.whitening.weight, second.whitening.weight)
    assert not torch.equal(first.fc.weight, second.fc.weight)
    again: Any = create("airbench-half", 3, (3, 10, 10), weights=stored(first, tmp_path / "weights.pt"))
    assert torch.equal(again.whitening.weight, first.whitening.weight)


def test_a_network_sees_samples_of_every_part_of_a_large_data_set() -> None:
    images = torch.zeros(12_000, 3, 9, 9)
    images[9_000:] = pictures(3_000)[:, :, :9, :9]  # a data set sorted by class
    model: Any = create("airbench-half", 3, (3, 9, 9))
    look_at(model, TensorData(images, torch.zeros(12_000, dtype=torch.int64)))
    seen: Any = create("airbench-half", 3, (3, 9, 9))
    seen.look_at([images[::3]])
    torch.testing.assert_close(model.whitening.weight, seen.whitening.weight)


def test_every_convolution_of_airbench_starts_as_the_identity() -> None:
    model: Any = create("airbench-half", 3, (3, 32, 32))
    layers = [module for module in model.blocks.modules() if isinstance(module, nn.Conv2d)]
    assert len(layers) == 6
    for layer in layers:
        x = torch.randn(2, layer.in_channels, 5, 5)
        assert torch.equal(layer(x)[:, : layer.in_channels], x)
        assert all(filters.std() > 0 for filters in layer.weight[layer.in_channels :])  # the others are drawn


def test_networks_that_start_from_nothing_do_not_look_at_samples() -> None:
    model = create("resnet-small", 3, (3, 10, 10))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    look_at(model, TensorData(pictures(20), torch.zeros(20, dtype=torch.int64)))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "name, millions, shape",
    [
        ("resnet50", 25.6, (3, 224, 224)),
        ("inception-resnet-v2", 55.8, (3, 299, 299)),
        ("convnext-t", 28.6, (3, 224, 224)),
        ("convnext-b", 88.6, (3, 224, 224)),
        ("deit-s", 22.1, (3, 224, 224)),
        ("deit-b", 86.6, (3, 224, 224)),
        ("swin-t", 28.3, (3, 224, 224)),
        ("swin-b", 87.8, (3, 224, 224)),
    ],
)
def test_large_networks_have_their_published_sizes(name: str, millions: float, shape: tuple[int, ...]) -> None:
    assert round(parameters(meta(name, 1000, shape)) / 1e6, 1) == millions


def test_small_images_keep_their_resolution_in_the_stem() -> None:
    for name in ("resnet18", "resnet-small", "resnet50"):
        model: Any = meta(name, 10, (3, 64, 64))
        assert (model.conv1.kernel_size, model.conv1.stride, model.conv1.padding) == ((3, 3), (1, 1), (1, 1))
        assert model.conv1.bias is None
        assert isinstance(model.maxpool, nn.Identity)


def test_large_images_get_the_plain_stem() -> None:
    for name in ("resnet18", "resnet-small", "resnet50"):
        model: Any = meta(name, 10, (3, 96, 96))
        assert (model.conv1.kernel_size, model.conv1.stride) == ((7, 7), (2, 2))
        assert isinstance(model.maxpool, nn.MaxPool2d)


@pytest.mark.parametrize("name", ["resnet18", "preactresnet18"])
def test_nothing_starts_at_zero_in_the_networks_for_small_images(name: str) -> None:
    for module in create(name, 10, (3, 32, 32)).modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
        elif isinstance(module, nn.Conv2d):
            assert module.weight.std() > 0


def test_the_small_resnet_is_small() -> None:
    assert 250_000 < parameters(create("resnet-small", 10, (3, 32, 32))) < 350_000


def test_the_tiny_resnet_does_a_quarter_of_the_small_ones_arithmetic() -> None:
    def operations(name: str) -> int:
        model = meta(name, 10, (3, 32, 32))
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 32, 32, device="meta"))
        return counter.get_total_flops() - 2 * 128 * 10  # the classifier is the same

    assert 4 * operations("resnet-tiny") == operations("resnet-small")
    assert parameters(meta("resnet-tiny", 10, (3, 32, 32))) == parameters(meta("resnet-small", 10, (3, 32, 32)))
    assert last_map("resnet-tiny", 32) == (1, 128, 2, 2)


def test_a_head_has_one_hidden_layer_of_512_with_batch_normalisation() -> None:
    model = create("head", 7, (20,))
    assert [tuple(p.shape) for p in model.parameters()] == [(512, 20), (512,), (512,), (512,), (7, 512), (7,)]
    x = torch.randn(64, 20)
    hidden = torch.relu(torch.nn.functional.batch_norm(x @ model.body[0].weight.T, None, None, training=True))
    assert torch.allclose(model(x), hidden @ model.fc.weight.T + model.fc.bias, atol=1e-5)  # a bias before it is lost


def test_the_mlp_has_three_layers_of_256() -> None:
    model = create("mlp", 7, (20,))
    shapes = [(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)]
    assert shapes == [(20, 256), (256, 256), (256, 7)]


@pytest.mark.parametrize(
    "name, shape, width",
    [
        ("resnet18", (3, 32, 32), 512),
        ("resnet-small", (1, 28, 28), 128),
        ("resnet-tiny", (3, 32, 32), 128),
        ("preactresnet18", (3, 32, 32), 512),
        ("airbench", (3, 32, 32), 256),
        ("airbench-half", (1, 28, 28), 128),
        ("efficientnet-lite0", (1, 32, 32), 1280),
        ("inception-resnet-v2", (3, 75, 75), 1536),
        ("deit-s", (3, 32, 32), 384),
        ("swin-t", (3, 32, 32), 768),
        ("mlp", (20,), 256),
        ("newsnet-small", (20,), 100),
        ("head", (20,), 512),
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


SMALL = [
    "resnet18",
    "resnet-small",
    "preactresnet18",
    "airbench",
    "airbench-half",
    "efficientnet-lite0",
    "mlp",
    "head",
    "newsnet",
    "newsnet-small",
]


@pytest.mark.parametrize("name", SMALL)
def test_every_small_network_learns_from_a_step(name: str) -> None:
    shape = (3, 32, 32) if MODELS[name].inputs == "images" else (8,)
    model = create(name, 3, shape)
    assert model.training
    x, y = torch.randn(4, *shape), torch.tensor([0, 1, 2, 0])
    nn.functional.cross_entropy(model(x), y).backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_making_a_network_moves_no_statistic() -> None:
    for module in create("resnet-small", 3, (3, 32, 32)).modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_batches_tracked == 0
            assert (module.running_mean == 0).all()


def test_every_network_says_what_it_is() -> None:
    assert all(name == record.name and record.description for name, record in MODELS.items())


def test_published_weights_are_there_under_the_names_asked_for() -> None:
    names = [record.build.args[0] for record in MODELS.values() if record.published]  # type: ignore[attr-defined]
    assert len(names) == 11
    assert all(is_model_pretrained(name) and name.endswith("in1k") for name in names)


@pytest.mark.parametrize("name, side, patch", [("deit-s", 40, 16), ("swin-t", 42, 4)])
def test_transformers_take_images_of_whole_patches_only(name: str, side: int, patch: int) -> None:
    whole = side + patch // 2
    assert meta(name, 10, (3, whole, whole))(torch.zeros(1, 3, whole, whole, device="meta")).shape == (1, 10)
    with pytest.raises(
        ValueError, match=rf"input_shape=.3, {side}, {side}. .* patches of {patch}x{patch} .* to {whole}x{whole}"
    ):
        meta(name, 10, (3, side, side))


def test_images_too_small_for_a_network_are_refused() -> None:
    with pytest.raises(ValueError, match="'inception-resnet-v2' cannot take .* another than 32x32 pixels"):
        meta("inception-resnet-v2", 10, (3, 32, 32))


def drop_rates(model: nn.Module) -> list[float]:
    return [module.drop_prob for module in model.modules() if hasattr(module, "drop_prob")]


def test_drop_path_grows_to_its_value_at_the_last_block() -> None:
    with torch.device("meta"):
        rates = drop_rates(create("convnext-t", 10, (3, 32, 32), drop_path=0.4))
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.4)
    assert max(drop_rates(meta("swin-t", 10, (3, 32, 32))), default=0.0) == 0  # timm's own default is 0.1


def test_drop_path_is_refused_where_there_is_none() -> None:
    for name, shape in (("mlp", (4,)), ("airbench", (3, 32, 32)), ("inception-resnet-v2", (3, 75, 75))):
        with torch.device("meta"), pytest.raises(ValueError, match="drop_path=0.1 is given .* no stochastic depth"):
            create(name, 10, shape, drop_path=0.1)
    with pytest.raises(ValueError, match="drop_path=1.0 is out of range"):
        create("resnet18", 10, (3, 32, 32), drop_path=1.0)


def stored(model: nn.Module, path: Path) -> str:
    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    return str(path)


@pytest.mark.parametrize("name, shape", [("resnet-small", (3, 32, 32)), ("mlp", (4,))])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_of_a_file_are_loaded(name: str, shape: tuple[int, ...], suffix: str, tmp_path: Path) -> None:
    source = create(name, 5, shape)
    model = create(name, 5, shape, weights=stored(source, tmp_path / f"weights{suffix}"))
    x = torch.randn(2, *shape)
    torch.testing.assert_close(model.eval()(x), source.eval()(x))
    other = create(name, 7, shape, weights=str(tmp_path / f"weights{suffix}")).eval()
    with torch.no_grad():
        features, logits = features_and_logits(other, x)
        torch.testing.assert_close(features, features_and_logits(source, x)[0])
    assert logits.shape == (2, 7)


def test_checkpoints_of_other_scripts_are_loaded(tmp_path: Path) -> None:
    source = create("mlp", 3, (4,))
    state = {f"module.{key}": value for key, value in source.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "checkpoint.pth")
    model = create("mlp", 3, (4,), weights=str(tmp_path / "checkpoint.pth"))
    x = torch.randn(2, 4)
    torch.testing.assert_close(model(x), source(x))


def test_weights_of_another_network_are_refused_with_their_first_keys(tmp_path: Path) -> None:
    file = stored(create("mlp", 3, (4,)), tmp_path / "mlp.pt")
    with pytest.raises(
        ValueError, match=r"no state dict of 'mlp' \(1 of another shape: body.0.weight \(256, 4\) instead"
    ):
        create("mlp", 3, (6,), weights=file)
    with pytest.raises(
        ValueError, match=r"missing: body.1.weight, body.1.bias, body.1.running_mean, \.\.\.; .* unknown: body.2"
    ):
        create("newsnet-small", 3, (4,), weights=file)


def test_weights_that_nobody_has_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weights='pretrained' is given, but timm publishes none for 'mlp'"):
        create("mlp", 3, (4,), weights="pretrained")
    with pytest.raises(ValueError, match="images up to 64 pixels high get a 3x3 stem"):
        create("resnet18", 3, (3, 32, 32), weights="pretrained")
    with pytest.raises(ValueError, match=r"'imagenet' is no file of weights, expected 'pretrained', 'packaged' or a"):
        create("resnet18", 3, (3, 32, 32), weights="imagenet")
    with pytest.raises(FileNotFoundError, match=r"weights=.*absent\.pt"):
        create("mlp", 3, (4,), weights=str(tmp_path / "absent.pt"))


def test_an_unknown_name_lists_the_own_and_the_nearest_names() -> None:
    with pytest.raises(ValueError, match=r"name='resnet-smal' is unknown, .*resnet18, .*nearest: resnet-small"):
        create("resnet-smal", 10, (3, 32, 32))
    with pytest.raises(ValueError, match=r"nearest: resnet18, (?!resnet18)"):
        create("resnet81", 10, (3, 32, 32))
    with pytest.raises(ValueError, match=r"nearest: convnext_tiny"):
        create("convnxt_tiny", 10, (3, 32, 32))
    with pytest.raises(ValueError, match=r"name='resnet50\.tv' is unknown"):
        create("resnet50.tv", 10, (3, 96, 96))


def test_images_and_features_are_not_confused() -> None:
    for name in ("resnet18", "resnet34"):
        with pytest.raises(ValueError, match=rf"name='{name}' is a network for images, but .* features .* one of mlp"):
            create(name, 10, (20,))
    with pytest.raises(
        ValueError, match=r"name='mlp' is a network for features, but .* images .*resnet18, resnet-small"
    ):
        create("mlp", 10, (3, 32, 32))


@pytest.mark.parametrize("shape", [(), (3, 32), (3, 0, 32)])
def test_other_input_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="input_shape="):
        create("resnet18", 10, shape)


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="num_classes=1 is out of range, expected an integer >= 2"):
        create("mlp", 1, (4,))


def test_features_of_an_unfit_model_are_refused() -> None:
    with pytest.raises(TypeError, match="model is a Linear without forward_features, forward_head"):
        features_and_logits(nn.Linear(2, 2), torch.zeros(1, 2))

    class TwoHeads(Mlp):
        def get_classifier(self) -> tuple[nn.Module, nn.Module]:  # type: ignore[override]
            return self.fc, self.fc

    with pytest.raises(TypeError, match=r"get_classifier\(\) gives a tuple, expected one classifier"):
        features_and_logits(TwoHeads(2, 2), torch.zeros(1, 2))


@pytest.mark.parametrize(
    "mean, std, told",
    [
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), False),
        ((0.49, 0.5, 0.51), (0.52, 0.5, 0.5), False),
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), True),
    ],
)
def test_published_weights_that_know_images_normalised_otherwise_are_told(
    mean: tuple[float, ...], std: tuple[float, ...], told: bool
) -> None:
    network = timm.create_model("test_resnet", num_classes=3)  # published for a mean and a deviation of a half
    said = normalised_otherwise(network, Preparation("pixels", (Pixels(mean, std),), shape=(3, 8, 8)))
    assert (said is not None) == told
    if said is not None:
        assert "know images of mean 0.5 0.5 0.5 and deviation 0.5 0.5 0.5" in said
        assert "have mean 0.485 0.456 0.406 and deviation 0.229 0.224 0.225" in said


def test_nothing_is_told_of_networks_without_published_weights_and_of_features() -> None:
    pixels = Preparation("pixels", (Pixels((0.5,), (0.5,)),), shape=(1, 8, 8))
    assert normalised_otherwise(create("airbench", 3, (3, 32, 32)), pixels) is None
    assert normalised_otherwise(timm.create_model("test_resnet", num_classes=3), None) is None
