"""Which groups can be zipped, why others are left to permutation, and which groups come before a place in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from autoperm.activations import Taps
from autoperm.errors import AutopermError
from autoperm.matching.sources import sources
from autoperm.merging.roles import Roles
from autoperm.spec import PermutationSpec

#: Groups that a message lists.
_SHOWN = 12


def obstacles(network: nn.Module, spec: PermutationSpec, part: Roles, batch: Any) -> dict[int, str]:
    """The groups that cannot be zipped, with the reason."""
    shown = {source.group for source in sources(Taps(network, spec, batch))}
    found: dict[int, str] = {}
    for g in part.order:
        why = _why(spec, part, g)
        if why is None and g not in shown:
            why = "no activation shows its units one by one"
        if why is not None:
            found[g] = why
    return found | _made_together(spec, part, [g for g in part.order if g not in found])


def _why(spec: PermutationSpec, part: Roles, g: int) -> str | None:
    group = spec.groups[g]
    if group.parents:
        return f"it depends on the position along {spec.leaves[group.parents[0]].name}"
    dependents = [other.name for other in spec.groups if set(other.parents) & set(group.leaves)]
    if dependents:
        return f"{dependents[0]} depends on it"
    for name, dim in group.moves:
        role = part.of[name, dim]
        if role == "both":
            return f"{name}[{dim}] both makes and reads its units"
        if role == "neither":
            return f"{name}[{dim}] neither makes nor reads its units"
    if g in part.paired:
        return "its units are contracted between two activations"
    if _exchanged(spec, group.leaves):
        return "whole cells of weights are exchanged by it"
    return None


def _exchanged(spec: PermutationSpec, leaves: Sequence[int]) -> bool:
    every = (x for layout in spec.layouts.values() for e in layout.exchanged.values() for x in e.labels)
    return any(label.leaf in leaves for label in every)


def _made_together(spec: PermutationSpec, part: Roles, groups: Sequence[int]) -> dict[int, str]:
    """Where units of two groups are made by one tensor, a merged unit of each may have none of one model's entries."""
    found: dict[int, str] = {}
    for name, layout in spec.layouts.items():
        for cell in layout.cells:
            making: list[int] = []
            for dim in range(len(cell)):
                at = {spec.action.group_of.get(leaf) for leaf in layout.leaves_at(cell, dim)}
                making += [g for g in groups if g in at and g not in found and part.of[name, dim] == "made"]
            for g in making[1:]:
                found[g] = f"{name} makes it together with {spec.groups[making[0]].name}"
    return found


def until_of(spec: PermutationSpec, part: Roles, until: str | int) -> tuple[int, ...]:
    """The groups up to a group, up to the last one that is made inside a module, or so many of them.

    Raises:
        AutopermError: there is no such group or module, or there are not so many groups.
    """
    names = [spec.groups[g].name for g in part.order]
    if isinstance(until, int) and not isinstance(until, bool):
        if not 0 <= until <= len(names):
            raise AutopermError(f"until={until}, but the model has {len(names)} groups: {_listed(names)}")
        return part.order[:until]
    if until in names:
        return part.order[: names.index(until) + 1]
    inside = [k for k, g in enumerate(part.order) if _made_in(spec, part, g, str(until))]
    if not inside:
        raise AutopermError(
            f"until={until!r} is no group, and no module that makes one; the groups are, in the graph's order, {_listed(names)}"
        )
    return part.order[: inside[-1] + 1]


def _made_in(spec: PermutationSpec, part: Roles, g: int, path: str) -> bool:
    moves = spec.groups[g].moves
    return any(part.of[n, d] in ("made", "both") and n.startswith(f"{path}.") for n, d in moves)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "none"
