"""Attacks by name, and under the names that rows carry."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from epsball.attacks.attack import Attack
from epsball.attacks.gradient import GradientAttack
from epsball.attacks.module import ModuleAttack
from epsball.attacks.noise import NoiseAttack
from epsball.runtime.named_files import with_contents

ATTACKS: Mapping[str, Callable[..., Attack]] = {
    "gradient": GradientAttack,
    "module": ModuleAttack,
    "noise": NoiseAttack,
}


@dataclass(frozen=True)
class NamedAttack:
    """One attack at one eps."""

    name: str
    """as its rows carry it"""
    attack: Attack

    @property
    def identity(self) -> dict[str, Any]:
        """Return all that its examples depend on: its settings, and its kind as ATTACKS names it, its class where a
        function there makes it; the contents of its files, not its own name."""
        own = type(self.attack)
        kind = next((kind for kind, attack in ATTACKS.items() if attack is own), own.__name__)
        settings = asdict(self.attack)  # type: ignore[call-overload]
        if isinstance(self.attack, ModuleAttack):
            settings["file"] = settings.pop("sha256")  # of the code that runs, though the file may have changed since
        return {"name": kind, **with_contents(settings)}
