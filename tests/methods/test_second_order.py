"""Convolution and batch normalization with derivatives of their own: values, gradients and H v against torch's."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F

from foreprune.core.masks import Masks
from foreprune.core.net import Net, scoring
from foreprune.core.task import Task, materialize
from foreprune.methods.grasp import hessian_gradient
from foreprune.methods.second_order import TwiceDifferentiable

Forward = Callable[..., Tensor]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def derivatives(forward: Forward, tensors: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor]:
    """The value, the gradient g of a curved loss of it, and H v for a random v, for the `wanted` tensors."""
    given = [t.detach().clone().requires_grad_(w) for t, w in zip(tensors, wanted, strict=True)]
    leaves = [t for t in given if t.requires_grad]
    value = forward(*given)
    loss = (value * normal(*value.shape, seed=50).to(value.dtype)).sin().sum()
    gradient = torch.autograd.grad(loss, leaves, create_graph=True)
    vectors = [normal(*leaf.shape, seed=60 + i).to(leaf.dtype) for i, leaf in enumerate(leaves)]
    inner = sum((g * v).sum() for g, v in zip(gradient, vectors, strict=True))
    product = torch.autograd.grad(inner, leaves)
    return [value.detach(), *(g.detach() for g in gradient), *product]


def inside(forward: Forward) -> Forward:
    def run(*tensors: Tensor) -> Tensor:
        with TwiceDifferentiable():
            return forward(*tensors)

    return run


def check(forward: Forward, tensors: Sequence[Tensor], wanted: Sequence[bool], *, tolerance: float = 1e-11) -> None:
    found = derivatives(inside(forward), tensors, wanted)
    expected = derivatives(forward, tensors, wanted)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert float(other.abs().max()) > 0
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


def covered(value: Tensor) -> bool:
    """Whether the last operation was one of ours."""
    return type(value.grad_fn).__name__ in ("_ConvolutionBackward", "_BatchNormBackward")


CONVOLUTIONS: dict[str, tuple[Forward, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "1d": (F.conv1d, (2, 3, 7), (4, 3, 3), {}),
    "1d-all": (F.conv1d, (2, 4, 9), (6, 2, 3), {"stride": 2, "padding": 2, "dilation": 2, "groups": 2}),
    "2d": (F.conv2d, (2, 3, 5, 4), (4, 3, 3, 2), {}),
    "2d-one": (F.conv2d, (2, 3, 5, 4), (4, 3, 1, 1), {"stride": (2,)}),
    "2d-stride": (F.conv2d, (2, 2, 6, 5), (3, 2, 3, 3), {"stride": (2, 3)}),
    "2d-padding": (F.conv2d, (2, 2, 5, 4), (3, 2, 3, 3), {"padding": [1, 2]}),
    "2d-dilation": (F.conv2d, (2, 2, 7, 6), (3, 2, 3, 2), {"dilation": (2, 1)}),
    "2d-groups": (F.conv2d, (2, 4, 5, 5), (6, 2, 3, 3), {"groups": 2, "padding": 1}),
    "2d-depthwise": (F.conv2d, (2, 3, 6, 5), (6, 1, 3, 3), {"groups": 3, "stride": 2, "padding": 1}),
    "3d": (F.conv3d, (2, 2, 4, 3, 5), (3, 2, 2, 2, 3), {"stride": (1, 1, 2), "padding": 1}),
}
WANTED = {"both": (True, True), "first-layer": (False, True), "frozen": (True, False)}


@pytest.mark.parametrize("wanted", WANTED.values(), ids=WANTED)
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_are_those_of_torch(name: str, bias: bool, wanted: tuple[bool, bool]) -> None:
    function, image, kernel, options = CONVOLUTIONS[name]
    offset = normal(kernel[0], seed=3) if bias else None

    def forward(x: Tensor, w: Tensor) -> Tensor:
        return function(x, w, offset, **options)

    check(forward, [normal(*image), normal(*kernel, seed=1)], wanted)
    assert covered(inside(forward)(normal(*image), normal(*kernel).requires_grad_()))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_against_finite_differences(name: str) -> None:
    function, image, kernel, options = CONVOLUTIONS[name]
    forward = inside(lambda x, w: function(x, w, None, **options))
    leaves = (normal(*image).requires_grad_(), normal(*kernel, seed=1).requires_grad_())
    assert gradcheck(forward, leaves, fast_mode=True)
    assert gradgradcheck(forward, leaves, fast_mode=True, gen_non_contig_grad_outputs=True)
    for fixed in (0, 1):
        frozen = [leaf.detach() if i == fixed else leaf for i, leaf in enumerate(leaves)]
        assert gradgradcheck(forward, frozen, fast_mode=True)


def test_convolutions_in_single_precision_and_other_layouts() -> None:
    x, w = normal(2, 3, 6, 5, dtype=torch.float32), normal(4, 3, 3, 3, seed=1, dtype=torch.float32)
    check(lambda x, w: F.conv2d(x, w, padding=1), [x, w], (True, True), tolerance=1e-5)
    for form in ([True, False], [False, True], [True, True]):
        laid = [t.to(memory_format=torch.channels_last) if f else t for t, f in zip((x, w), form, strict=True)]
        check(lambda x, w: F.conv2d(x, w, padding=1), [t.double() for t in laid], (True, True))
        plain = F.conv2d(*laid, padding=1)
        assert inside(F.conv2d)(*laid, None, 1, 1).stride() == plain.stride()
    strided = x.double().transpose(2, 3)  # neither format
    check(lambda x, w: F.conv2d(x, w).transpose(1, 2), [strided, w.double()], (True, True))


def test_a_module_passes_its_arguments_as_it_likes() -> None:
    x = normal(2, 4, 6, 6)
    for layer in (
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", bias=False),
    ):
        layer.double()
        if layer.bias is not None:
            layer.bias.requires_grad_(False)
        check(lambda x, w, layer=layer: functional_call(layer, {"weight": w}, (x,)), [x, layer.weight], (True, True))
        assert covered(inside(layer)(x))
    named = inside(lambda x, w: torch.conv2d(weight=w, input=x, padding=(1, 1)))
    w = normal(2, 4, 3, 3).requires_grad_()
    assert covered(named(x, w))
    assert torch.equal(named(x, w), F.conv2d(x, w, padding=1))


FALLS_THROUGH: dict[str, tuple[Forward, tuple[int, ...]]] = {
    "padding-same": (lambda x, w: F.conv2d(x, w, padding="same"), (2, 3, 5, 5)),
    "padding-valid": (lambda x, w: F.conv2d(x, w, padding="valid"), (2, 3, 5, 5)),
    "unbatched": (lambda x, w: F.conv2d(x, w), (3, 5, 5)),
    "transposed": (lambda x, w: F.conv_transpose2d(x, w, stride=2), (2, 4, 3, 3)),
    "trained-bias": (lambda x, w: F.conv2d(x, w, w.sum((1, 2, 3))), (2, 3, 5, 5)),
    "vmap": (lambda x, w: torch.func.vmap(lambda one: F.conv2d(one[None], w)[0])(x), (2, 3, 5, 5)),
    "complex": (lambda x, w: F.conv2d(x.to(torch.complex128), w.to(torch.complex128)).abs(), (2, 3, 5, 5)),
}


@pytest.mark.parametrize("name", FALLS_THROUGH)
def test_other_convolutions_run_as_they_are(name: str) -> None:
    forward, image = FALLS_THROUGH[name]
    tensors = [normal(*image), normal(4, 3, 3, 3, seed=1)]
    check(forward, tensors, (True, True))
    if name != "complex":
        assert not covered(inside(forward)(*(t.requires_grad_() for t in tensors)))


def test_nothing_is_recorded_where_no_gradient_is() -> None:
    x, w = normal(2, 3, 5, 5), normal(4, 3, 3, 3).requires_grad_()
    with TwiceDifferentiable(), torch.no_grad():
        assert F.conv2d(x, w).grad_fn is None
    with TwiceDifferentiable():
        assert F.conv2d(x, w.detach()).grad_fn is None
    assert not covered(F.conv2d(x, w))


def test_a_subclass_of_tensor_is_left_to_itself() -> None:
    class Marked(Tensor):
        pass

    x = normal(2, 3, 5, 5).as_subclass(Marked)
    found = inside(F.conv2d)(x, normal(4, 3, 3, 3).requires_grad_())
    assert type(found) is Marked
    assert not covered(found)
    found = inside(lambda x: F.batch_norm(x, None, None, training=True))(x.requires_grad_())
    assert type(found) is Marked
    assert not covered(found)


@pytest.mark.parametrize(
    "arguments",
    [
        (normal(2, 3, 5, 5), normal(4, 2, 3, 3)),
        (normal(2, 3, 2, 2), normal(4, 3, 3, 3)),
        (normal(2, 3, 5, 5), normal(4, 3, 3)),
        (normal(2, 3, 5, 5), normal(4, 3, 3, 3), normal(5)),
        (normal(2, 3, 5, 5), normal(4, 3, 3, 3).float()),
        (normal(2, 3, 5, 5), normal(4, 3, 3, 3), normal(4).float()),
        (normal(2, 3, 5, 5), normal(4, 3, 3, 3), None, (1, 1, 1)),
        (normal(2, 3, 5, 5), normal(4, 3, 3, 3), None, 0),
        (normal(2, 3, 5, 5), normal(4, 3, 3, 3), None, 1, -1),
    ],
)
def test_what_torch_refuses_is_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(Exception) as plain:
        F.conv2d(*arguments)
    x, w, *others = arguments
    with pytest.raises(type(plain.value)):
        inside(F.conv2d)(x, w.requires_grad_(), *others)


NORMALIZED = {
    "2-D": (6, 3),
    "1d": (4, 3, 5),
    "2d": (3, 2, 4, 3),
    "3d": (2, 3, 2, 3, 2),
    "one-sample": (1, 2, 3, 3),
}
AFFINE = ["affine", "plain", "weight-only", "bias-only"]


def affine_of(name: str, channels: int) -> dict[str, Tensor]:
    every = {"weight": normal(channels, seed=7) + 2, "bias": normal(channels, seed=8)}
    kept = {"affine": ("weight", "bias"), "plain": (), "weight-only": ("weight",), "bias-only": ("bias",)}[name]
    return {key: value for key, value in every.items() if key in kept}


@pytest.mark.parametrize("affine", AFFINE)
@pytest.mark.parametrize("name", NORMALIZED)
def test_batch_normalization_is_that_of_torch(name: str, affine: str) -> None:
    shape = NORMALIZED[name]
    parameters = affine_of(affine, shape[1])
    scale = normal(*shape, seed=4)

    def forward(x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True, eps=1e-3, **parameters)

    check(forward, [3 * normal(*shape) + 5], (True,))
    # twice in a row, so that the gradient that comes in depends on the input too
    check(lambda x: forward((forward(x) * scale).tanh()), [normal(*shape)], (True,))
    assert covered(inside(forward)(normal(*shape).requires_grad_()))


@pytest.mark.parametrize("affine", ["affine", "plain"])
@pytest.mark.parametrize("name", NORMALIZED)
def test_batch_normalization_against_finite_differences(name: str, affine: str) -> None:
    shape = NORMALIZED[name]
    parameters = affine_of(affine, shape[1])
    forward = inside(lambda x: F.batch_norm(x, None, None, training=True, **parameters))
    leaf = normal(*shape).requires_grad_()
    assert gradcheck(forward, (leaf,))
    assert gradgradcheck(forward, (leaf,), gen_non_contig_grad_outputs=True)


def test_batch_normalization_in_single_precision_and_other_layouts() -> None:
    parameters = affine_of("affine", 3)
    single = {key: value.float() for key, value in parameters.items()}
    x = normal(4, 3, 5, 6)
    check(lambda x: F.batch_norm(x, None, None, training=True, **single), [x.float()], (True,), tolerance=1e-4)

    def forward(x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True, **parameters)

    last = x.to(memory_format=torch.channels_last)
    check(forward, [last], (True,))
    assert inside(forward)(last.requires_grad_()).is_contiguous(memory_format=torch.channels_last)
    check(lambda x: forward(x).transpose(1, 3).contiguous(), [x], (True,))  # gradients in neither layout
    check(lambda x: forward(x).contiguous(memory_format=torch.channels_last), [x], (True,))
    check(lambda x: forward(x.transpose(2, 3)), [x], (True,))
    check(lambda x: forward(x)[:, :, ::2].mean((2, 3)), [x], (True,))  # an expanded gradient


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_running_statistics_move_as_ever(momentum: float | None) -> None:
    plain, ours = (nn.BatchNorm2d(3, momentum=momentum).double().requires_grad_(False) for _ in range(2))
    for seed in range(3):
        x = normal(4, 3, 5, 5, seed=seed) * (seed + 1) + seed
        expected, found = plain(x.requires_grad_()), inside(ours)(x)
        assert covered(found)
        assert torch.equal(found, expected)
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in plain.state_dict().items())
    assert int(ours.num_batches_tracked) == 3
    untracked = nn.BatchNorm2d(3, momentum=momentum, track_running_stats=False).double().requires_grad_(False)
    assert covered(inside(untracked.eval())(x))  # without statistics to fall back on it takes those of the batch
    check(untracked, [x.detach()], (True,))


def test_other_normalizations_run_as_they_are() -> None:
    x = normal(4, 3, 5, 5)
    trained = nn.BatchNorm2d(3).double()
    evaluated = nn.BatchNorm2d(3).double().requires_grad_(False).eval()
    evaluated.running_mean.copy_(normal(3))
    for layer in (trained, evaluated):
        check(lambda x, layer=layer: layer(x).square(), [x], (True,))
        assert not covered(inside(layer)(x.clone().requires_grad_()))
    for layer in (nn.GroupNorm(3, 3), nn.InstanceNorm2d(3), nn.LayerNorm([5, 5])):
        check(layer.double(), [x], (True,))


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1), (3,)])
def test_one_value_per_channel_is_refused_as_ever(shape: tuple[int, ...]) -> None:
    with pytest.raises((ValueError, RuntimeError, IndexError)) as plain:
        F.batch_norm(normal(*shape), None, None, training=True)
    with pytest.raises(type(plain.value)) as found:
        inside(lambda x: F.batch_norm(x, None, None, training=True))(normal(*shape).requires_grad_())
    assert str(found.value) == str(plain.value)


def _conv_norm(x: Tensor, w: Tensor) -> Tensor:
    return F.batch_norm(F.conv2d(x, w, padding=1), None, None, training=True)


@contextlib.contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("moved", [0, 1], ids=["input", "weight"])
@pytest.mark.parametrize("what", ["convolution", "normalization"])
def test_a_third_derivative_is_refused(what: str, moved: int) -> None:
    """Also along a constant vector, where nothing that the second backward is given records gradients."""
    x, w = normal(2, 3, 5, 5).requires_grad_(), normal(3, 3, 3, 3, seed=1).requires_grad_()
    with TwiceDifferentiable():
        if what == "convolution":
            loss, leaf = F.conv2d(x, w).pow(3).sum(), (x, w)[moved]
        else:
            loss, leaf = (F.batch_norm(x * w.sum(), None, None, training=True, eps=1.0).pow(3)).sum(), (x, w)[moved]
    (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=r"first and second derivatives.* a third; take .* create_graph=False, or"):
        torch.autograd.grad(gradient, leaf, normal(*gradient.shape), create_graph=True)


def test_what_has_changed_since_the_forward_is_refused() -> None:
    x, w, scale = normal(2, 3, 5, 5).requires_grad_(), normal(3, 3, 3, 3).requires_grad_(), normal(3)
    with TwiceDifferentiable():
        first = F.conv2d(x, w).sum()
        second = F.batch_norm(x, None, None, scale, training=True).square().sum()
    (gradient,) = torch.autograd.grad(second, x, create_graph=True)
    with torch.no_grad():
        w.mul_(2)
        scale.mul_(2)
    for stale in (first, second, gradient.square().sum()):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(stale, x)


def test_everything_is_freed_without_the_collector() -> None:
    with no_collector():
        x, w = normal(2, 3, 5, 5), normal(3, 3, 3, 3).requires_grad_()
        with TwiceDifferentiable():
            c = F.conv2d(x, w, padding=1)
            b = F.batch_norm(c, None, None, normal(3), training=True)
            loss = b.sigmoid().sum()
        (gradient,) = torch.autograd.grad(loss, w, create_graph=True)
        watched = [StorageWeakRef(t.untyped_storage()) for t in (x, c, b, gradient)]
        del c, b
        assert [ref.expired() for ref in watched] == [False, False, True, False]  # nobody needs what it puts out
        torch.autograd.grad(gradient.square().sum(), w)
        # the graph is still there, but what it had kept is not
        assert loss.grad_fn is not None
        assert gradient.grad_fn is not None
        assert [ref.expired() for ref in watched] == [False, True, True, False]
        del loss, x
        alive = StorageWeakRef(gradient.untyped_storage())
        del gradient
        assert [ref.expired() for ref in [*watched, alive]] == [True] * 5
        # and a graph that is never walked
        y = normal(2, 3, 5, 5)
        with TwiceDifferentiable():
            loss = _conv_norm(y, w).square().sum()
        (gradient,) = torch.autograd.grad(loss, w, create_graph=True)
        unused = StorageWeakRef(y.untyped_storage())
        del y, loss, gradient
        assert unused.expired()


def test_three_images_are_kept_of_each_layer() -> None:
    """Its convolution's value, its output and the gradient between them; torch keeps more."""
    size = 4 * 3 * 8 * 8
    layers = 5

    def kept(forward: Forward) -> int:
        held: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.numel() == size:
                held[tensor.untyped_storage()._cdata] = tensor.detach()
            return tensor

        x, weights = normal(4, 3, 8, 8), [normal(3, 3, 3, 3, seed=i).requires_grad_() for i in range(layers)]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            for weight in weights:
                x = forward(x, weight).relu()
            gradient = torch.autograd.grad(x.mean((2, 3)).sin().sum(), weights, create_graph=True)
        assert len(gradient) == layers
        return len(held)

    assert kept(inside(_conv_norm)) == 3 * layers + 1  # and the data
    assert kept(_conv_norm) > 3 * layers + 1


class Residual(nn.Module):
    """Convolutions and normalizations of several kinds; one tensor goes two ways, and one weight is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.first = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.second = nn.BatchNorm2d(4)
        self.same = nn.Conv2d(4, 4, 3, padding="same")
        self.narrow = nn.Conv2d(4, 6, 1, stride=2, bias=False)
        self.third = nn.BatchNorm2d(6, affine=False)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.first(self.stem(x)))
        y = F.relu(self.second(self.depthwise(x)), inplace=True)
        y = self.second(self.depthwise(y))
        x = (x + y + self.same(x)).tanh()
        return self.fc(self.third(self.narrow(x)).square().mean((2, 3)))


@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "masked"])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("sizes", [(10,), (4, 3, 3)], ids=["one-batch", "three-batches"])
def test_the_hessian_times_the_gradient_of_a_residual_network(sizes: tuple[int, ...], mode: Any, pruned: bool) -> None:
    torch.manual_seed(0)
    model = Residual().double()
    x, y = normal(10, 2, 6, 6), torch.arange(10) % 3
    batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
    net = Net.of(model)
    dense = Masks.dense(net.weights)
    masks = Masks({n: normal(*m.shape, seed=5) > -0.5 for n, m in dense.items()}) if pruned else dense
    before = {key: value.clone() for key, value in model.state_dict().items()}
    task = Task(materialize(batches, net.device), None, None, torch.Generator())
    with scoring(net, batchnorm=mode):
        found = hessian_gradient(net, task, masks, temperature=2.0)

    model.train(mode == "train")
    weights = {name: (net.params[name] * masks[name]).requires_grad_() for name in net.prunable}

    def gradient(index: int) -> tuple[Tensor, ...]:
        images, labels = batches[index]
        output = functional_call(model, {**before, **weights}, (images,))
        loss = F.cross_entropy(output / 2.0, labels, reduction="sum") / 10
        return torch.autograd.grad(loss, list(weights.values()), create_graph=True)

    parts = [gradient(index) for index in range(len(batches))]
    total = [sum(one).detach() for one in zip(*parts, strict=True)]
    inner = sum((g * v).sum() for part in parts for g, v in zip(part, total, strict=True))
    expected = dict(zip(weights, torch.autograd.grad(inner, list(weights.values())), strict=True))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9 * float(value.abs().max()))
        assert float(value.abs().max()) > 0


class Sides(nn.Module):
    """Two linear maps side by side, and whether their values are ours to differentiate."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 1, bias=False), nn.Linear(4, 1, bias=False)
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        self.covered: list[bool] = []

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        image = self.conv(x)
        self.covered.append(covered(image))
        flat = image.flatten(1)
        return self.left(flat), self.right(x.flatten(1))


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("power", [1, 2])
def test_weights_without_curvature_have_no_product(power: int, batches: int) -> None:
    model = Sides()
    net = Net.of(model, prunable=["left.weight", "right.weight"])
    x = normal(3, 1, 2, 2, dtype=torch.float32)
    task = Task(
        materialize([(x, torch.zeros(3))] * batches, net.device),
        None,
        lambda out, _: out[0].sum() + (out[1] if power == 1 else out[1].square()).sum(),
        torch.Generator(),
    )
    with scoring(net):
        found = hessian_gradient(net, task, Masks.dense(net.weights), temperature=1.0)
    assert found["left.weight"].tolist() == [[0.0] * 4]
    flat = x.flatten(1)
    gram = (power == 2) * 2 * flat.T @ flat
    expected = (gram @ gram @ model.right.weight.detach().T).T
    torch.testing.assert_close(found["right.weight"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batches", [1, 2])
def test_the_graph_that_is_differentiated_twice_is_ours(batches: int) -> None:
    model = Sides()
    net = Net.of(model, prunable=["conv.weight"])
    data = [(normal(3, 1, 2, 2, dtype=torch.float32), torch.zeros(3))] * batches
    task = Task(materialize(data, net.device), None, lambda out, _: out[0].square().sum(), torch.Generator())
    with scoring(net):
        hessian_gradient(net, task, Masks.dense(net.weights), temperature=1.0)
    assert model.covered == [False] * (batches - 1) + [True] * batches
