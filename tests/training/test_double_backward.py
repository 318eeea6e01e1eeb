"""Forward passes whose input gradients are differentiated again: torch's numbers, by other ways."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from epsball.build import build
from epsball.models import MODELS
from epsball.training import double_backward
from epsball.training.diversity import losses_and_gradients
from epsball.training.double_backward import BatchNormInputGradient, DoubleBackward

OURS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Conv2d(4, 6, 3),
    "without bias": lambda: nn.Conv2d(4, 6, 3, bias=False),
    "stride and padding": lambda: nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2)),
    "same": lambda: nn.Conv2d(4, 6, (3, 5), padding="same", dilation=(2, 1)),
    "groups": lambda: nn.Conv2d(4, 8, 3, groups=2),
    "reflecting": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "batch norm": lambda: nn.BatchNorm2d(4),
    "with another eps": lambda: nn.BatchNorm2d(4, eps=0.3, momentum=None),
    "without weights": lambda: nn.BatchNorm2d(4, affine=False),
    "without running statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "of vectors": lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4 * 6 * 7)),
    "of sequences": lambda: nn.Sequential(nn.Flatten(2), nn.BatchNorm1d(4)),
    "leaky relu": lambda: nn.LeakyReLU(0.2),
    "relu": nn.ReLU,
}
TORCHS: dict[str, Callable[[], nn.Module]] = {
    "even and same": lambda: nn.Conv2d(4, 6, 4, padding="same"),
    "weights that are computed": lambda: weight_norm(nn.Conv2d(4, 6, 3)),
    "in place": lambda: nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(inplace=True)),
    "leaky, in place": lambda: nn.Sequential(nn.Conv2d(4, 6, 1), nn.LeakyReLU(0.2, inplace=True)),
    "a negative slope": lambda: nn.LeakyReLU(-0.5),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3),
    "evaluation": lambda: nn.BatchNorm2d(4).eval(),
}


def derivatives(network: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    """What an objective of a network's outputs and of their input gradients has as derivatives, and the buffers that it
    leaves."""
    x = x.detach().requires_grad_()
    generator = torch.Generator().manual_seed(1)
    with DoubleBackward():
        output = network(x)
    towards = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    (gradient,) = torch.autograd.grad((output * towards).sum(), x, create_graph=True)
    along = torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype)
    loss = (gradient * along).sum() + (gradient**3).sum() + (output**2).sum()
    parameters = dict(network.named_parameters())
    wanted = [x, *parameters.values()]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    named = dict(zip(["images", *parameters], found, strict=True))
    return {"output": output.detach(), "gradient": gradient.detach(), **named, **dict(network.named_buffers())}


def nodes(output: Tensor) -> set[str]:
    """Names of the operations that a tensor came from."""
    found, left = set(), [output.grad_fn]
    while left:
        if (node := left.pop()) is not None:
            found.add(node.name())
            left.extend(following for following, _ in node.next_functions)
    return found


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Call a function with torch's own layers inside DoubleBackward."""

    def call(function: Callable[..., Any], *args: Any) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(double_backward, "OWN", {})
            return function(*args)

    return call


def pixels(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(5, 4, 6, 7, generator=torch.Generator().manual_seed(0), dtype=dtype) + 0.5


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", [*OURS, *TORCHS])
def test_a_layer_has_torchs_derivatives(name: str, by_torch: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    layer = (OURS | TORCHS)[name]().double()
    expected = by_torch(derivatives, copy.deepcopy(layer), pixels())
    for each, found in derivatives(layer, pixels()).items():
        if expected[each] is None or found is None:  # of a rectifier that zeros would be those of
            assert all(value is None or not value.any() for value in (expected[each], found))
        else:
            torch.testing.assert_close(found, expected[each])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", [*OURS, *TORCHS])
def test_which_layers_are_ours(name: str) -> None:
    layer = (OURS | TORCHS)[name]()
    x = pixels(torch.float32).requires_grad_()
    with DoubleBackward():
        found = nodes(layer(x))
    own = {"ConvolutionBackward", "BatchNormBackward", "RectifierBackward"}
    assert bool(found & own) == (name in OURS or "in place" in name)  # their convolution is
    assert not nodes(layer(x)) & own


@pytest.mark.parametrize("affine", [True, False])
def test_the_second_derivatives_of_batch_norm_are_differences_of_the_first(affine: bool) -> None:
    """Without torch's own formula: the slope of its input gradient, along each of its arguments."""
    x = pixels()[:2, :2, :2, :2].requires_grad_()
    g = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    weight = torch.tensor([0.7, -1.3], dtype=torch.float64).requires_grad_() if affine else None

    def gradient(g: Tensor, x: Tensor, *weights: Tensor) -> Tensor:
        dims = [0, 2, 3]
        inverse_sd = (x.var(dims, correction=0) + 0.1).rsqrt()
        own = weights[0] if weights else None
        result: Tensor = BatchNormInputGradient.apply(g, x, own, x.mean(dims).detach(), inverse_sd.detach(), 0.1)
        return result

    assert torch.autograd.gradcheck(gradient, (g, x, weight) if weight is not None else (g, x))


@pytest.mark.parametrize("member", ["conv3", "resnet20", "inception_v3_narrow"])
@pytest.mark.parametrize("activation", ["leaky_relu", "relu"])
def test_an_ensemble_has_torchs_derivatives(
    member: str, activation: str, compose: Callable[..., Any], by_torch: Callable[..., Any]
) -> None:
    torch.manual_seed(0)
    arch = compose("arch=ensemble", "arch.copies=2", f"arch@arch.members.member={member}")["arch"]
    slope = {"slope": 0.1} if activation == "leaky_relu" else {}
    arch["members"]["member"]["activation"] = {"name": activation, **slope}
    shape = (1, 28, 28) if member == "conv3" else (3, 32, 32)
    network = build(MODELS, arch, shape, 10, where="arch").double().train()
    x, y = torch.rand(6, *shape, dtype=torch.float64), torch.arange(6)

    def step(model: nn.Module) -> dict[str, Tensor]:
        torch.manual_seed(1)  # dropout
        losses, gradients = losses_and_gradients(model, x, y, "log_odds", create_graph=True)
        loss: Any = losses.mean() + 100 * F.normalize(gradients, dim=2).prod(0).sum()
        loss.backward()
        found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
        return {"losses": losses.detach(), "gradients": gradients.detach(), **found, **dict(model.named_buffers())}

    expected, found = by_torch(step, copy.deepcopy(network)), step(network)
    assert found.keys() == expected.keys() and len(found) > 5
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize("channels_last", [False, True])
def test_bf16_is_as_near_to_exact_as_torchs(channels_last: bool, by_torch: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.1)]
    network = nn.Sequential(*layers, nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    if channels_last:
        network.to(memory_format=torch.channels_last)
    x = torch.randn(32, 4, 16, 16)

    def step(model: nn.Module, images: Tensor) -> Tensor:
        with DoubleBackward():
            output = model(images.requires_grad_())
        (gradient,) = torch.autograd.grad((output.to(images.dtype) ** 2).sum(), images, create_graph=True)
        found = torch.autograd.grad((gradient**2).sum(), list(model.parameters()), allow_unused=True)
        return torch.cat([each.flatten() for each in found if each is not None])

    def in_bf16(model: nn.Module) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return step(model, x.clone())

    exact = by_torch(step, copy.deepcopy(network).double(), x.double())
    ours, torchs = in_bf16(copy.deepcopy(network)), by_torch(in_bf16, copy.deepcopy(network))
    errors = [((found.double() - exact).norm() / exact.norm()).item() for found in (ours, torchs)]
    assert errors[0] < 1.2 * errors[1] < 0.2


class Conditional(nn.Module):
    """A network whose filters and whose scale are made of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Parameter(torch.randn(6, 4, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        level = x.mean()
        output = F.conv2d(x, self.filters * level)
        return F.batch_norm(output, None, None, weight=level.expand(6), bias=None, training=True)


def test_layers_whose_parameters_are_made_of_the_images_are_torchs(by_torch: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    network = Conditional().double()
    expected = by_torch(derivatives, copy.deepcopy(network), pixels())
    for name, found in derivatives(network, pixels()).items():
        torch.testing.assert_close(found, expected[name])


def test_parameters_have_no_gradient_that_is_differentiated() -> None:
    layer = nn.Conv2d(4, 6, 3)
    with DoubleBackward():
        output = layer(pixels(torch.float32).requires_grad_())
    with pytest.raises(RuntimeError, match="to not have been used in the graph"):
        torch.autograd.grad(output.sum(), layer.weight, create_graph=True)
    torch.autograd.grad(output.sum(), layer.weight)


def test_batch_norm_of_one_value_a_channel_is_refused() -> None:
    with DoubleBackward(), pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm2d(4)(torch.zeros(1, 4, 1, 1))


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.LeakyReLU(0.1)])
def test_rectifiers_have_no_zeros_to_add(layer: nn.Module) -> None:
    """Torch's own second derivative is a tensor of zeros."""
    x = torch.tensor([-3.0, -0.0, 0.0, 2.0], requires_grad=True)
    weight = torch.tensor([2.0, 3.0, 5.0, 7.0], requires_grad=True)
    seconds: list[Tensor | None] = []
    for inside in (DoubleBackward(), nullcontext()):
        with inside:
            output = layer(x)
        (gradient,) = torch.autograd.grad((weight * output).sum(), x, create_graph=True)
        seconds.append(torch.autograd.grad((gradient**2).sum(), x, allow_unused=True)[0])
    ours, torchs = seconds
    assert ours is None
    assert torchs is not None and not torchs.any()  # else torch has learned it: ours can go
