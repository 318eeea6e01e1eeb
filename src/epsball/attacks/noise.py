"""Random perturbations as a baseline."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from epsball.build import require


@dataclass(frozen=True)
class NoiseAttack:
    """Random perturbations as a baseline (Kurakin et al. 2017, appendix A; Kariyappa's noisy data, section 4.1)."""

    eps: float
    """radius of the L-infinity ball, in [0, 1]"""
    distribution: Literal["sign", "truncated_normal"]
    """eps * sign(N(0, 1)), or a normal with standard deviation eps / 2 truncated to [-eps, eps]"""

    def __post_init__(self) -> None:
        require(0 <= self.eps <= 1, f"eps should be a float in [0, 1], is {self.eps}")

    @property
    def deterministic(self) -> bool:
        return False

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        generator: Generator | None = None,
        shrink: Tensor | None = None,
    ) -> Tensor:
        x, scale = x.detach(), 1.0 if shrink is None else shrink.view(-1, 1, 1, 1)
        if self.distribution == "sign":
            noise = torch.randn(x.shape, generator=generator, device=x.device).sign()
        else:
            noise = truncated_normal(x.shape, x.device, generator)
        return (x + self.eps * scale * noise).clamp(0, 1)


def truncated_normal(shape: torch.Size, device: torch.device, generator: Generator | None = None) -> Tensor:
    """Draw float32 normal noise of standard deviation 1/2, cut off at two of them, so in [-1, 1].

    Drawn by the inverse error function of a uniform number, scaled to the share of a normal distribution that the cut
    leaves: nothing is rejected, so no host waits for the device to say how much.
    """
    uniform = 2 * torch.rand(shape, generator=generator, device=device) - 1
    kept = math.erf(math.sqrt(2))  # 95.4 % of a normal distribution lie within two standard deviations
    return (torch.erfinv(kept * uniform) * math.sqrt(0.5)).clamp(-1, 1)
