"""Random permutations of one model side by side: augmentation for whatever learns from weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from autoperm.errors import AutopermError
from autoperm.gathering import gather
from autoperm.options import generator_of
from autoperm.spec import PermutationSpec
from autoperm.stacks import stacked, unstacked
from autoperm.state import check_state, state_of


def random_batch(
    model: nn.Module | Mapping[str, torch.Tensor],
    spec: PermutationSpec,
    count: int,
    *,
    generator: torch.Generator | int = 0,
) -> dict[str, torch.Tensor]:
    """Uniformly random permutations of one model, stacked; all of them compute the model's function.

    Arguments:
        model: a module or a state dict of the spec's architecture; it is not changed.
        spec: from :func:`autoperm.infer`.
        count: how many.
        generator: a generator or a seed. A generator moves on, so that the next call gives other permutations.

    Returns:
        For each name of the state dict a new tensor of shape (count, *shape), on the model's device and in its dtype:
        ready for ``torch.func.functional_call`` under ``torch.func.vmap``. Of the names of a tied tensor only the first
        is there, since ``functional_call`` ties the others to it (where one layer is registered under two names,
        pass it ``tie_weights=False``). Tensors on which no output depends are repeated.

    Raises:
        AutopermError: count is not a whole number of at least 1, or the generator is neither a generator nor a seed.
        StateError: names or shapes are not the spec's.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> batch = autoperm.random_batch(mlp, spec, 5, generator=1)
        >>> batch["0.weight"].shape
        torch.Size([5, 8, 4])
        >>> x = torch.randn(3, 4)
        >>> outputs = torch.func.vmap(lambda weights: torch.func.functional_call(mlp, weights, (x,)))(batch)
        >>> torch.allclose(outputs, mlp(x).expand(5, 3, 2), atol=1e-6)
        True
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise AutopermError(f"count must be a whole number of at least 1, got {count!r}")
    given = state_of(model)
    check_state(spec, given, "the model")
    state = stacked(spec.stacks, given)
    drawing = generator_of(generator)
    elements = [spec.random(drawing).arrays for _ in range(count)]
    batch: dict[str, torch.Tensor] = {}
    seen: set[str] = set()
    for name, tensor in state.items():
        home = spec.aliases.get(name)
        if home in seen or not isinstance(tensor, torch.Tensor):
            continue
        tensor = tensor.detach()
        if home is None:
            batch[name] = torch.stack([tensor] * count)
        else:
            seen.add(home)
            batch[name] = torch.stack([gather(spec.action, spec.layouts[home], e, tensor) for e in elements])
    return unstacked(spec.stacks, batch, _firsts(spec, given), dim=1)


def _firsts(spec: PermutationSpec, state: Mapping[str, Any]) -> list[str]:
    """The names of tensors, of tied ones the first that is there."""
    found: dict[str, str] = {}
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            found.setdefault(spec.tensors[name].first if name in spec.tensors else name, name)
    return list(found.values())
