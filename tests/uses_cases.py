"""Weights with ties of every kind, and models that are graphs."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

import networkx as nx
import numpy as np
import torch
from matching_cases import CASES as MATCHING
from torch import nn

import autoperm
from autoperm import Permutation, PermutationSpec
from autoperm.trained import randomize_
from tests.architectures import CASES as ARCHITECTURES
from tests.trained import trained_like

State = dict[str, torch.Tensor]

#: All small models of the tests: those of matching, then the architectures.
NAMES = [*(f"matching.{name}" for name in MATCHING), *ARCHITECTURES]


@functools.cache
def small(name: str) -> tuple[State, PermutationSpec]:
    """Trained-like weights of one of NAMES and its spec; not to be changed."""
    torch.manual_seed(0)
    if name.startswith("matching."):
        build, shape = MATCHING[name.removeprefix("matching.")]
        model, inputs = build(), torch.zeros(shape)
        randomize_(model)
    else:
        model, inputs = trained_like(ARCHITECTURES[name].build(), seed=1), ARCHITECTURES[name].inputs()
    return dict(model.state_dict()), autoperm.infer(model, inputs)


def _coins(share: float) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor]:
    return lambda tensor, generator: (torch.rand(tensor.shape, generator=generator) < share).to(tensor.dtype)


def _diagonal(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if tensor.ndim < 2:
        return torch.ones_like(tensor)
    out = torch.zeros_like(tensor)
    for k in range(min(tensor.shape[:2])):
        out[k, k] = 1.0
    return out


#: Ways to fill tensors so that units are tied, the more the further down.
TIES: dict[str, Callable[[torch.Tensor, torch.Generator], torch.Tensor]] = {
    "coins": _coins(0.5),
    "sparse": _coins(0.15),
    "diagonal": _diagonal,
    "zeros": lambda tensor, generator: torch.zeros_like(tensor),
}


def filled(state: State, kind: str, seed: int = 0) -> State:
    """The state dict with its floating-point tensors filled so that units are tied."""
    generator = torch.Generator().manual_seed(seed)
    return {k: TIES[kind](v, generator) if v.is_floating_point() else v for k, v in state.items()}


def elements(spec: PermutationSpec) -> Iterator[Permutation]:
    """All of a tiny group."""
    choices = []
    for group in spec.groups:
        one = [np.array(p) for p in itertools.permutations(range(group.size))]
        shape = (*(spec.leaves[p].size for p in group.parents), group.size)
        choices.append([np.stack(rows).reshape(shape) for rows in itertools.product(one, repeat=group.copies)])
    for arrays in itertools.product(*choices):
        yield Permutation(spec, arrays)


class Recurrent(nn.Module):
    """A layer used twice: its group is on both sides of one weight, which can be any directed graph."""

    def __init__(self, n: int):
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(2, n), nn.Linear(n, n), nn.Linear(n, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.first(x))
        return self.last(torch.tanh(self.shared(torch.tanh(self.shared(x)))))


def graph_model(graph: nx.Graph) -> tuple[State, PermutationSpec]:
    """A model whose shared weight is the adjacency matrix; everything else is zero."""
    model = Recurrent(len(graph))
    state = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    state["shared.weight"] = torch.tensor(nx.to_numpy_array(graph), dtype=torch.float32)
    return state, autoperm.infer(model, torch.zeros(1, 2))


def rook() -> nx.Graph:
    """The rook's graph of 4 x 4: strongly regular, with the parameters of Shrikhande's."""
    return nx.line_graph(nx.complete_bipartite_graph(4, 4))


def shrikhande() -> nx.Graph:
    """Strongly regular (16, 6, 2, 2); refinement cannot tell it from the rook's graph."""
    steps = ((0, 1), (1, 0), (1, 1))
    places = list(itertools.product(range(4), repeat=2))
    return nx.Graph([((i, j), ((i + a) % 4, (j + b) % 4)) for i, j in places for a, b in steps])


GRAPHS: dict[str, Callable[[], nx.Graph]] = {
    "rook": rook,
    "shrikhande": shrikhande,
    "petersen": nx.petersen_graph,
    "pairs": lambda: nx.from_edgelist([(2 * k, 2 * k + 1) for k in range(8)]),
    "rings": lambda: nx.disjoint_union_all([nx.cycle_graph(4)] * 4),
    "two cubic": lambda: nx.disjoint_union(nx.desargues_graph(), nx.dodecahedral_graph()),
    "star": lambda: nx.star_graph(12),
}


class Heads(nn.Module):
    """Heads, each with a layer of its own that is used twice: a graph a head."""

    def __init__(self, heads: int, n: int):
        super().__init__()
        self.first = nn.Parameter(torch.randn(heads, n, 2))
        self.shared = nn.Parameter(torch.randn(heads, n, n))
        self.last = nn.Parameter(torch.randn(heads, n, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.einsum("hni,bi->bhn", self.first, x).tanh()
        for _ in range(2):
            x = torch.einsum("hmn,bhn->bhm", self.shared, x).tanh()
        return torch.einsum("hno,bhn->bo", self.last, x)


def graph_heads(graphs: list[nx.Graph]) -> tuple[State, PermutationSpec]:
    """A model whose heads are these graphs of one size; everything else is zero."""
    model = Heads(len(graphs), len(graphs[0]))
    state = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    state["shared"] = torch.stack([torch.tensor(nx.to_numpy_array(g), dtype=torch.float32) for g in graphs])
    return state, autoperm.infer(model, torch.zeros(1, 2))
