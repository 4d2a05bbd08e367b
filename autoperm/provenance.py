"""Why axes move together: the graph of ties, with the op, module and source line behind each.

Nodes are axes, of parameters and of intermediate tensors. An edge says that a statement of some op relates two
axes: they are the same (``tie``), one is a factor of the other (``factor``), or a segment of it (``segment``).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import networkx as nx

from autoperm.capture import Capture
from autoperm.inference.system import Frame, Restriction, System, Tensor

_WEIGHT = {"tie": 1.0, "factor": 1.01, "segment": 1.01}


@dataclass(frozen=True)
class Step:
    """One edge of a path: the op that relates two axes."""

    kind: str
    op: str
    module_path: str
    source: str

    def __str__(self) -> str:
        place = self.module_path or "the model's forward"
        source = f" ({self.source})" if self.source else ""
        return f"{self.op} in {place}{source}"


@dataclass
class Provenance:
    """``graph``: a networkx graph whose edges hold a :class:`Step` under ``step``.

    ``names`` maps an axis to the parameter dimension it is, ``axes`` the other way round, ``pins`` an axis to the
    reason why nothing moves along it.
    """

    graph: nx.Graph = field(default_factory=nx.Graph)
    axes: dict[tuple[str, int], int] = field(default_factory=dict)
    pins: dict[int, str] = field(default_factory=dict)

    @property
    def names(self) -> dict[int, tuple[str, int]]:
        return {axis: place for place, axis in self.axes.items()}

    @staticmethod
    def from_system(system: System, states: Mapping[str, Tensor], captured: Capture) -> Provenance:
        return _Lazy(system, states, captured)

    def path(self, start: int, goal: int) -> list[tuple[int, Step, int]]:
        """The shortest chain of ties from one axis to another; empty where there is none."""
        try:
            nodes = nx.shortest_path(self.graph, start, goal, weight="weight")
        except (nx.NetworkXNoPath, nx.NodeNotFound):
            return []
        return [(a, self.graph.edges[a, b]["step"], b) for a, b in itertools.pairwise(nodes)]

    def to_pin(self, start: int, reason: str | None = None) -> list[tuple[int, Step, int]]:
        """The shortest chain of ties from an axis to a pinned one, with the given reason if there is one."""
        if start not in self.graph:
            return []
        reach = nx.single_source_dijkstra_path(self.graph, start, weight="weight")
        ends = [a for a in reach if a in self.pins and (reason is None or self.pins[a] == reason)]
        if not ends:
            return []
        return self.path(start, min(ends, key=lambda a: len(reach[a])))


class _Lazy(Provenance):
    """Builds the graph when it is first asked for: inference itself does not need it."""

    def __init__(self, system: System, states: Mapping[str, Tensor], captured: Capture):
        self._system: System | None = system
        self._built = nx.Graph()
        self.axes = {}
        for placeholder, tensor in states.items():
            for name in captured.states[placeholder]:
                self.axes.update({(name, j): a for j, a in enumerate(tensor.dims) if a is not None})
        self.pins = {}
        for pin in system.pins:
            self.pins.setdefault(pin.tensor.dims[pin.dim], pin.reason)  # type: ignore[arg-type]
        self.pins.update({a: r for a, r in system.opaque.items() if a not in self.pins})

    @property
    def graph(self) -> nx.Graph:  # type: ignore[override]
        if self._system is not None:
            for statement in self._system.frames:
                (self._add_restriction if isinstance(statement, Restriction) else self._add_frame)(statement)  # type: ignore[arg-type]
            self._system = None
        return self._built

    def __reduce__(self) -> tuple[Any, ...]:
        return Provenance, (self.graph, self.axes, self.pins)

    def _edge(self, a: int, b: int, kind: str, node: Any) -> None:
        if a != b and not self._built.has_edge(a, b):
            meta = node.meta if node is not None else {}
            op = str(node.target).replace("aten.", "") if node is not None else "?"
            step = Step(kind, op, meta.get("module_path", ""), meta.get("source", ""))
            self._built.add_edge(a, b, step=step, weight=_WEIGHT[kind])

    def _add_frame(self, frame: Frame) -> None:
        for tensor, projection in frame.members:
            for axis, letters in zip(tensor.dims, projection, strict=True):
                if axis is None or letters is None:
                    continue
                for i in letters:
                    self._edge(axis, frame.letters[i], "tie" if len(letters) == 1 else "factor", frame.node)

    def _add_restriction(self, r: Restriction) -> None:
        for dim, part_dim, index in r.dims:
            part = None if part_dim is None else r.part.dims[part_dim]
            if part is not None:
                self._edge(r.whole.dims[dim], part, "tie" if index is None else "segment", r.node)  # type: ignore[arg-type]
