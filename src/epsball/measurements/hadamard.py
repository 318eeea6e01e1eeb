"""Regular Hadamard matrices: Menon's difference sets in Z_2u x Z_2u, and Kronecker products of their matrices."""

import torch
from torch import Tensor

from epsball.build import require

KNOWN = "1, 4, 16, 36, 64, 144, 256 or another product of 4 and 36"


def regular_hadamard(order: int) -> Tensor:
    """Return (order, order) ones and minus ones: orthogonal rows, which all sum to sqrt(order). ValueError where the
    order cannot be built."""
    matrix = torch.ones(1, 1)
    for u in factors(order):
        matrix = torch.kron(matrix, menon_matrix(u))
    return matrix


def factors(order: int) -> list[int]:
    """Return the u of the Menon matrices, of order 4u^2 each, whose product has an order. ValueError where none has."""
    found, left = list[int](), order
    for u in (3, 2, 1):
        while left >= 4 and left % (4 * u**2) == 0:
            found, left = [*found, u], left // (4 * u**2)
    none = f": there is no Hadamard matrix of order {order}" if order > 2 and order % 4 else ""
    require(left == 1, f"order should be {KNOWN}, is {order}{none}")
    return found


def menon_matrix(u: int) -> Tensor:
    """Return J - 2A of order 4u^2 for u = 1, 2, 3. A[g, h] says whether g - h lies in the difference set of parameters
    (4u^2, 2u^2 - u, u^2 - u): u of the subgroups {(i, 0)}, {(0, i)}, {(i, i)} of Z_2u x Z_2u, without the identity."""
    first, second = torch.cartesian_prod(torch.arange(2 * u), torch.arange(2 * u)).T
    i, j = ((part[:, None] - part) % (2 * u) for part in (first, second))
    inside = torch.stack([j == 0, i == 0, i == j])[:u].any(0) & ((i != 0) | (j != 0))
    found: Tensor = 1.0 - 2.0 * inside.float()
    return found
