"""From the solution of a model's statements to its spec: names, layouts, groups."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import networkx as nx
import numpy as np

from autoperm.inference.cells import Cell
from autoperm.inference.dependence import Dependence
from autoperm.inference.engine import Engine
from autoperm.inference.relabel import is_identity
from autoperm.inference.system import Tensor
from autoperm.layout import Exchanged, Factor, Factors, Group, Label, Layout, Leaf
from autoperm.provenance import Provenance
from autoperm.spec import PermutationSpec


class SpecBuilder:
    """Renames the solution in terms of the model's parameters."""

    def __init__(self, engine: Engine, solution: Dependence):
        self.engine, self.solution, self.cells = engine, solution, solution.cells
        self.ids: dict[int, int] = {}  # leaf of the solution -> index in the spec
        self.leaves: list[Leaf] = []
        self.moves: dict[int, dict[tuple[str, int], int]] = {}  # leaf -> (parameter, dim) -> number of factors there

    def build(self) -> PermutationSpec:
        layouts, aliases = {}, {}
        for placeholder, tensor in self.engine.states.items():
            names = self.engine.capture.states[placeholder]
            layouts[names[0]] = self._layout(names[0], tensor)
            aliases.update({name: names[0] for name in names})
        groups = self._groups()
        parameters = frozenset(aliases[n] for n in self.engine.capture.parameters if n in aliases)
        return PermutationSpec(
            leaves=list(self.leaves),
            groups=groups,
            layouts=layouts,
            aliases=aliases,
            parameters=parameters,
            unsupported=list(self.engine.unsupported),
            provenance=Provenance.from_system(self.engine.system, self.engine.states, self.engine.capture),
            caches=self.engine.capture.caches,
            stacks=dict(self.engine.capture.stacks),
        )

    def layout_of(self, tensor: Tensor) -> Layout:
        """The layout of any tensor of the engine, once the spec is built.

        Leaves that no parameter has are added to ``leaves``, after the spec's own; the spec stays as it is.
        """
        return self._layout("", tensor)

    def moves_along(self, tensor: Tensor, dim: int) -> bool:
        """Whether some position of a dimension can move; the builder is of no other use afterwards."""
        layout = self._layout("", tensor)
        leaves = {leaf for cell in layout.cells for leaf in layout.leaves_at(cell, dim)}
        leaves |= {label.leaf for e in layout.exchanged.values() for label in e.labels if label.dim == dim}
        return any(self.leaves[leaf].pinned is None and self.leaves[leaf].size > 1 for leaf in leaves)

    def _layout(self, name: str, tensor: Tensor) -> Layout:
        boxes: dict[tuple, list[Cell]] = {}
        for cell in self.cells.cells(tensor):
            items = self.cells.of.get((tensor.id, cell))
            if items is not None:
                key = tuple(self.solution.box(item, piece) for item, piece in zip(items, cell, strict=True))
                boxes.setdefault(key, []).append(cell)
        pieces: list[dict[tuple[int, ...], np.ndarray]] = [{} for _ in tensor.dims]
        cells, exchanged = {}, {}
        for key, members in boxes.items():
            place, factors = [], []
            for j in range(len(tensor.dims)):
                runs = tuple(sorted({cell[j] for cell in members}))
                positions, found = self._dimension(name, tensor, j, members, runs)
                pieces[j].setdefault(runs, positions)
                place.append(list(pieces[j]).index(runs))
                factors.append(found)
            cells[tuple(place)] = tuple(factors)
            exchanged[tuple(place)] = self._exchanged(name, tensor, key)
        exchanged = {cell: x for cell, x in exchanged.items() if x is not None}
        return Layout(tensor.sizes, tuple(tuple(p.values()) for p in pieces), cells, exchanged)  # type: ignore[arg-type]

    def _exchanged(self, name: str, tensor: Tensor, key: tuple) -> Exchanged | None:
        """Which other boxes a box may be exchanged for."""
        found = None if self.solution.exchanges is None else self.solution.exchanges.of(tensor.id, key)
        if found is None:
            return None
        for label in found.labels:
            self.moves.setdefault(label.leaf, {}).setdefault((name, label.dim), -1)
        return Exchanged(found.orbit, tuple(Label(x.dim, self._id(x.leaf), x.at) for x in found.labels))

    def _dimension(
        self, name: str, tensor: Tensor, j: int, members: list[Cell], runs: tuple[int, ...]
    ) -> tuple[np.ndarray, Factors]:
        """The positions of a box along one dimension, and the factors they are."""
        axis, first = tensor.dims[j], self.cells.of[tensor.id, members[0]][j]
        if axis is None:
            return np.arange(tensor.sizes[j]), Factors()
        if len(runs) == 1 and not isinstance(self.solution.box(first, 0), tuple):
            return self.cells.partition.positions(axis, runs[0]), self._factors(name, j, first)
        at, inside = [], []
        for run in runs:
            item = next(self.cells.of[tensor.id, cell][j] for cell in members if cell[j] == run)
            at.append(self.cells.partition.positions(axis, run))
            inside.append(self.solution.merged_positions(item, len(at[-1])))  # type: ignore[arg-type]
        order = np.argsort(np.concatenate(at))
        relabel = np.concatenate(inside)[order]
        leaves = [m for m in self.solution.merged_leaves(first) if self.cells.classes.size[m] > 1]  # type: ignore[arg-type]
        leaves = [self._named(m) for m in leaves]
        self._note_moves(name, j, leaves)
        factors = (Factor(self._id(leaf)) for leaf in leaves)
        return np.concatenate(at)[order], Factors(factors, None if is_identity(relabel) else relabel)

    def _factors(self, name: str, dim: int, item: int | None) -> Factors:
        """The factors of a piece; leaves of size 1 cannot move and are left out."""
        if item is None:
            return Factors()
        relabel, refs = self.solution.describe(item)
        refs = [(self._named(leaf), turn) for leaf, turn in refs if self.cells.classes.size[leaf] > 1]
        self._note_moves(name, dim, [leaf for leaf, _ in refs])
        return Factors((Factor(self._id(leaf), turn) for leaf, turn in refs), relabel)

    def _named(self, leaf: int) -> int:
        return leaf if self.solution.exchanges is None else self.solution.exchanges.name(leaf)

    def _note_moves(self, name: str, dim: int, leaves: Sequence[int]) -> None:
        for place, leaf in enumerate(leaves):
            self.moves.setdefault(leaf, {}).setdefault((name, dim), place if len(leaves) > 1 else -1)

    def _id(self, leaf: int) -> int:
        if leaf not in self.ids:
            self.ids[leaf] = len(self.leaves)
            classes = self.cells.classes
            self.leaves.append(Leaf("", classes.size[leaf], classes.pinned.get(leaf)))
        return self.ids[leaf]

    def _groups(self) -> list[Group]:
        found: list[Group] = []
        taken: set[str] = set()
        name_of: dict[int, str] = {}
        for leaf, index in self.ids.items():
            name_of[index] = self._name(leaf, taken)
        self.leaves = [Leaf(name_of[k], leaf.size, leaf.pinned) for k, leaf in enumerate(self.leaves)]
        for component in self._components():
            inside = [leaf for leaf in component if leaf in self.ids]
            if inside:
                found.append(self._group(inside, name_of))
        order = {name: k for k, name in enumerate(name_of.values())}
        return self._with_parents(sorted(found, key=lambda g: order[g.name]))

    def _components(self) -> Iterable[tuple[int, ...]]:
        """Components of mutual dependence, restricted to leaves of the state dict; incomplete ones are split."""
        for component in self.solution.components():
            mutual = all(set(component) - {leaf} <= self.solution.of[leaf] for leaf in component)
            if mutual:
                yield component
            else:
                for leaf in component:
                    self.solution.of[leaf] -= set(component)
                yield from ((leaf,) for leaf in component)

    def _group(self, component: list[int], name_of: dict[int, str]) -> Group:
        parents = set.intersection(*(self.solution.of[leaf] for leaf in component)) - set(component)
        known = tuple(sorted(self.ids[p] for p in parents if p in self.ids))
        indices = tuple(self.ids[leaf] for leaf in component)
        moves = dict.fromkeys(move for leaf in component for move in self.moves[leaf])
        return Group(
            name=name_of[indices[0]],
            size=math.prod(self.leaves[i].size for i in indices),
            leaves=indices,
            parents=known,
            moves=tuple(moves),
            copies=math.prod(self.leaves[i].size for i in known),
        )

    def _with_parents(self, groups: list[Group]) -> list[Group]:
        """Name for each group the parent that is deepest, whose own parents are the others."""
        of_leaf = {leaf: g for g in groups for leaf in g.leaves}
        graph = nx.DiGraph()
        for group in groups:
            graph.add_node(group.name)
            graph.add_edges_from((of_leaf[p].name, group.name) for p in group.parents if p in of_leaf)
        depth = {name: k for k, name in enumerate(nx.topological_sort(graph))} if nx.is_directed_acyclic_graph(graph) else {}
        result = []
        for group in groups:
            above = [of_leaf[p].name for p in group.parents if p in of_leaf]
            above += [self.leaves[p].name for p in group.parents if p not in of_leaf and not above]
            parent = max(above, key=lambda n: depth.get(n, -1)) if above else None
            result.append(Group(**{**vars(group), "parent": parent}))
        return result

    def _name(self, leaf: int, taken: set[str]) -> str:
        """The first parameter dimension that the leaf moves, the leading dimension of a weight if there is one."""
        places = list(self.moves[leaf].items())
        (name, dim), factor = next((p for p in places if p[0][1] == 0 and p[0][0].endswith("weight")), places[0])
        base = f"{name}[{dim}]" + ("" if factor < 0 else f".{factor}")
        unique, k = base, 1
        while unique in taken:
            k += 1
            unique = f"{base}#{k}"
        taken.add(unique)
        return unique
