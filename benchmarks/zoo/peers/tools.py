"""What each tool does to model b, and which share of its parameters it may move."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

import autoperm
from benchmarks.zoo.peers.pruning import log10_factorial, permuted_groups


@dataclass(frozen=True)
class Moved:
    """Model b permuted, the share of the entries of its parameters that the tool may move, and in how many ways (log10)."""

    model: nn.Module
    share: float
    log10_order: float


def with_autoperm(a: nn.Module, b: nn.Module, x: Tensor) -> Moved:
    spec = autoperm.infer(a, x)
    return Moved(autoperm.align(a, b, spec=spec), spec.coverage, spec.log10_order)


def with_rebasin(a: nn.Module, b: nn.Module, x: Tensor) -> Moved:
    """Weight matching, as its README shows; the models stay in eval mode, in which it traces them."""
    from rebasin import PermutationCoordinateDescent

    b = copy.deepcopy(b)
    descent = PermutationCoordinateDescent(a, b, x)
    permutations = descent.pinit.model_graph.permutation_to_info
    free = {id(info.parameter_b) for _, infos in permutations for info in infos}
    order = sum(log10_factorial(len(permutation)) for permutation, _ in permutations)
    descent.rebasin()
    sizes = {id(p): p.numel() for p in b.parameters()}
    return Moved(b, sum(n for key, n in sizes.items() if key in free) / sum(sizes.values()), order)


def with_torch_pruning(a: nn.Module, b: nn.Module, x: Tensor) -> Moved:
    """Its groups of coupled channels, each permuted at random: it has no matching, so model a plays no part."""
    b = copy.deepcopy(b)
    return Moved(b, *permuted_groups(b, x))


TOOLS: dict[str, Callable[[nn.Module, nn.Module, Tensor], Moved]] = {
    "autoperm": with_autoperm, "rebasin": with_rebasin, "torch-pruning": with_torch_pruning,
}  # fmt: skip
