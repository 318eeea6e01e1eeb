"""Attacks by name, and under the names that rows carry."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from epsball.attacks.attack import Attack
from epsball.attacks.gradient import GradientAttack
from epsball.attacks.noise import NoiseAttack

ATTACKS: Mapping[str, Callable[..., Attack]] = {"gradient": GradientAttack, "noise": NoiseAttack}


@dataclass(frozen=True)
class NamedAttack:
    """One attack at one eps."""

    name: str
    """as its rows carry it"""
    attack: Attack

    @property
    def identity(self) -> dict[str, Any]:
        """Return all that its examples depend on: its settings, and its kind as ATTACKS names it; not its own name."""
        kind = next(kind for kind, attack in ATTACKS.items() if attack is type(self.attack))
        return {"name": kind, **asdict(self.attack)}  # type: ignore[call-overload]
