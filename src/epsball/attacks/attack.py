"""Contract of an attack: settings first, model at call time."""

from typing import Protocol

from torch import Generator, Tensor, nn


class Attack(Protocol):
    """`attack(model, x, y) -> x_adv`, same shape as x (N, C, H, W), inside [0, 1] and the eps-ball around x.

    A frozen dataclass: its fields are its settings. `shrink` (N,), in [0, 1], makes example i's whole attack that much
    smaller (per-example eps).
    """

    @property
    def eps(self) -> float:
        """Return the radius of the L-infinity ball, in [0, 1]."""

    @property
    def deterministic(self) -> bool:
        """Whether the same model and images always give the same examples."""

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        generator: Generator | None = None,
        shrink: Tensor | None = None,
    ) -> Tensor: ...
