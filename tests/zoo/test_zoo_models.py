from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from foreprune.zoo import models
from foreprune.zoo.models import create
from foreprune.zoo.resnets import BasicBlock, Bottleneck

SHAPES = {"lenet-300-100": (1, 28, 28), "lenet-5": (1, 28, 28), "fc": (1, 28, 28), "mlp": (1, 28, 28)}
HEAVY = ("wrn-14-10", "wrn-20-8", "resnet-110", "vgg-19", "fc-2000", "resnet-50")


def shape_of(name: str) -> tuple[int, int, int]:
    return SHAPES.get(name) or SHAPES.get(name.split("-")[0]) or (3, 32, 32)


def counts(model: nn.Module) -> tuple[int, int]:
    """All parameters, and those of linear and convolutional weights."""
    weights = [m.weight for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    return sum(p.numel() for p in model.parameters()), sum(w.numel() for w in weights)


# MNIST or CIFAR sizes, ten classes. Known from elsewhere: LeNet-300-100 266,610 and LeNet-5 (Caffe) 431,080; ResNet-20,
# -56 with projections 272,474 and 855,770; VGG-16 with batch normalization 14,728,266 for CIFAR; ResNet-18 11,173,962.
COUNTS = [
    ("lenet-300-100", 266_610, 266_200),
    ("lenet-5", 431_080, 430_500),
    ("fc-100", 130_010, 129_400),
    ("fc-500", 1_650_010, 1_647_000),
    ("fc-1000", 5_800_010, 5_794_000),
    ("fc-2000", 21_600_010, 21_588_000),
    ("mlp-bn-100", 131_210, 129_400),
    ("mlp-bn-200", 362_410, 358_800),
    ("mlp-bn-300", 693_610, 688_200),
    ("mlp-bn-400", 1_124_810, 1_117_600),
    ("resnet-8", 78_042, 77_360),
    ("resnet-20", 272_474, 270_896),
    ("resnet-32", 466_906, 464_432),
    ("resnet-44", 661_338, 657_968),
    ("resnet-56", 855_770, 851_504),
    ("resnet-110", 1_730_714, 1_722_416),
    ("wide-resnet-20", 1_084_586, 1_081_440),
    ("wrn-14-8", 11_093_130, 11_084_160),
    ("wrn-14-10", 17_327_530, 17_316_320),
    ("wrn-20-8", 17_289_866, 17_277_312),
    ("wrn-32-2", 1_860_522, 1_855_584),
    ("vgg-11", 9_231_114, 9_222_848),
    ("vgg-13", 9_416_010, 9_407_168),
    ("vgg-16", 14_728_266, 14_715_584),
    ("vgg-19", 20_040_522, 20_024_000),
    ("vgg-16-2fc", 14_991_946, 14_977_728),
    ("resnet-18", 11_173_962, 11_164_352),
    ("resnet-18-imagenet", 11_181_642, 11_172_032),
    ("resnet-50", 23_528_522, 23_475_392),
]


@pytest.mark.parametrize(("name", "parameters", "weights"), COUNTS)
def test_exact_parameter_counts(name: str, parameters: int, weights: int) -> None:
    assert counts(create(name, input_shape=shape_of(name))) == (parameters, weights)


def test_exact_parameter_counts_at_other_sizes() -> None:
    imagenet = {"resnet-50": 25_557_032, "resnet-18-imagenet": 11_689_512}
    for name, parameters in imagenet.items():
        assert counts(create(name, input_shape=(3, 224, 224), classes=1000))[0] == parameters
    tiny = {"resnet-18": 11_271_432, "vgg-16": 14_825_736, "vgg-19": 20_137_992}
    for name, parameters in tiny.items():
        assert counts(create(name, input_shape=(3, 64, 64), classes=200))[0] == parameters
    assert counts(create("resnet-20", input_shape=(3, 32, 32), classes=100))[0] == 278_324
    # 13 convolutions alone, as in Simonyan and Zisserman 2015, configuration D
    vgg = create("vgg-16", input_shape=(3, 32, 32))
    assert sum(m.weight.numel() for m in vgg.modules() if isinstance(m, nn.Conv2d)) == 14_710_464


@pytest.mark.parametrize(
    ("name", "parameters", "weights"),
    [("mlp-bn-100", 209_384, 206_800), ("mlp-bn-400", 1_435_184, 1_427_200), ("mlp-bn-100-3", 178_484, 176_800)],
)
def test_an_image_as_output(name: str, parameters: int, weights: int) -> None:
    """784 n + (layers - 1) n^2 + 784 n weights, layers n + 784 biases, and 2 n for each batch normalization."""
    assert counts(create(name, input_shape=(1, 28, 28), classes=784)) == (parameters, weights)


@pytest.mark.parametrize(("name", "width", "norm"), [("fc-100", 100, 0), ("fc-2000", 2000, 0), ("mlp-bn-300", 300, 1)])
def test_six_hidden_layers(name: str, width: int, norm: int) -> None:
    """Of equal width, each with batch normalization before its ReLU or with ReLU alone; the output is linear."""
    model = create(name, input_shape=(1, 28, 28))
    hidden = [nn.Linear, nn.BatchNorm1d, nn.ReLU] if norm else [nn.Linear, nn.ReLU]
    assert [type(layer) for layer in model] == [nn.Flatten, *hidden * 6, nn.Linear]
    linear = [(layer.in_features, layer.out_features) for layer in model if isinstance(layer, nn.Linear)]
    assert linear == [(784, width), *[(width, width)] * 5, (width, 10)]


def test_every_named_network_is_counted_above_and_described() -> None:
    assert set(models.names()) == {name for name, _, _ in COUNTS}
    for name in models.names():
        assert models.describe(name)
        assert "\n" not in models.describe(name)


@pytest.mark.parametrize("name", [name for name in models.names() if name not in HEAVY])
def test_forward_and_backward(name: str) -> None:
    model = create(name, input_shape=shape_of(name), classes=7)
    x = torch.randn(2, *shape_of(name), generator=torch.Generator().manual_seed(0))
    logits = model(x)
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    logits.square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key


def test_resnet_50_forward_on_small_images() -> None:
    model = create("resnet-50", input_shape=(3, 32, 32), classes=3).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lenet-300-100", (1, 8, 8)),
        ("fc-100", (2, 1, 5)),
        ("lenet-5", (3, 16, 17)),
        ("resnet-8", (1, 8, 8)),
        ("resnet-8", (4, 1, 1)),
        ("resnet-20", (3, 33, 47)),
        ("vgg-11", (1, 16, 16)),
        ("vgg-11", (3, 64, 64)),
        ("resnet-18", (3, 64, 64)),
        ("resnet-18-imagenet", (1, 28, 28)),
    ],
)
def test_any_size_and_channel_count(name: str, shape: tuple[int, int, int]) -> None:
    model = create(name, input_shape=shape, classes=4).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, *shape)).shape == (2, 4)


def test_too_small_images_are_refused_with_the_minimum() -> None:
    for name in ("lenet-5", "vgg-11", "vgg-19"):
        with pytest.raises(ValueError, match=rf"{name} needs images of at least 16x16 pixels .* not 15x16"):
            create(name, input_shape=(1, 15, 16))


def test_resnet_stages() -> None:
    model = create("wrn-14-8", input_shape=(3, 32, 32))
    assert [len(getattr(model, f"layer{stage}")) for stage in (1, 2, 3)] == [2, 2, 2]
    outputs = {}
    for stage in (1, 2, 3):
        getattr(model, f"layer{stage}").register_forward_hook(
            lambda module, args, output, stage=stage: outputs.__setitem__(stage, tuple(output.shape))
        )
    model.eval()(torch.zeros(1, 3, 32, 32))
    assert outputs == {1: (1, 128, 32, 32), 2: (1, 256, 16, 16), 3: (1, 512, 8, 8)}
    projections = [name for name, module in model.named_modules() if name.endswith("downsample.0")]
    assert projections == ["layer2.0.downsample.0", "layer3.0.downsample.0"]


def test_a_block_projects_where_shape_changes() -> None:
    for block in (BasicBlock, Bottleneck):
        same = 16 * block.expansion
        assert block(same, 16, stride=1).downsample is None
        for in_channels, stride in ((same, 2), (8, 1)):
            output = block(in_channels, 16, stride=stride).eval()(torch.zeros(1, in_channels, 5, 5))
            assert output.shape == (1, same, 5 if stride == 1 else 3, 5 if stride == 1 else 3)


def test_imagenet_names_are_torchvisions() -> None:
    keys = create("resnet-50", input_shape=(3, 224, 224)).state_dict().keys()
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.1.bias", "layer4.2.conv3.weight", "fc.bias"} <= keys
    assert len(keys) == 320


def test_spellings_of_the_same_network() -> None:
    same = (("wide-resnet-20", "resnet-20x2"), ("wrn-32-2", "resnet-32x2"), ("vgg-11", "vgg-11x1"))
    for left, right in same:
        first, second = (create(name, input_shape=(3, 32, 32), seed=5).state_dict() for name in (left, right))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert counts(create("vgg-11x2-2fc", input_shape=(3, 32, 32)))[0] > 4 * 9_000_000
    assert len(create("fc-7", input_shape=(1, 2, 2))) == 1 + 2 * 6 + 1


def test_same_seed_is_bit_identical_and_other_seeds_differ() -> None:
    for name in ("lenet-5", "resnet-8", "vgg-11"):
        first, second, third = (create(name, input_shape=shape_of(name), seed=seed).state_dict() for seed in (3, 3, 4))
        assert all(torch.equal(first[key], second[key]) for key in first)
        changed = [key for key in first if not torch.equal(first[key], third[key])]
        assert changed == [key for key in first if key.endswith("weight") and first[key].ndim > 1]


def test_global_random_state_is_neither_read_nor_changed() -> None:
    before = torch.random.get_rng_state()
    first = create("resnet-8", input_shape=(3, 8, 8)).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)
    second = create("resnet-8", input_shape=(3, 8, 8)).state_dict()
    torch.random.set_rng_state(before)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_initial_values_are_those_of_the_papers() -> None:
    model = create("resnet-20", input_shape=(3, 32, 32))
    assert model.training
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()
            assert module.running_mean is not None
            assert module.running_mean.eq(0).all()
            assert module.running_var is not None
            assert module.running_var.eq(1).all()
        if isinstance(module, nn.Conv2d):
            fan_in = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.15)
    assert model.fc.bias.eq(0).all()
    wide = create("lenet-300-100", input_shape=(1, 28, 28), init="constant-variance")
    assert wide.fc1.weight.std().item() == pytest.approx(1.0, rel=0.01)


def test_networks_are_plain_modules() -> None:
    for name in ("lenet-5", "resnet-8", "vgg-11"):
        model = create(name, input_shape=shape_of(name)).eval()
        x = torch.randn(1, *shape_of(name), generator=torch.Generator().manual_seed(1))
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(x), model(x))
        assert all(parameter.is_leaf and parameter.requires_grad for parameter in model.parameters())


def test_batch_normalization_stands_before_the_activation() -> None:
    names = [name for name, _ in create("vgg-11", input_shape=(3, 32, 32)).named_children()]
    assert names[:4] == ["conv1", "bn1", "relu1", "pool1"]
    assert names[-3:] == ["pool5", "flatten", "classifier"]
    hidden = [name for name, _ in create("vgg-16-2fc", input_shape=(3, 32, 32)).named_children()][-4:]
    assert hidden == ["fc1", "bn_fc1", "relu_fc1", "classifier"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet-2O", r"unknown network 'resnet-2O'; did you mean .*'resnet-20'"),
        ("lenet300", r"unknown network 'lenet300'; did you mean 'lenet-300-100'"),
        ("transformer-xl", r"unknown network 'transformer-xl'; known: lenet-300-100, lenet-5, "),
        ("vgg-12", r"unknown network 'vgg-12'; did you mean 'vgg-1"),
        ("resnet-21", r"the depth of a CIFAR ResNet is 6n \+ 2 \(8, 14, 20, .*\), not 21$"),
        ("resnet-2", r"the depth of a CIFAR ResNet is 6n \+ 2 .* not 2$"),
        ("wrn-16-8", r"not 16; what Zagoruyko and Komodakis count as 16 \(6n \+ 4\) is 14 here"),
        ("resnet-50x2", r"'resnet-50x2': 50 layers are taken by the ImageNet 'resnet-50'; write 'resnet-44x2'"),
    ],
)
def test_unknown_names_and_depths(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(name, input_shape=(3, 32, 32))


def test_describe_refuses_unknown_names() -> None:
    with pytest.raises(ValueError, match="unknown network 'vgg-17'; did you mean"):
        models.describe("vgg-17")


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match=r"input_shape must be \(channels, height, width\) .* not \(32, 32\)"):
        create("resnet-8", input_shape=(32, 32))
    with pytest.raises(TypeError, match=r"input_shape\[0\] must be a whole number, not 3\.5"):
        create("resnet-8", input_shape=(3.5, 32, 32))
    with pytest.raises(ValueError, match=r"three positive numbers, such as \(3, 32, 32\), not \(3, 0, 32\)"):
        create("resnet-8", input_shape=(3, 0, 32))
    with pytest.raises(ValueError, match="classes must be at least 1, not 0"):
        create("resnet-8", input_shape=(3, 32, 32), classes=0)
    with pytest.raises(TypeError, match="classes must be a whole number, not True"):
        create("resnet-8", input_shape=(3, 32, 32), classes=True)
    with pytest.raises(ValueError, match="seed must be at least 0, not -1"):
        create("resnet-8", input_shape=(3, 32, 32), seed=-1)
    with pytest.raises(ValueError, match=r"unknown init 'he'; known"):
        create("resnet-8", input_shape=(3, 32, 32), init="he")
    with pytest.raises(TypeError, match="the name of a network must be a string such as 'resnet-20', not int"):
        create(20, input_shape=(3, 32, 32))


def not_a_model() -> int:
    return 3


def small_model(*, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    pixels = input_shape[0] * input_shape[1] * input_shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 24), nn.ReLU(), nn.Linear(24, classes))


def seeded(**given: object) -> nn.Module:
    assert given == {"input_shape": (1, 2, 2), "classes": 3, "seed": 7}
    return nn.Identity()


def test_models_by_factory() -> None:
    state = torch.get_rng_state()
    made = create(f"{__name__}:small_model", input_shape=(1, 8, 8), seed=3)
    again = create(f"{__name__}:small_model", input_shape=(1, 8, 8), seed=3)
    other = create(f"{__name__}:small_model", input_shape=(1, 8, 8), seed=4)
    assert torch.equal(made[1].weight, again[1].weight)
    assert not torch.equal(made[1].weight, other[1].weight)
    assert torch.equal(state, torch.get_rng_state())
    assert isinstance(create(f"{__name__}:seeded", input_shape=(1, 2, 2), classes=3, seed=7), nn.Identity)
    with pytest.raises(ValueError, match=r"cannot import the model 'no\.such\.package:build'"):
        create("no.such.package:build", input_shape=(1, 8, 8))
    with pytest.raises(TypeError, match=r"must build a torch\.nn\.Module, not int"):
        create(f"{__name__}:not_a_model", input_shape=(1, 8, 8))
