"""Refuse the numbers of an attack that leaves its eps-ball or the pixel range."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from epsball.data.examples import ROUNDING


class Violation(RuntimeError):
    """An attack left its eps-ball or the pixel range: its numbers would not mean what they say."""


@dataclass
class Reach:
    """How far the examples of an attack lie from their images, and outside the pixel range."""

    title: str
    """of the attack on its source, for whoever reads of a violation"""
    eps: float
    largest: Tensor = field(default_factory=lambda: torch.zeros(()))
    outside: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, x_adv: Tensor, x: Tensor) -> None:
        """Look at some examples; the host does not wait for what the device finds."""
        self.largest = torch.maximum(self.largest.to(x.device), (x_adv - x).abs().amax())
        self.outside = torch.maximum(self.outside.to(x.device), (x_adv - 0.5).abs().amax() - 0.5)

    def checked(self) -> float:
        """Return the largest perturbation. Violation when an example is outside the pixel range or further than eps
        from its image."""
        largest, outside = float(self.largest), float(self.outside)
        if not (largest <= self.eps + ROUNDING and outside <= ROUNDING):
            where = f"{largest:.6f} from its image, {outside:.6f} outside [0, 1]"
            raise Violation(f"{self.title}: eps is {self.eps:.6f}, an example lies {where}")
        return largest
