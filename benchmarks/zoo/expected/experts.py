"""Routed experts are exchangeable, each with an order of its own for its hidden units.

Where a loop runs them one by one (a list of modules) each is code of its own; then only the hidden units are expected to move,
which ``hidden.py`` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from benchmarks.zoo.expected.acting import Acting, Axis
from benchmarks.zoo.expected.expectation import Expectation
from benchmarks.zoo.expected.layers import joined

ROUTERS = ("gate", "router", "classifier", "wg")


@dataclass(frozen=True)
class Experts:
    """``stacked``: weights of (experts, ., .); ``routers``: layers with a row per expert."""

    path: str
    number: int
    stacked: tuple[Axis, ...]
    routers: tuple[Axis, ...]


def experts(model: nn.Module) -> Iterator[Experts]:
    """Modules whose weights of experts are stacked."""
    for path, module in model.named_modules():
        if "expert" not in type(module).__name__.lower() and path.rpartition(".")[2] != "experts":
            continue
        weights = {n: p for n, p in module.named_parameters(recurse=False) if p.ndim == 3}
        numbers = {p.shape[0] for p in weights.values()}
        number = max(numbers, default=0)
        if len(weights) > 1 and len(numbers) == 1 and number > 1:
            stacked = tuple(Axis(joined(path, name), 0) for name in weights)
            yield Experts(path, number, stacked, tuple(_routers(model, path.rpartition(".")[0], number)))


def _routers(model: nn.Module, parent: str, number: int) -> Iterator[Axis]:
    for name, parameter in model.get_submodule(parent).named_parameters():
        if parameter.ndim == 2 and parameter.shape[0] == number and set(name.split(".")) & set(ROUTERS):
            yield Axis(joined(parent, name), 0)


def expectations(model: nn.Module) -> Iterator[Expectation]:
    for found in experts(model):
        yield Expectation("experts", found.path, lambda acting, e=found: _wrong(acting, e))  # type: ignore[misc]


def _wrong(acting: Acting, e: Experts) -> str | None:
    first = acting.whole(e.stacked[0], e.number)
    if isinstance(first, str):
        return first
    for axis in (*e.stacked[1:], *e.routers):
        found = acting.whole(axis, e.number)
        if found != first:
            return found if isinstance(found, str) else f"{axis} moves with other experts than {e.stacked[0]}"
    return None if _own_units(acting, e, first[0]) else f"no hidden units of {e.path} have an order per expert"


def _own_units(acting: Acting, e: Experts, expert: int) -> bool:
    """Whether some other dimension of each stacked weight moves as it likes in every expert."""
    return all(
        any(_depends(acting, part.leaves, expert) for dim in (1, 2) for part in acting.parts(Axis(axis.name, dim)))
        for axis in e.stacked
    )


def _depends(acting: Acting, leaves: tuple[int, ...], on: int) -> bool:
    groups = [acting.group(leaf) for leaf in leaves]
    return any(g is not None and on in g.parents for g in groups)
