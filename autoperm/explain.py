"""Why an axis moves as it does, or cannot: the shortest chain of ops that ties it to others or to a pin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoperm.errors import SpecError
from autoperm.provenance import Step

if TYPE_CHECKING:
    from autoperm.spec import PermutationSpec


@dataclass(frozen=True)
class Explanation:
    """What moves along a parameter's dimension, and why.

    Attributes:
        name, dim: the dimension asked about.
        groups: the names of the groups that move it.
        reason: why nothing moves along it, None where something does.
        path: the chain of ops to another parameter's dimension in the same group, or to what pins it.
        target: where the path leads.
    """

    name: str
    dim: int
    groups: tuple[str, ...]
    reason: str | None
    path: tuple[Step, ...]
    target: str

    def __str__(self) -> str:
        head = f"{self.name}[{self.dim}] "
        head += f"is pinned: {self.reason}" if self.reason else f"is moved by {', '.join(self.groups) or 'nothing'}"
        if not self.path:
            return head
        goal = f"the path to {self.target}:"
        return "\n".join([head, goal, *(f"  {k}. {step}" for k, step in enumerate(self.path, 1))])


def explain(spec: PermutationSpec, name: str, dim: int) -> Explanation:
    """See :meth:`autoperm.PermutationSpec.explain`."""
    if name in spec.layouts:
        home, shape = name, spec.layouts[name].shape
    elif name in spec.tensors:
        home, shape = spec.tensors[name].home, spec.tensors[name].shape
    else:
        close = [n for n in spec.tensors if name in n or n in name][:5] or list(spec.tensors)[:5]
        raise SpecError(f"the spec has no parameter {name!r}; it has, for example, {', '.join(close)}")
    if not 0 <= dim < len(shape):
        raise SpecError(f"{name} has shape {shape}: there is no dimension {dim}, use 0 to {len(shape) - 1}")
    if name not in spec.aliases:  # a part of a stack
        name, dim = spec.place(name, dim)
    groups = tuple(g.name for g in spec.groups if (home, dim) in g.moves)
    reason = None if groups else _reason(spec, home, dim)
    start = spec.provenance.axes.get((home, dim))
    if start is None:
        return Explanation(name, dim, groups, reason, (), "")
    if groups:
        path, target = _to_partner(spec, home, dim, groups)
    else:
        steps = spec.provenance.to_pin(start, reason) or spec.provenance.to_pin(start)
        path, target = tuple(s for _, s, _ in steps), spec.provenance.pins.get(steps[-1][2], "") if steps else ""
    return Explanation(name, dim, groups, reason, path, target)


def _reason(spec: PermutationSpec, home: str, dim: int) -> str:
    if spec.layouts[home].shape[dim] == 1:
        return "it has size 1"
    return spec.pinned.get((home, dim)) or spec._why_pinned(spec.layouts[home], dim) or "nothing moves along it"


def _to_partner(spec: PermutationSpec, home: str, dim: int, groups: tuple[str, ...]) -> tuple[tuple[Step, ...], str]:
    """The path to the dimension that gives the group its name, or else to the nearest other one."""
    group = spec.group(groups[0])
    others = [m for m in group.moves if m != (home, dim)]
    named = [m for m in others if group.name.startswith(f"{m[0]}[{m[1]}]")]
    for other in named + others:
        goal = spec.provenance.axes.get(other)
        if goal is not None:
            steps = spec.provenance.path(spec.provenance.axes[home, dim], goal)
            if steps:
                return tuple(s for _, s, _ in steps), f"{other[0]}[{other[1]}]"
    return (), ""
