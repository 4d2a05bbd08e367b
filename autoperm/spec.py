"""The permutation spec: every permutation of a model's weights that leaves its function unchanged."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch

from autoperm.caches import Cache
from autoperm.errors import SpecError
from autoperm.layout import Action, Group, Layout, Leaf, identity_element
from autoperm.options import generator_of
from autoperm.provenance import Provenance
from autoperm.stacks import Stacks

if TYPE_CHECKING:
    from autoperm.explain import Explanation
    from autoperm.permutation import Permutation


@dataclass(frozen=True)
class Entry:
    """A name of a state dict.

    Attributes:
        first: the first of the names that its tensor has.
        shape: of the tensor.
        home: the tensor's name in the spec's layouts, or that of the one that it is a part of.
    """

    first: str
    shape: tuple[int, ...]
    home: str


@dataclass(eq=False, repr=False)
class PermutationSpec:
    """The symmetry group of one model, and how it acts on the model's state dict.

    Attributes:
        groups: the permutation groups; the whole group is built from them.
        layouts: for each tensor of the state dict how the groups act on it.
        aliases: every state-dict name, tied ones included, to the name its tensor has in ``layouts``; those in ``stacks`` are
            not there, but the names of what they are parts of.
        parameters: the names in ``layouts`` that are parameters; the others are persistent buffers.
        unsupported: ops without a rule, all of whose axes are pinned.
        leaves: the index sets that the groups permute or depend on.
        provenance: the graph of ties behind :meth:`explain`.
        caches: where the model's forward keeps tensors that it computes; copies with other weights do without them.
        stacks: tensors that are separate in the state dict and positions of one tensor in ``layouts``: weights of modules that
            may trade places. By the name of the one, in order, the names of each.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> spec.order, round(spec.coverage, 3)
        (40320, 0.966)
        >>> spec.pinned["0.weight", 1]
        'axis 1 of the input args[0]'
    """

    leaves: Sequence[Leaf]
    groups: Sequence[Group]
    layouts: Mapping[str, Layout]
    aliases: Mapping[str, str]
    parameters: frozenset[str]
    unsupported: Sequence[Any] = ()
    provenance: Provenance = field(default_factory=Provenance)
    caches: Sequence[Cache] = ()
    stacks: Stacks = field(default_factory=dict)

    @cached_property
    def action(self) -> Action:
        """The action of the groups on the layouts."""
        return Action(self.leaves, self.groups)

    @property
    def order(self) -> int:
        """The number of permutations, exact."""
        return math.prod(group.order for group in self.groups)

    @property
    def log10_order(self) -> float:
        """The decimal logarithm of the order."""
        return math.fsum(group.log10_order for group in self.groups)

    @cached_property
    def tensors(self) -> dict[str, Entry]:
        """What the spec says of each name of the model's own state dict that the forward reads."""
        found = {name: Entry(home, self.layouts[home].shape, home) for name, home in self.aliases.items()}
        for whole, parts in reversed(list(self.stacks.items())):
            entry = found.pop(whole)
            found.update({name: Entry(names[0], entry.shape[1:], entry.home) for names in parts for name in names})
        return found

    def is_parameter(self, name: str) -> bool:
        """Whether a name of the model's own state dict is that of a parameter which the forward reads."""
        return name in self.tensors and self.tensors[name].home in self.parameters

    def place(self, name: str, dim: int) -> tuple[str, int]:
        """Where a dimension of a tensor of the model's own state dict is in ``layouts``: behind those that a stack has more."""
        entry = self.tensors[name]
        return entry.home, dim + len(self.layouts[entry.home].shape) - len(entry.shape)

    @cached_property
    def coverage(self) -> float:
        """The share of parameter entries that some element moves."""
        total = sum(math.prod(self.layouts[name].shape) for name in self.parameters)
        moved = sum(self._moved_entries(self.layouts[name]) for name in self.parameters)
        return moved / total if total else 0.0

    def _moved_entries(self, layout: Layout) -> int:
        free = self.action.group_of
        return sum(
            math.prod(layout.cell_shape(cell))
            for cell, dims in layout.cells.items()
            if cell in layout.exchanged or any(f.leaf in free for factors in dims for f in factors)
        )

    @cached_property
    def pinned(self) -> dict[tuple[str, int], str]:
        """Parameter dimensions along which nothing moves, each with the reason.

        Dimensions of size 1 are not listed: there is nothing to move.
        """
        found = {}
        for name in sorted(self.parameters, key=list(self.layouts).index):
            layout = self.layouts[name]
            for dim, size in enumerate(layout.shape):
                reason = self._why_pinned(layout, dim) if size > 1 else None
                if reason is not None:
                    found[name, dim] = reason
        return found

    def _why_pinned(self, layout: Layout, dim: int) -> str | None:
        if not layout.cells:
            return "no output depends on it"
        leaves = [leaf for cell in layout.cells for leaf in layout.leaves_at(cell, dim)]
        if any(leaf in self.action.group_of for leaf in leaves):
            return None
        reasons = [self.leaves[leaf].pinned for leaf in leaves if self.leaves[leaf].pinned]
        return reasons[0] if reasons else "every position along it plays a part of its own"  # type: ignore[return-value]

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the groups and of how they act; equal for specs of the same architecture."""
        from autoperm.specfile import content

        return hashlib.sha256(repr(content(self)).encode()).hexdigest()[:16]

    def group(self, name: str) -> Group:
        """The group of that name.

        Raises:
            SpecError: there is none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise SpecError(f"no group is called {name!r}; the first are {', '.join(g.name for g in self.groups[:5])}")

    def explain(self, name: str, dim: int) -> Explanation:
        """What moves along a parameter's dimension, and the path of ops that ties it to others or pins it.

        Raises:
            SpecError: the parameter or the dimension does not exist.
        """
        from autoperm.explain import explain

        return explain(self, name, dim)

    def identity(self) -> Permutation:
        """The element that moves nothing."""
        from autoperm.permutation import Permutation

        return Permutation(self, identity_element(self.leaves, self.groups))

    def random(self, generator: torch.Generator | int | None = None) -> Permutation:
        """A uniformly random element.

        Arguments:
            generator: a generator or a seed; None draws from torch's global generator.

        Raises:
            AutopermError: it is neither.
        """
        from autoperm.permutation import Permutation

        generator, element = generator_of(generator), []
        for base in identity_element(self.leaves, self.groups):
            keys = torch.rand(base.shape, generator=generator, dtype=torch.float64, device="cpu")
            element.append(keys.argsort(dim=-1).numpy())
        return Permutation(self, element)

    def save(self, path: str | PathLike[str], *, overwrite: bool = True) -> None:
        """Write the spec as versioned JSON, atomically."""
        from autoperm.specfile import save

        save(self, path, overwrite=overwrite)

    @staticmethod
    def load(path: str | PathLike[str]) -> PermutationSpec:
        """Read a spec.

        Raises:
            SpecError: the file is not a spec, is corrupt, or was written by a newer version.
        """
        from autoperm.specfile import load

        return load(path)

    def __str__(self) -> str:
        from autoperm.report import as_text

        return as_text(self)

    def __repr__(self) -> str:
        return f"<PermutationSpec: {len(self.groups)} groups, order 10^{self.log10_order:.1f}, coverage {self.coverage:.1%}>"

    def _repr_html_(self) -> str:
        from autoperm.report import as_html

        return as_html(self)


