"""The table of attacks, every file in conf/attack, and the promises that every attack keeps."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from every_attack import EPS, EVERY, FILES, SETTINGS, attack_spec, over_all, over_files, small_batch, small_net
from linear import NoFloat64, seeded
from torch import Tensor, nn

from epsball.attacks import ATTACKS, NamedAttack
from epsball.attacks.attack import Attack, BrokenContract, craft
from epsball.attacks.gradient import GradientAttack
from epsball.attacks.noise import NoiseAttack
from epsball.build import ConfigError, build

# ---- every file in conf/attack


def test_every_file_has_an_entry_here() -> None:
    assert sorted(SETTINGS) == FILES


@pytest.mark.parametrize("name", FILES)
def test_file_says_what_the_paper_says(name: str) -> None:
    spec = attack_spec(name, EPS)
    assert (build(ATTACKS, spec, where="attack") if spec else None) == SETTINGS[name]


@over_files
def test_eps_0_changes_nothing(name: str) -> None:
    x, y = small_batch()
    attack = build(ATTACKS, attack_spec(name, 0.0), where="attack")
    assert torch.equal(attack(small_net(), x, y, seeded()), x)


@dataclass(frozen=True)
class Halved(NoiseAttack):
    """An attack of one's own, whose class stands in no table."""


def halved(eps: float) -> Halved:
    return Halved(eps / 2, "sign")


def test_an_attack_that_a_function_makes_has_an_identity_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("epsball.attacks.ATTACKS", {**ATTACKS, "halved": halved})
    identity = NamedAttack("mine", halved(0.2)).identity
    assert identity == {"name": "Halved", "eps": 0.1, "distribution": "sign"}
    assert identity != NamedAttack("mine", NoiseAttack(0.1, "sign")).identity


# ---- an attack that breaks its contract


@dataclass(frozen=True)
class Breaking:
    """An attack of one's own, with a mistake."""

    mistake: Callable[[nn.Module, Tensor, Tensor], Any]
    eps: float = EPS
    deterministic: bool = True

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *_: object) -> Any:
        return self.mistake(model, x, y)


MISTAKES: dict[str, tuple[Callable[[nn.Module, Tensor, Tensor], Any], str]] = {
    "shape": (lambda model, x, y: x[:1], r"float32 images \(6, 1, 4, 4\) on cpu, gives float32 images \(1, 1, 4, 4\)"),
    "type": (lambda model, x, y: x.double(), r"gives float64 images \(6, 1, 4, 4\) on cpu"),
    "device": (lambda model, x, y: x.to("meta"), r"gives float32 images \(6, 1, 4, 4\) on meta"),
    "none": (lambda model, x, y: None, "gives a NoneType"),
    "gradients": (lambda model, x, y: x.clone().requires_grad_(), r"without gradients: x_adv\.detach\(\)"),
    "images": (lambda model, x, y: x.add_(2 * EPS).clamp_(0, 1), "leave images and labels as they are"),
    "detached": (lambda model, x, y: x.detach().add_(2 * EPS).clamp_(0, 1), "leave images and labels as they are"),
    "labels": (lambda model, x, y: x + 0 * y.zero_().view(-1, 1, 1, 1), "leave images and labels as they are"),
    "mode": (lambda model, x, y: model.train() and x.clone(), "leave the model in its mode"),
}


@pytest.mark.parametrize(("mistake", "message"), MISTAKES.values(), ids=MISTAKES)
def test_an_attack_that_breaks_its_contract_is_refused(mistake: Any, message: str) -> None:
    with pytest.raises(BrokenContract, match=rf"^Breaking should .*{message}"):
        craft(Breaking(mistake), copy.deepcopy(small_net()), *small_batch(), seeded())


@over_all
def test_no_attack_of_ours_is_refused(name: str) -> None:
    x, y = small_batch()
    found = craft(EVERY[name], small_net(), x, y, seeded(7))
    assert torch.equal(found, EVERY[name](small_net(), x, y, seeded(7)))


# ---- promises of every attack


@over_all
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inside_box_and_ball_same_shape_and_dtype(name: str, dtype: torch.dtype) -> None:
    x, y = small_batch(dtype)
    x_adv = EVERY[name](copy.deepcopy(small_net()).to(dtype), x, y, seeded())
    assert x_adv.shape == x.shape and x_adv.dtype == dtype and not x_adv.requires_grad
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert (x_adv - x).abs().max() <= EPS + 1e-6
    assert not torch.equal(x_adv, x)


@over_all
def test_nothing_else_changes(name: str) -> None:
    """No parameter gradient, no mode, no buffer in eval mode, not the images, not the global random state."""
    net, (x, y) = copy.deepcopy(small_net()), small_batch()
    x_before, y_before, state = x.clone(), y.clone(), copy.deepcopy(net.state_dict())
    torch.manual_seed(5)
    drawn = torch.get_rng_state()
    EVERY[name](net, x, y, seeded())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert torch.equal(x, x_before) and torch.equal(y, y_before) and not x.requires_grad
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


@over_all
def test_every_modules_mode_is_left_alone(name: str) -> None:
    net = copy.deepcopy(small_net())
    net.train()
    net[1].eval()
    modes = [m.training for m in net.modules()]
    EVERY[name](net, *small_batch(), seeded())
    assert [m.training for m in net.modules()] == modes


@over_all
def test_same_seed_same_examples_and_no_grad_changes_nothing(name: str) -> None:
    x, y = small_batch()
    first = EVERY[name](small_net(), x, y, seeded(7))
    with torch.no_grad():
        again = EVERY[name](small_net(), x, y, seeded(7))
    assert torch.equal(first, again)


@over_all
def test_deterministic_says_whether_anything_is_drawn(name: str) -> None:
    generator = seeded()
    before = generator.get_state()
    EVERY[name](small_net(), *small_batch(), generator)
    assert torch.equal(generator.get_state(), before) == EVERY[name].deterministic


@over_all
def test_without_a_generator_the_global_one_is_drawn_from(name: str) -> None:
    x, y = small_batch()
    torch.manual_seed(11)
    first = EVERY[name](small_net(), x, y)
    torch.manual_seed(11)
    assert torch.equal(first, EVERY[name](small_net(), x, y))


@over_all
def test_images_that_require_a_gradient_get_none(name: str) -> None:
    x, y = small_batch()
    x.requires_grad_()
    assert not EVERY[name](small_net(), x, y, seeded()).requires_grad
    assert x.grad is None


@over_all
def test_shrink_scales_each_examples_whole_attack(name: str) -> None:
    """Example i is what an attack of shrink[i] * eps, in steps of shrink[i] * step_size, makes of it."""
    x, y = small_batch(torch.float64)
    net, attack = copy.deepcopy(small_net()).double(), EVERY[name]
    shrink = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], dtype=torch.float64)
    together = attack(net, x, y, seeded(), shrink=shrink)
    assert torch.equal(together[0], x[0])
    for i, share in enumerate(shrink.tolist()[1:], 1):
        alone = scaled(attack, share)(net, x, y, seeded())[i]
        torch.testing.assert_close(together[i], alone, rtol=0, atol=1e-7)  # starts are drawn in float32


def scaled(attack: Attack, share: float) -> Attack:
    """The attack with everything but its number of steps times `share`."""
    smaller: dict[str, Any] = {"eps": attack.eps * share}
    if isinstance(attack, GradientAttack):
        size = None if attack.step_size is None else attack.step_size * share
        smaller |= {"step_size": size, "steps": attack.number_of_steps}
    return replace(attack, **smaller)  # type: ignore[type-var]


@pytest.mark.parametrize("name", [name for name in EVERY if name != "own"])
def test_no_attack_waits_for_the_device(name: str) -> None:
    """The meta device computes shapes alone: whatever reads a number back fails there, as it fails in a capture. One
    of the user's own does wait: it is never captured."""
    x, y = (t.to("meta") for t in small_batch())
    net = copy.deepcopy(small_net()).to("meta")
    for shrink in (None, torch.ones(6, device="meta")):
        x_adv = EVERY[name](net, x, y, shrink=shrink)
        assert x_adv.shape == x.shape and x_adv.device.type == "meta"


@over_all
def test_no_attack_computes_in_float64(name: str) -> None:
    """Not every device has it."""
    with NoFloat64("cpu"):
        EVERY[name](small_net(), *small_batch(), seeded())


def test_the_callers_key_stands_before_the_field() -> None:
    spec = {**attack_spec("pgd", EPS), "eps": 1.5}
    with pytest.raises(ConfigError, match=r"^pgd\.eps should be a float in \[0, 1\], is 1\.5$"):
        build(ATTACKS, spec, where="pgd")


REFUSED: list[tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = [
    (lambda s: s | {"eps": "8/255"}, "pgd.eps should be a float, is '8/255' (write ${frac:8,255})"),
    (lambda s: s | {"eps": True}, "pgd.eps should be a float, is true"),
    (lambda s: s | {"esp": 0.1}, "pgd.esp is not a field (did you mean 'eps'?): the fields are eps, steps, "),
    (lambda s: s | {"name": "gradeint"}, "pgd.name is 'gradeint' (did you mean 'gradient'?): choose one of gradient, "),
    (lambda s: {k: v for k, v in s.items() if k != "eps"}, "pgd.eps is missing: it should be a float"),
    (
        lambda s: {k: v for k, v in s.items() if k != "name"},
        "pgd.name is missing: choose one of gradient, module",
    ),
    (lambda s: s | {"steps": 4.5}, "pgd.steps should be an int or one of kurakin, kurakin_up, is 4.5"),
    (lambda s: s | {"label": "least"}, "pgd.label should be one of true, predicted, least_likely, random, is 'least'"),
    (lambda s: s | {"step_size": "1/255"}, "pgd.step_size should be a float or null, is '1/255' (write ${frac:1,255})"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_a_user_gets_wrong_is_told_in_one_line(
    change: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(ATTACKS, change(attack_spec("pgd", EPS)), where="pgd")
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
