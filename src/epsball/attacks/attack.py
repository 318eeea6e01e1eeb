"""Contract of an attack: settings first, model at call time."""

from typing import Protocol

from torch import Generator, Tensor, nn


class BrokenContract(RuntimeError):
    """An attack or an objective did not do what its contract says: numbers would not mean what they say."""


class Attack(Protocol):
    """`attack(model, x, y) -> x_adv`, same shape as x (N, C, H, W), inside [0, 1] and the eps-ball around x.

    A frozen dataclass: its fields are its settings. `shrink` (N,), in [0, 1], makes example i's whole attack that much
    smaller (per-example eps). What is drawn at random comes from `generator`, on x's device, or torch's own where it is
    None. The model, in train or eval mode, x and y stay as they are; gradients may be off (`torch.enable_grad`). One
    that waits for the device (`.item()`, `if tensor.any()`) keeps a training on CUDA from being captured.
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


def craft(
    attack: Attack,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    generator: Generator | None = None,
    shrink: Tensor | None = None,
) -> Tensor:
    """Return the examples of an attack. The host does not wait for the device.

    BrokenContract where they are no tensor of the shape, type and device of x, or have gradients, and where the attack
    wrote over x or y or left the model in another mode.
    """
    training, versions = model.training, (x._version, y._version)
    x_adv = attack(model, x, y, generator, shrink)
    name = type(attack).__name__
    if described(x_adv) != described(x):
        raise BrokenContract(f"{name} should give {described(x)}, gives {described(x_adv)}")
    if x_adv.requires_grad:
        raise BrokenContract(f"{name} should give examples without gradients: x_adv.detach()")
    if (x._version, y._version) != versions:
        raise BrokenContract(f"{name} should leave images and labels as they are, but writes over them: x.clone()")
    if model.training != training:
        raise BrokenContract(f"{name} should leave the model in its mode, train or eval")
    return x_adv


def described(images: object) -> str:
    """Say of what kind a batch of images is."""
    if not isinstance(images, Tensor):
        return f"a {type(images).__name__}"
    return f"{str(images.dtype).removeprefix('torch.')} images {tuple(images.shape)} on {images.device}"
