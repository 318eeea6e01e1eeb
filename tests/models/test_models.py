"""Networks against published parameter counts, values worked by hand, and every arch file in conf/."""

import math
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn

from epsball.build import ConfigError, build
from epsball.cli.compose import composed
from epsball.models import MODELS, heads, own_heads
from epsball.models.layers import ACTIVATIONS, NORMALISATIONS, SameConv2d, same_padding
from epsball.models.wrappers import RULES, Ensemble

CONF = Path(__file__).parents[2] / "conf"
MNIST, CIFAR, IMAGENET, DIGITS = (1, 28, 28), (3, 32, 32), (3, 299, 299), (1, 8, 8)
Shape = tuple[int, int, int]

# file -> its image, its classes, its parameters
PARAMETERS: dict[str, tuple[Shape, int, int]] = {
    "mnist_a": (MNIST, 10, 3_382_346),
    "mnist_b": (MNIST, 10, 710_218),
    "mnist_c": (MNIST, 10, 4_795_082),
    "mnist_d": (MNIST, 10, 509_410),
    "madry_mnist": (MNIST, 10, 3_274_634),
    "conv3": (MNIST, 10, 6_526_474),
    "conv4": (CIFAR, 10, 8_640_714),
    "resnet20": (CIFAR, 10, 269_722),
    "resnet26": (CIFAR, 10, 366_938),
    "wide_resnet": (CIFAR, 10, 45_901_914),
    "wide_resnet_w1": (CIFAR, 10, 464_154),
    "inception_v3": (IMAGENET, 1000, 27_161_264),
    "inception_v3_32": (CIFAR, 10, 21_806_058),
    "inception_v3_narrow": (CIFAR, 10, 5_465_466),
    "inception_v3_elu": (IMAGENET, 1000, 27_161_264),
    "ensemble": (MNIST, 10, 5 * 6_526_474),
    "ensemble_mix": (CIFAR, 10, 26_263_634),
    "timm": (CIFAR, 1000, 11_689_512),
}

# the smallest image side that the layers take
SMALLEST = {
    "mnist_a": 9,
    "mnist_b": 27,
    "mnist_c": 5,
    "mnist_d": 1,
    "madry_mnist": 1,
    "conv3": 4,
    "conv4": 4,
    "resnet20": 8,
    "wide_resnet_w1": 4,
    "inception_v3": 299,
    "inception_v3_32": 7,
    "ensemble": 4,
    "ensemble_mix": 8,
}


@cache
def _composed(name: str) -> str:
    return OmegaConf.to_yaml(composed(f"arch={name}", "models=none", "scale=paper")["arch"])


def arch(name: str, **fields: object) -> dict[str, Any]:
    """Return the spec in conf/arch/<name>.yaml, with some fields replaced."""
    spec = OmegaConf.to_container(OmegaConf.create(_composed(name)))
    assert isinstance(spec, dict)
    return {**{str(k): v for k, v in spec.items()}, **fields}


def network(name: str, shape: Shape, classes: int = 10, **fields: object) -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = build(MODELS, arch(name, **fields), shape, classes, where="arch")
    return net


def on_meta(name: str, shape: Shape, classes: int = 10, **fields: object) -> nn.Module:
    """Return a network of shapes and counts without weights: instant for any size."""
    with torch.device("meta"):
        return network(name, shape, classes, **fields)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def images(shape: Shape, n: int = 3) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))


def refused(name: str, shape: Shape = MNIST, classes: int = 10, **fields: object) -> str:
    with pytest.raises(ConfigError) as caught:
        on_meta(name, shape, classes, **fields)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(("arch.", "arch: "))
    return message


def layers(net: nn.Module, kind: type[nn.Module]) -> list[Any]:
    return [layer for layer in net.modules() if isinstance(layer, kind)]


# ---- every file in conf/arch


def test_every_file_and_every_name_is_listed_here() -> None:
    listed = {*PARAMETERS, "random_forest", "module"}  # fitted first, the user's own: test_forest.py, test_module.py
    assert {f.stem for f in (CONF / "arch").glob("*.yaml")} == listed
    assert {arch(name)["name"] for name in listed} == set(MODELS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count_and_logits_shape(name: str) -> None:
    if name == "timm":
        pytest.importorskip("timm")
    shape, classes, parameters = PARAMETERS[name]
    net = on_meta(name, shape, classes)
    assert count(net) == parameters
    assert net(torch.zeros(2, *shape, device="meta")).shape == (2, classes)


@pytest.mark.parametrize("name", PARAMETERS)
def test_file_states_its_parameter_count(name: str) -> None:
    header = (CONF / "arch" / f"{name}.yaml").read_text().split("name:")[0]
    assert all(line.startswith("#") for line in header.split("defaults:")[0].splitlines())
    stated = "5 x 6,526,474" if name == "ensemble" else f"{PARAMETERS[name][2]:,}"
    assert f"{stated} parameters" in header


@pytest.mark.parametrize("name", SMALLEST)
def test_smallest_image(name: str) -> None:
    side = SMALLEST[name]
    net = on_meta(name, (1, side, side), 3)
    assert net(torch.zeros(2, 1, side, side, device="meta")).shape == (2, 3)
    message = refused(name, (1, side - 1, side))
    assert message.endswith(f"takes images from {side}x{side} on, these are {side - 1}x{side}")


@pytest.mark.parametrize("name", [n for n in SMALLEST if n not in ("inception_v3", "mnist_b")])
@pytest.mark.parametrize(("shape", "classes"), [((2, 11, 14), 1), ((5, 37, 9), 23)])
def test_any_image_and_any_classes(name: str, shape: Shape, classes: int) -> None:
    assert on_meta(name, shape, classes)(torch.zeros(2, *shape, device="meta")).shape == (2, classes)


def test_b_and_the_published_inception_take_larger_odd_images() -> None:
    assert on_meta("mnist_b", (3, 31, 64), 7)(torch.zeros(1, 3, 31, 64, device="meta")).shape == (1, 7)
    net = on_meta("inception_v3", (1, 331, 310), 7)
    assert net(torch.zeros(2, 1, 331, 310, device="meta")).shape == (2, 7)
    assert on_meta("inception_v3", (3, 75, 75), 7, aux=False)(torch.zeros(2, 3, 75, 75, device="meta")).shape


@pytest.mark.parametrize("name", ["mnist_c", "mnist_d", "madry_mnist", "conv3", "conv4", "resnet20"])
def test_digits_forward_and_backward(name: str) -> None:
    net = network(name, DIGITS)
    F.cross_entropy(net(images(DIGITS)), torch.tensor([1, 2, 3])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", ["mnist_b", "madry_mnist", "conv3", "resnet20", "wide_resnet_w1"])
def test_eval_logits_do_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    net = network(name, MNIST).eval()
    x = images(MNIST, 4)
    with torch.no_grad():
        torch.testing.assert_close(net(x)[:1], net(x[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "smallest"), [("conv3", 12), ("conv4", 14)])
def test_conv_nets_without_padding_lose_a_pixel_on_each_side(name: str, smallest: int) -> None:
    def channels_before_hidden(side: int, padding: str) -> int:
        return layers(on_meta(name, (1, side, side), padding=padding), nn.Linear)[0].in_features

    assert channels_before_hidden(smallest, "valid") == 128  # one position is left
    assert channels_before_hidden(28, "same") == 128 * 7**2
    after = {"conv3": ((28 - 4) // 2 - 2) // 2, "conv4": ((28 - 6) // 2 - 2) // 2}[name]
    net = network(name, MNIST, padding="valid")
    assert layers(net, nn.Linear)[0].in_features == 128 * after**2
    assert net(images(MNIST)).shape == (3, 10)


def test_same_padding_is_a_ring_of_zeros() -> None:
    net, x = network("conv3", MNIST), images(MNIST)
    first, bare = layers(net, nn.Conv2d)[0], layers(network("conv3", MNIST, padding="valid"), nn.Conv2d)[0]
    bare.load_state_dict(first.state_dict())
    torch.testing.assert_close(first(x), bare(F.pad(x, (1, 1, 1, 1))))


# ---- errors, in one line, with their key


def test_errors_name_the_field() -> None:
    assert refused("conv3", classes=0) == "arch.classes should be at least 1 for conv3, is 0"
    assert refused("conv3", padding="full") == "arch.padding should be one of same, valid, is 'full'"
    wrong = "arch: conv3 takes images from 12x12 on, these are 11x11"
    assert refused("conv3", (1, 11, 11), padding="valid") == wrong
    wrong = "arch: conv4 takes images from 14x14 on, these are 13x13"
    assert refused("conv4", (1, 13, 13), padding="valid") == wrong
    assert refused("mnist_d", (0, 8, 8)) == "arch: mnist_d takes images of at least 1 channel, these have 0"
    assert refused("resnet20", depth=21) == "arch.depth should be 6n + 2 (8, 14, 20, 26, ...), is 21"
    assert refused("resnet20", width=0) == "arch.width should be above 0, is 0.0"
    assert refused("madry_mnist", width=-1) == "arch.width should be above 0, is -1.0"
    assert refused("madry_mnist", hidden=0) == "arch.hidden should be at least 1, is 0"
    assert refused("wide_resnet", width=0.5) == "arch.width should be at least 1, is 0.5"
    wrong = "arch.width should be a multiple of 1/16 (the nearest is 0.6875), is 0.7"
    assert refused("inception_v3_32", CIFAR, width=0.7) == wrong
    assert refused("inception_v3_32", CIFAR, extra_blocks=-1) == "arch.extra_blocks should be at least 0, is -1"
    assert refused("inception_v3_32", CIFAR, dropout=1) == "arch.dropout should be in [0, 1), is 1.0"
    momentum = "arch.batch_norm_momentum should be in (0, 1], is 0.0"
    assert refused("inception_v3_32", CIFAR, batch_norm_momentum=0) == momentum
    assert refused("inception_v3_32", CIFAR, aux_weight=-1) == "arch.aux_weight should be at least 0, is -1.0"
    assert refused("inception_v3_32", CIFAR, aux=True).endswith("images from 35x35 on, these are 32x32")


def test_errors_of_components_name_their_key() -> None:
    slope = refused("conv3", activation={"name": "leaky_relu", "slope": 2})
    assert slope == "arch.activation.slope should be in [0, 1), is 2.0"
    beta = refused("conv3", activation={"name": "relu_decay", "beta": -1})
    assert beta == "arch.activation.beta should be at least 0, is -1.0"
    assert "did you mean 'leaky_relu'" in refused("conv3", activation={"name": "leakyrelu"})
    values = {"name": "mean_std", "mean": [0.5, 0.5], "std": [1, 1]}
    assert refused("conv3", CIFAR, normalise=values).startswith("arch.normalise.mean should have 1 or 3 values")
    assert "std should have 2 values" in refused("conv3", normalise={**values, "std": [1]})
    assert "std should be above 0" in refused("conv3", normalise={**values, "std": [1, 0]})


def test_errors_of_ensembles_name_the_member() -> None:
    bad = arch("resnet20", depth=7)
    assert refused("ensemble", members={"a": bad}).startswith("arch.members.a.depth should be 6n + 2")
    outer = arch("ensemble", members={"b": bad})
    assert refused("ensemble", members={"a": outer}).startswith("arch.members.a.members.b.depth should be")
    assert "did you mean 'conv3'" in refused("ensemble", members={"a": {"name": "conv33"}})
    assert refused("ensemble", members={}) == "arch.members should name at least one arch, is empty"
    assert refused("ensemble", copies=0) == "arch.copies should be at least 1, is 0"
    assert refused("ensemble", rule="max").startswith("arch.rule should be one of mean_probability")


# ---- layers


def test_same_padding_is_tensorflows() -> None:
    assert same_padding(28, 8, 2) == (3, 3)
    assert same_padding(27, 8, 2) == (3, 4)
    assert same_padding(32, 3, 2) == (0, 1)
    assert same_padding(32, 3, 1) == (1, 1)
    assert same_padding(8, 1, 2) == (0, 0)


@pytest.mark.parametrize(("kernel", "stride", "size", "pad"), [(3, 2, 8, (0, 1)), (8, 2, 27, (3, 4))])
def test_same_convolution_pads_the_end_more(kernel: int, stride: int, size: int, pad: tuple[int, int]) -> None:
    layer = SameConv2d(2, 3, kernel, stride=stride)
    x = images((2, size, size))
    expected = F.conv2d(F.pad(x, (*pad, *pad)), layer.weight, layer.bias, stride=stride)
    torch.testing.assert_close(layer(x), expected)
    assert expected.shape[2] == math.ceil(size / stride)


def test_b_equals_its_formula() -> None:
    """Tramèr's model B on 28x28 pads by 3 on each side: 28, 14, 5, 1."""
    net = network("mnist_b", MNIST).eval()
    first, second, third = layers(net, nn.Conv2d)
    (out,) = layers(net, nn.Linear)
    x = images(MNIST)
    hidden = F.conv2d(F.pad(x, (3, 3, 3, 3)), first.weight, first.bias, stride=2).relu()
    hidden = F.conv2d(hidden, second.weight, second.bias, stride=2).relu()
    hidden = F.conv2d(hidden, third.weight, third.bias).relu()
    assert hidden.shape[1:] == (128, 1, 1)
    torch.testing.assert_close(net(x), hidden.flatten(1) @ out.weight.T + out.bias)


DROPOUT: dict[str, dict[int, float]] = {  # Tramèr et al. v2, table 6: after so many convolutions and dense layers
    "mnist_a": {2: 0.25, 3: 0.5},
    "mnist_b": {0: 0.2, 3: 0.5},
    "mnist_c": {2: 0.25, 3: 0.5},
    "mnist_d": {1: 0.5, 2: 0.5, 3: 0.5, 4: 0.5},
}


@pytest.mark.parametrize("name", DROPOUT)
def test_dropout_of_tramers_models(name: str) -> None:
    weights, found = 0, {}
    for layer in on_meta(name, MNIST).modules():
        weights += isinstance(layer, nn.Conv2d | nn.Linear)
        if isinstance(layer, nn.Dropout):
            found[weights] = layer.p
    assert found == DROPOUT[name]


VALUES: dict[str, tuple[dict[str, float], Callable[[float], float]]] = {
    "relu": ({}, lambda v: max(v, 0)),
    "leaky_relu": ({"slope": 0.1}, lambda v: v if v > 0 else 0.1 * v),
    "elu": ({}, lambda v: v if v > 0 else math.exp(v) - 1),
    "tanh": ({}, math.tanh),
    "relu6": ({}, lambda v: min(max(v, 0), 6)),
    "relu_decay": ({"beta": 0.1}, lambda v: max(v, 0) / (1 + 0.1 * max(v, 0) ** 2)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_values(name: str) -> None:
    fields, formula = VALUES[name]
    inputs = [-3.0, -0.5, 0.0, 2.0, 10.0]
    layer = build(ACTIVATIONS, {"name": name, **fields}, where="activation")()
    torch.testing.assert_close(layer(torch.tensor(inputs)), torch.tensor([formula(v) for v in inputs]))


def test_relu_decay_peaks_at_one_over_root_beta() -> None:
    """Kurakin et al. 2017, appendix D: 2 / 1.4 and 10 / 11 for beta 0.1; the largest is 1 / (2 sqrt(beta))."""
    layer = build(ACTIVATIONS, {"name": "relu_decay", "beta": 0.1}, where="activation")()
    torch.testing.assert_close(layer(torch.tensor([-1.0, 2.0, 10.0])), torch.tensor([0, 2 / 1.4, 10 / 11]))
    assert layer(torch.linspace(0, 20, 1000)).max().item() == pytest.approx(0.5 / math.sqrt(0.1), abs=1e-4)


@pytest.mark.parametrize("name", ["mnist_d", "madry_mnist", "conv3", "resnet20", "wide_resnet_w1"])
def test_activation_changes_the_network(name: str) -> None:
    x = images(DIGITS)
    names = ("relu", "elu", "tanh")
    outputs = [network(name, DIGITS, activation={"name": a}).eval()(x) for a in names]
    assert not any(torch.allclose(outputs[i], outputs[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    relu_layers = layers(network(name, DIGITS, activation={"name": "tanh"}), nn.ReLU)
    assert not relu_layers


def _normalised(name: str, x: Tensor, **fields: object) -> Tensor:
    shape = (x.shape[1], x.shape[2], x.shape[3])
    made = build(NORMALISATIONS, {"name": name, **fields}, where="normalise")(shape)
    out: Tensor = nn.Sequential(*made)(x)
    return out


def test_normalisations_worked_by_hand() -> None:
    x = torch.tensor([[[[0.0, 1.0]], [[0.5, 0.25]]]])  # one image, two channels, 1x2
    assert build(NORMALISATIONS, {"name": "none"}, where="normalise")((2, 1, 2)) == []
    torch.testing.assert_close(_normalised("symmetric", x), 2 * x - 1)
    expected = torch.tensor([[[[-1.0, 1.0]], [[0.0, -0.5]]]])
    got = _normalised("mean_std", x, mean=[0.5, 0.5], std=[0.5, 0.5])
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(_normalised("mean_std", x, mean=[0.5], std=[0.5]), expected)
    assert set(NORMALISATIONS) == {"none", "symmetric", "mean_std", "per_image"}


def test_per_image_standardisation_is_tensorflows() -> None:
    """Mean .25, deviation .25 over four values; a constant image gives zeros and a finite gradient."""
    x = torch.tensor([[[[0.0, 0.5], [0.0, 0.5]]], [[[0.7, 0.7], [0.7, 0.7]]]], requires_grad=True)
    out = _normalised("per_image", x)
    torch.testing.assert_close(out[0, 0], torch.tensor([[-1.0, 1.0], [-1.0, 1.0]]))
    torch.testing.assert_close(out[1], torch.zeros(1, 2, 2), atol=1e-4, rtol=0)
    (gradient,) = torch.autograd.grad(out.square().sum() + out[1].sum(), x)
    assert gradient.isfinite().all()


def test_per_image_floor_is_in_pixel_units() -> None:
    """On 0..255 TensorFlow divides by max(deviation, 1/sqrt(n)): one image whose deviation is below it."""
    pixels = torch.tensor([[[[100.0, 100.0], [100.0, 100.4]]]])
    n = pixels.numel()
    expected = (pixels - pixels.mean()) / max(pixels.std(correction=0).item(), 1 / math.sqrt(n))
    torch.testing.assert_close(_normalised("per_image", pixels / 255), expected, atol=1e-4, rtol=1e-3)


def test_normalisation_is_the_first_layer() -> None:
    x = images(DIGITS)
    plain = network("conv3", DIGITS)
    shifted = network("conv3", DIGITS, normalise={"name": "symmetric"})
    torch.testing.assert_close(shifted(x), plain(2 * x - 1))


# ---- widths, depths, initialisation


@pytest.mark.parametrize(
    ("name", "shape", "widths"),
    [
        ("madry_mnist", MNIST, [2 / 32, 4 / 32, 0.5, 1, 2]),
        ("resnet20", CIFAR, [0.25, 0.5, 1, 2.5]),
        ("wide_resnet", CIFAR, [1, 2, 4.5, 10]),
        ("inception_v3_32", CIFAR, [1 / 16, 0.5, 1, 1.5, 2]),
    ],
)
def test_width_grows_the_network(name: str, shape: Shape, widths: list[float]) -> None:
    counts = [count(on_meta(name, shape, width=w)) for w in widths]
    assert counts == sorted(set(counts))


def test_madrys_capacity_study_starts_at_2_4_8() -> None:
    net = on_meta("madry_mnist", MNIST, width=2 / 32, hidden=128)
    assert [c.out_channels for c in layers(net, nn.Conv2d)] == [2, 4]
    assert [fc.out_features for fc in layers(net, nn.Linear)] == [8, 10]
    assert count(on_meta("madry_mnist", DIGITS, width=0.001)) > 0


def test_resnet_depth_and_shortcuts() -> None:
    for depth in (20, 26):
        net = on_meta("resnet20", CIFAR, depth=depth)
        assert len(layers(net, nn.Conv2d)) + len(layers(net, nn.Linear)) == depth
    projected = count(on_meta("resnet20", CIFAR, shortcut="project"))
    assert projected == 269_722 + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)


@pytest.mark.parametrize(("name", "blocks"), [("resnet20", 9), ("wide_resnet_w1", 15)])
def test_a_blocks_first_convolution_has_the_stride(name: str, blocks: int) -> None:
    """He et al. 2016, figure 3, and Madry's code: the second convolution works on the smaller image already."""
    found = [block.residual for block in on_meta(name, CIFAR).modules() if hasattr(block, "residual")]
    strides = [[layer.stride[0] for layer in layers(residual, nn.Conv2d)] for residual in found]
    assert len(strides) == blocks
    third = blocks // 3
    assert [i for i, pair in enumerate(strides) if pair == [2, 1]] == [third, 2 * third]
    assert strides.count([1, 1]) == blocks - 2


def test_padded_shortcut_carries_the_subsampled_input() -> None:
    """With the residual branch's last scale at zero, a block is its shortcut (then the activation)."""
    net = network("resnet20", CIFAR, activation={"name": "relu"}).eval()
    block = next(b for b in net.modules() if hasattr(b, "shortcut") and len(list(b.shortcut.children())))
    nn.init.zeros_(block.residual[4].weight)
    x = images((16, 9, 9))
    expected = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
    torch.testing.assert_close(block(x), expected)


def test_wide_resnet_blocks_are_madrys() -> None:
    net = network("wide_resnet_w1", CIFAR, width=2).eval()
    blocks = [b for b in net.modules() if hasattr(b, "activate_shortcut")]
    assert [b.activate_shortcut for b in blocks] == [True] + [False] * 14
    assert {(b.eps, b.momentum) for b in layers(net, nn.BatchNorm2d)} == {(1e-3, 0.1)}
    slower = network("inception_v3_32", CIFAR, width=1 / 16, batch_norm_momentum=0.0003)
    assert {b.momentum for b in layers(slower, nn.BatchNorm2d)} == {0.0003}
    nn.init.zeros_(blocks[5].residual[3].weight)
    x = images((32, 8, 8))
    torch.testing.assert_close(blocks[5](x), F.pad(F.avg_pool2d(x, 2), (0, 0, 0, 0, 16, 16)))
    nn.init.zeros_(blocks[0].residual[3].weight)
    x = images((16, 8, 8)) - 0.5
    activated = F.leaky_relu(x / math.sqrt(1.001), 0.1)
    torch.testing.assert_close(blocks[0](x), F.pad(activated, (0, 0, 0, 0, 8, 8)))


def test_initialisation_of_tramers_models() -> None:
    a = network("mnist_a", MNIST)
    second = layers(a, nn.Conv2d)[1].weight
    bound = math.sqrt(6 / (64 * 25 + 64 * 25))
    assert second.abs().max() <= bound and second.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    d = layers(network("mnist_d", MNIST), nn.Linear)
    assert d[1].weight.std().item() == pytest.approx(math.sqrt(2 / 300), rel=0.02)
    assert d[1].weight.abs().max() > 3 * math.sqrt(2 / 300), "he_normal is not truncated"
    assert d[4].weight.abs().max() <= math.sqrt(6 / 310)
    assert all(not layer.bias.any() for layer in [*layers(a, nn.Conv2d), *d])


def test_initialisation_of_madrys_models() -> None:
    net = network("madry_mnist", MNIST)
    weight = layers(net, nn.Linear)[0].weight
    assert weight.abs().max() <= 0.2
    assert weight.std().item() == pytest.approx(0.1 * 0.8796, rel=0.01)  # a normal cut at two deviations
    assert all((p == 0.1).all() for name, p in net.named_parameters() if name.endswith("bias"))
    wide = network("wide_resnet_w1", CIFAR, width=2)
    last, fc = layers(wide, nn.Conv2d)[-1].weight, layers(wide, nn.Linear)[0]
    assert last.std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.02)
    assert fc.weight.abs().max() <= math.sqrt(3 / 128) and not fc.bias.any()


def test_initialisation_by_he() -> None:
    fc = layers(network("conv3", DIGITS), nn.Linear)[0].weight
    assert fc.std().item() == pytest.approx(math.sqrt(2 / 512), rel=0.02)
    conv = layers(network("resnet20", CIFAR), nn.Conv2d)[-1].weight
    assert conv.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)


# ---- Inception


def small_inception(**fields: object) -> nn.Module:
    """Return a network with the 17x17 grid that the auxiliary head needs, with a sixteenth of the filters."""
    return network("inception_v3_32", (3, 35, 35), 5, width=1 / 16, aux=True, aux_weight=0.4, **fields)


def test_inception_counts_as_torchvisions() -> None:
    from torchvision.models import inception_v3

    with torch.device("meta"):
        torchvisions = inception_v3(init_weights=False)
    assert count(on_meta("inception_v3", IMAGENET, 1000)) == count(torchvisions)
    shapes = [p.shape for p in torchvisions.parameters()]
    ours = [p.shape for p in on_meta("inception_v3", IMAGENET, 1000).parameters()]
    assert sorted(map(tuple, ours)) == sorted(map(tuple, shapes))


def test_inception_computes_what_torchvisions_does() -> None:
    """Same weights, same image, same logits: 75 pixels are enough without the auxiliary head."""
    from torchvision.models import inception_v3

    with torch.device("meta"):
        torchvisions = inception_v3(init_weights=False, aux_logits=False, num_classes=5)
    torchvisions = torchvisions.to_empty(device="cpu").eval()
    ours = network("inception_v3", (3, 75, 75), 5, aux=False).eval()
    values = [v for k, v in ours.state_dict().items() if not k.startswith("trunk.0.")]
    assert [v.shape for v in torchvisions.state_dict().values()] == [v.shape for v in values]
    torchvisions.load_state_dict(dict(zip(torchvisions.state_dict(), values, strict=True)))
    x = images((3, 75, 75), 1)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), torchvisions(2 * x - 1), rtol=1e-4, atol=1e-3)


def test_inception_heads() -> None:
    net = small_inception()
    x = images((3, 35, 35))
    (logits, weight), (aux, aux_weight) = heads(net.train(), x)
    assert (weight, aux_weight) == (1.0, 0.4)
    assert logits.shape == aux.shape == (3, 5)
    assert isinstance(net(x), Tensor) and net(x).shape == (3, 5)
    net.auxiliary = False
    assert len(heads(net, x)) == 1
    net.auxiliary = True
    ((logits, weight),) = heads(net.eval(), x)
    torch.testing.assert_close(logits, net(x))
    assert len(heads(network("inception_v3_32", CIFAR, width=1 / 16).train(), images(CIFAR))) == 1


class LayerOfHeads(nn.Module):
    """A network whose last layer is called as torchvision's ViT calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.heads(x.flatten(1) - 0.5)
        return logits


def test_a_layer_called_heads_is_no_method_of_that_name() -> None:
    net, x = LayerOfHeads(), torch.rand(5, 1, 2, 2)
    ((logits, weight),) = heads(net, x)
    assert torch.equal(logits, net(x)) and weight == 1.0
    assert own_heads(net) is None and own_heads(Ensemble([net], "vote")) is not None


def test_a_network_that_gives_a_tuple_in_train_mode_is_told_in_one_line() -> None:
    """As torchvision's GoogLeNet and Inception do."""

    class Two(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return (super().forward(x), None) if self.training else super().forward(x)

    net = Two(4, 2)
    assert len(heads(net.eval(), torch.zeros(1, 4))) == 1
    with pytest.raises(TypeError, match="Two gives a tuple in train mode: its forward should give logits alone"):
        heads(net.train(), torch.zeros(1, 4))


def test_inception_runs_its_trunk_once_for_both_heads() -> None:
    net = small_inception().train()
    runs: list[int] = []
    net.trunk.register_forward_hook(lambda *_: runs.append(1))
    heads(net, images((3, 35, 35)))
    assert len(runs) == 1


def test_inception_activation_is_everywhere() -> None:
    net = small_inception(activation={"name": "elu"})
    assert len(layers(net, nn.ELU)) == len(layers(net, nn.Conv2d)) and not layers(net, nn.ReLU)
    x = images((3, 35, 35))
    assert not torch.allclose(net.eval()(x), small_inception().eval()(x))


def test_inception_extra_blocks_are_of_the_17x17_grid() -> None:
    deeper = on_meta("inception_v3", IMAGENET, 1000, extra_blocks=2)
    extra = (count(deeper) - count(on_meta("inception_v3", IMAGENET, 1000))) / 2
    assert extra == count(deeper.trunk[-1]) == 2_141_952


def test_inception_initialisation() -> None:
    net = small_inception()
    weights = torch.cat([conv.weight.flatten() for conv in layers(net.trunk, nn.Conv2d)])
    assert weights.abs().max() <= 0.2 and weights.std().item() == pytest.approx(0.088, rel=0.02)  # 0.1, cut off at 2 sd
    assert net.aux.conv1.conv.weight.abs().max() <= 0.02 and net.aux.fc.weight.abs().max() <= 0.002


# ---- the ensemble


class Fixed(nn.Module):
    """A member whose logits are given."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def _probabilities(*p: float) -> Fixed:
    return Fixed(*(math.log(v) for v in p))


def test_rules_worked_by_hand() -> None:
    """Three members that the three rules see differently."""
    members: list[nn.Module] = [
        _probabilities(0.5, 0.4, 0.1),
        _probabilities(0.5, 0.4, 0.1),
        _probabilities(0.001, 0.899, 0.1),
    ]
    x = torch.zeros(2, 1)
    mean = Ensemble(members, "mean_probability")(x)
    torch.testing.assert_close(mean.exp()[0], torch.tensor([1.001 / 3, 1.699 / 3, 0.1]))
    logit = Ensemble(members, "mean_logit")(x)
    expected = torch.tensor([0.5 * 0.5 * 0.001, 0.4 * 0.4 * 0.899, 0.1**3]).log() / 3
    torch.testing.assert_close(logit[0], expected)
    vote = Ensemble(members, "vote")(x)
    torch.testing.assert_close(vote[0], torch.tensor([2 + 1.001 / 6, 1 + 1.699 / 6, 0.05]))
    assert [r.argmax(1).tolist() for r in (mean, logit, vote)] == [[1, 1], [1, 1], [0, 0]]
    assert set(RULES) == {"mean_probability", "mean_logit", "vote"}


def test_a_tied_vote_goes_to_the_larger_mean_probability() -> None:
    members: list[nn.Module] = [_probabilities(0.6, 0.3, 0.1), _probabilities(0.05, 0.9, 0.05)]
    assert Ensemble(members, "vote")(torch.zeros(1, 1)).argmax(1).item() == 1


def test_mean_probability_is_stable_for_huge_logits() -> None:
    out = Ensemble([Fixed(2000.0, 0.0), Fixed(0.0, 1000.0)], "mean_probability")(torch.zeros(1, 1))
    torch.testing.assert_close(out, torch.full((1, 2), math.log(0.5)))


def test_copies_and_members() -> None:
    members = {"small": arch("mnist_d"), "conv": arch("madry_mnist", width=0.125)}
    net = network("ensemble", DIGITS, members=members, copies=2)
    assert isinstance(net, Ensemble) and isinstance(net.members, nn.ModuleList)
    assert [len(layers(m, nn.Conv2d)) for m in net.members] == [0, 0, 2, 2]
    x = images(DIGITS)
    first, second = (net.members[i].eval()(x) for i in (0, 1))
    assert not torch.allclose(first, second), "each copy has its own initialisation"


def test_ensemble_heads_share_the_loss() -> None:
    inception = arch("inception_v3_32", width=1 / 16, aux=True, aux_weight=0.4)
    members = {"plain": arch("mnist_d"), "two_heads": inception}
    net = network("ensemble", (1, 35, 35), members=members, copies=1).train()
    assert [weight for _, weight in heads(net, images((1, 35, 35)))] == [0.5, 0.5, pytest.approx(0.2)]
    assert [weight for _, weight in heads(net.eval(), images((1, 35, 35)))] == [0.5, 0.5]
    x = images(DIGITS)
    ensemble = network("ensemble", DIGITS, members={"a": arch("conv3")}, copies=2)
    for (logits, _), member in zip(heads(ensemble, x), ensemble.members, strict=True):
        torch.testing.assert_close(logits, member(x))


@pytest.mark.parametrize("name", ["conv3", "resnet20", "wide_resnet_w1"])
def test_second_derivatives_reach_the_weights(name: str) -> None:
    """What GAL needs: the gradient for the input is itself differentiable in the weights."""
    net = network(name, DIGITS).train()
    x = images(DIGITS).requires_grad_()
    loss = F.cross_entropy(net(x), torch.tensor([0, 1, 2]), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    gradient.square().sum().backward()
    first = layers(net, nn.Conv2d)[0].weight.grad
    assert first is not None and first.isfinite().all() and first.abs().sum() > 0


# ---- timm


def test_timm_normalises_with_the_models_own_values() -> None:
    pytest.importorskip("timm")
    net = network("timm", CIFAR, 7)
    torch.testing.assert_close(net[0].mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    grey = on_meta("timm", MNIST, 7)
    assert grey[0].mean.numel() == 1 and grey(torch.zeros(2, *MNIST, device="meta")).shape == (2, 7)
    assert net.training and not any(m.running_mean.any() for m in layers(net, nn.BatchNorm2d))


def test_timm_tells_transformers_their_image_size() -> None:
    pytest.importorskip("timm")
    net = on_meta("timm", CIFAR, 7, model="vit_tiny_patch16_224")
    assert net(torch.zeros(2, *CIFAR, device="meta")).shape == (2, 7)


def test_timm_reads_a_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    first = network("timm", CIFAR, 7)
    file = tmp_path / "weights.pth"
    torch.save(first[1].state_dict(), file)
    nn.init.zeros_(first[1].fc.weight)
    assert network("timm", CIFAR, 7, checkpoint=str(file))[1].fc.weight.any()
    assert network("timm", CIFAR, 7, model="resnet18.a1_in1k", pretrained=True, checkpoint=str(file)).has_weights
    message = refused("timm", CIFAR, 8, checkpoint=str(file))
    unfit = "fc.weight is of shape (7, 512), should be of (8, 512) (2 such differences)"
    assert message == f"arch.checkpoint should fit the network, but {file} does not: {unfit}"


def test_timm_normalises_with_the_users_values_and_says_which(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    file = tmp_path / "weights.pth"
    torch.save(network("timm", CIFAR, 7)[1].state_dict(), file)
    own = on_meta("timm", CIFAR, 7, checkpoint=str(file))
    assert own.remark == (
        "images in [0, 1] less 0.485 0.456 0.406, over 0.229 0.224 0.225, timm's for resnet18; arch.mean and arch.std "
        "set others"
    )
    net = network("timm", CIFAR, 7, checkpoint=str(file), mean=[0.5], std=[0.25])
    torch.testing.assert_close(net[0](torch.ones(1, *CIFAR)), torch.full((1, *CIFAR), 2.0))
    assert net.remark == "images in [0, 1] less 0.5, over 0.25, of the config"
    assert refused("timm", CIFAR, mean=[0.5]) == "arch.std should be set beside mean, and null beside a null one"
    assert refused("timm", CIFAR, mean=[0.5, 0.5], std=[1.0, 1.0]).startswith("arch.mean should have 1 or 3 values")
    assert refused("timm", CIFAR, mean=[0.5], std=[0.0]) == "arch.std should be above 0, is [0.0]"


def test_timm_errors() -> None:
    pytest.importorskip("timm")
    message = refused("timm", CIFAR, model="resnt18")
    assert message.startswith("arch.model is 'resnt18', which timm does not have (did you mean 'resnet18'")
    assert refused("timm", CIFAR, checkpoint="/no/such").startswith("arch.checkpoint should be a file")
    assert refused("timm", CIFAR, model="inception_v3").startswith("arch: inception_v3 takes images of (3, 299, 299) ")


def test_timm_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "pip install epsball[imagenet]" in refused("timm", CIFAR)


def test_torchvision_is_not_needed_for_the_other_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models.inception", None)
    assert count(on_meta("conv3", MNIST)) == PARAMETERS["conv3"][2]
