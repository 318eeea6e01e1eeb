"""Random perturbations: their sizes and their distribution."""

import pytest
import scipy.stats
import torch
from every_attack import EPS, GREY, NAMED, small_net
from linear import seeded

from epsball.attacks.noise import NoiseAttack, truncated_normal


def test_sign_noise_moves_every_pixel_by_eps() -> None:
    moved = (NAMED["sign_noise"](small_net(), GREY, torch.zeros(4, dtype=torch.long), seeded()) - GREY) / EPS
    torch.testing.assert_close(moved.abs(), torch.ones_like(moved))
    assert moved.mean() == pytest.approx(0, abs=0.05)


def test_normal_noise_has_half_eps_as_deviation_before_the_cut() -> None:
    """Cut off at two deviations, a normal keeps 0.8796 of its deviation."""
    moved = (NAMED["normal_noise"](small_net(), GREY, torch.zeros(4, dtype=torch.long), seeded()) - GREY) / EPS
    assert moved.abs().max() <= 1 and moved.abs().max() > 0.95
    assert moved.std() == pytest.approx(0.5 * 0.8796, abs=0.02)


def test_truncated_normal_has_the_distribution_that_it_says() -> None:
    noise = truncated_normal(torch.Size([200, 1000]), torch.device("cpu"), seeded())
    true = scipy.stats.truncnorm(-2, 2, scale=0.5)
    n = noise.numel()
    assert noise.mean().item() == pytest.approx(0, abs=4 * true.std() / n**0.5)
    assert noise.std().item() == pytest.approx(true.std(), rel=4 / n**0.5)  # 0.8796 * 0.5
    distance = scipy.stats.kstest(noise.flatten().double().numpy(), true.cdf).statistic
    assert distance < 1.95 / n**0.5  # one sample in a thousand is further from its distribution
    other = scipy.stats.truncnorm(-2, 2, scale=0.52)  # so small a difference would be seen
    assert scipy.stats.kstest(noise.flatten().double().numpy(), other.cdf).statistic > 1.95 / n**0.5


def test_truncated_normal_draws_from_its_generator() -> None:
    shape, cpu = torch.Size([7, 3]), torch.device("cpu")
    state = torch.get_rng_state()
    first, second = (truncated_normal(shape, cpu, seeded(3)) for _ in range(2))
    assert torch.equal(first, second) and first.dtype is torch.float32 and first.shape == shape
    assert not torch.equal(first, truncated_normal(shape, cpu, seeded(4)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("uniform", [0.0, 2**-24, 0.5, 1 - 2**-24])
def test_truncated_normal_is_finite_and_inside_at_the_ends_of_the_uniform(
    uniform: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, uniform))
    noise = truncated_normal(torch.Size([4]), torch.device("cpu"))
    assert noise.abs().max() <= 1 and noise[0] == pytest.approx(round(2 * uniform - 1), abs=1e-5)


@pytest.mark.parametrize("eps", [-0.1, 1.5])
def test_noise_of_a_bad_size_is_refused(eps: float) -> None:
    with pytest.raises(ValueError, match=r"^eps should be a float in \[0, 1\]"):
        NoiseAttack(eps, "sign")
