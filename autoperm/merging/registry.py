"""Mergers by name. A merger takes :class:`Models` and brings them into one order; what is in one order is averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from autoperm.errors import AutopermError
from autoperm.matching.problem import Groups
from autoperm.matching.registry import check_options
from autoperm.merging.combine import combined, distance_between, normalised
from autoperm.merging.models import Model, Models
from autoperm.options import check_seed, check_spec
from autoperm.permutation import Permutation
from autoperm.running import Progress
from autoperm.spec import PermutationSpec
from autoperm.stacks import stacked
from autoperm.state import state_of

_MERGERS: dict[str, Callable[..., Ordered]] = {}


@dataclass(frozen=True)
class Ordered:
    """What a merger found: the element that brings each model into the common order.

    Attributes:
        permutations: one per model, of the whole spec; any common order will do.
        history: the agreement of the models (see :class:`Merge`) as they are, and after each step.
        interrupted: whether Ctrl-C ended the search.
    """

    permutations: Sequence[Permutation]
    history: Sequence[float]
    interrupted: bool = False


@dataclass(frozen=True)
class Merge:
    """Several models merged into one.

    Attributes:
        model: the merged model, a new module or state dict of the first model's kind, in the first model's order.
        permutations: one per model; it brings the model into the first model's order. The first one is the identity.
        history: the agreement, which is the sum over the models of <model, mean of the others> (parameters counted once,
            buffers not at all), for the models as they are and after each step of the merger.
        distances: for each model the L2 distance from its permuted parameters to the merged ones.
        interrupted: whether Ctrl-C ended the search, so that this is only the best until then.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> found = autoperm.merge([mlp, spec.random(1).apply(mlp), spec.random(2).apply(mlp)], spec)
        >>> found.pairwise(0, 1) @ found.pairwise(1, 2) == found.pairwise(0, 2)
        True
    """

    model: Any
    permutations: tuple[Permutation, ...]
    history: tuple[float, ...]
    distances: tuple[float, ...]
    interrupted: bool = False

    def pairwise(self, p: int, q: int) -> Permutation:
        """The element that brings model q into model p's order.

        Along any cycle of models these compose to the identity, exactly.
        """
        return self.permutations[p].inverse() @ self.permutations[q]

    def __repr__(self) -> str:
        return f"<Merge: {len(self.permutations)} models, agreement {self.history[0]:.6g} -> {self.history[-1]:.6g}>"


def merger(name: str) -> Callable[[Callable[..., Ordered]], Callable[..., Ordered]]:
    """Register a merger; registering a name twice raises ValueError."""

    def register(function: Callable[..., Ordered]) -> Callable[..., Ordered]:
        if name in _MERGERS:
            raise ValueError(f"there is a merger called {name!r} already")
        _MERGERS[name] = function
        return function

    return register


def mergers() -> Mapping[str, Callable[..., Ordered]]:
    """All mergers by name."""
    return dict(_MERGERS)


def merge(
    models: Sequence[Model],
    spec: PermutationSpec,
    *,
    method: str = "average",
    weights: Sequence[float] | None = None,
    seed: int = 0,
    template: nn.Module | None = None,
    groups: Groups = None,
    progress: Progress = True,
    **options: Any,
) -> Merge:
    """Bring several models into one order, and average them.

    Besides the models there are in memory the merged one or, while models are matched, the mean that one is matched to,
    its permuted copy, and at the start another one to go back to.

    Arguments:
        models: two or more modules or state dicts of the spec's architecture; none is changed.
        spec: from :func:`autoperm.infer`.
        method: ``"average"`` aligns every model to the first one; ``"many"`` aligns each to the mean of the others in turn
            (Ainsworth et al. 2023, Algorithm 3); ``"universe"`` aligns all pairs at once (Crisostomi et al. 2024).
        weights: one per model, by default equal; they are divided by their sum, and count for the average alone.
        seed: of all that is random; the same seed gives the same result.
        template: a module of the architecture, for matchers that run the models where all are state dicts.
        groups: names of groups, or a predicate on :class:`autoperm.Group`: only these are matched.
        progress: False for no bar, or a function that is called after each step with its number and its value.
        options: passed to the merger: ``help(autoperm.merging.mergers()[method])`` shows them.

    Raises:
        AutopermError: fewer than two models, weights that cannot be normalised, or no such merger, option or group; the
            known ones are listed.
        StateError: models differ in keys, shapes, dtypes or devices, or hold NaN; which one is said.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> merged = autoperm.merge([mlp, spec.random(1).apply(mlp), spec.random(2).apply(mlp)], spec)
        >>> merged.distances
        (0.0, 0.0, 0.0)
        >>> torch.equal(merged.model[0].weight, mlp[0].weight)
        True
    """
    check_spec(spec)
    seed = check_seed(seed)
    if not isinstance(method, str) or method not in _MERGERS:
        raise AutopermError(f"no merger is called {method!r}; there are {', '.join(sorted(_MERGERS))}")
    given = Models(models, spec, groups=groups, template=template)
    shares = normalised(weights, len(given))
    check_options(method, _MERGERS[method], options)
    found = _MERGERS[method](given, seed=seed, progress=progress, **options)
    back = found.permutations[0].inverse()
    permutations = [spec.identity(), *(back @ p for p in found.permutations[1:])]
    model = combined(given, models[0], permutations, shares)
    state = stacked(spec.stacks, state_of(model))
    distances = tuple(distance_between(given, k, p, state) for k, p in enumerate(permutations))
    return Merge(model, tuple(permutations), tuple(found.history), distances, found.interrupted)
