"""Where the units of a group are made and where they are read, from the statements of a traced graph.

A unit is *made* along the rows of a linear layer, the output channels of a convolution, biases, norm weights and
statistics, features of embeddings; it is *read* along the columns of a linear layer and input channels. No module class is
looked at: in the statement of an op, a letter that no result has is contracted, and a parameter is read along it.
Parameters that are computed with first (sliced, normalised, multiplied) play the part that the result plays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from autoperm.activations import check_same
from autoperm.building import SpecBuilder
from autoperm.capture import Capture, capture
from autoperm.infer import collection_paused, solved
from autoperm.inference.engine import Engine
from autoperm.inference.system import Frame, Restriction, System, Tensor
from autoperm.spec import PermutationSpec

#: A tensor's number and a dimension.
Place = tuple[int, int]


@dataclass(frozen=True)
class Roles:
    """What the dimensions of the state dict's tensors do for the groups that move along them.

    Attributes:
        of: for each (name, dimension) along which a group moves ``"made"`` or ``"read"``; ``"both"`` for a tied weight that
            is an embedding here and a linear layer there; ``"neither"`` where no result depends on it.
        paired: the groups whose units are contracted between two activations, as queries with keys are: no parameter
            reads such a unit.
        order: the groups in the order in which the graph first makes their units.
    """

    of: dict[tuple[str, int], str]
    paired: frozenset[int]
    order: tuple[int, ...]


def roles(network: nn.Module, spec: PermutationSpec, batch: Any) -> Roles:
    """Trace a model and say where the units of each of its groups are made and where they are read.

    Arguments:
        network: a module of the spec's architecture.
        batch: what the model's forward takes, as for :func:`autoperm.infer`.

    Raises:
        CaptureError: the model cannot be traced on the batch.
        SpecError: traced on the batch, the model has another spec.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> found = roles(mlp, autoperm.infer(mlp, torch.zeros(1, 4)), torch.zeros(3, 4))
        >>> found.of
        {('0.weight', 0): 'made', ('0.bias', 0): 'made', ('2.weight', 1): 'read'}
    """
    captured = capture(network, batch)
    with collection_paused():
        engine, solution = solved(captured)
        captured, builder = engine.capture, SpecBuilder(engine, solution)
        check_same(spec, builder.build())
        live = _live(engine)
        parts = _parts(engine.system, live)
        paired = frozenset(_paired(engine.system, live, builder, spec))
    tensors = {spec.aliases[captured.states[p][0]]: tensor for p, tensor in engine.states.items()}
    of = {(n, d): _named(parts.get((tensors[n].id, d), set())) for g in spec.groups for n, d in g.moves}
    return Roles(of, paired, _order(captured, spec, of))


def _named(found: set[str]) -> str:
    return "both" if len(found) > 1 else next(iter(found), "neither")


def _live(engine: Engine) -> set[int]:
    """The tensors that depend on the inputs."""
    placeholders = engine.capture.graph.find_nodes(op="placeholder")
    live = {engine.view(n).source.id for n in placeholders if n.name in engine.capture.inputs}
    count = -1
    while count != len(live):
        count = len(live)
        for statement in engine.system.frames:
            if _depends(statement, live):
                live.update(tensor.id for tensor in _results(statement))
    return live


def _depends(statement: Frame | Restriction, live: set[int]) -> bool:
    """Whether the results of a statement depend on the inputs."""
    if isinstance(statement, Restriction):
        return (statement.whole if statement.part_is_result else statement.part).id in live
    operands = [t for k, (t, _) in enumerate(statement.members) if k not in statement.outputs]
    return any(t.id in live for t in (*operands, *_results(statement)))


def _results(statement: Frame | Restriction) -> list[Tensor]:
    if isinstance(statement, Restriction):
        return [statement.part if statement.part_is_result else statement.whole]
    return [statement.members[k][0] for k in statement.outputs]


def _parts(system: System, live: set[int]) -> dict[Place, set[str]]:
    """The part that every dimension plays, handed back from results that are no activations until nothing is new."""
    found: dict[Place, set[str]] = {}
    count = -1
    while count != sum(map(len, found.values())):
        count = sum(map(len, found.values()))
        for statement in reversed(system.frames):
            depends = any(t.id in live for t in _results(statement))
            links = _of_restriction(statement) if isinstance(statement, Restriction) else _of_frame(statement)
            for place, of_result in links:
                mine = found.setdefault(place, set())
                if of_result is None:
                    mine.add("read")
                elif depends:
                    mine.add("made")
                else:
                    mine.update(*(found.get(p, set()) for p in of_result))
    return found


def _of_frame(frame: Frame) -> Iterator[tuple[Place, list[Place] | None]]:
    """For each letter of each dimension the dimensions of results that have it; None where it is contracted."""
    of_letter: dict[int, list[Place]] = {}
    for k in frame.outputs:
        tensor, projection = frame.members[k]
        for dim, run in enumerate(projection):
            for letter in run or ():
                of_letter.setdefault(letter, []).append((tensor.id, dim))
    for tensor, projection in frame.members:
        for dim, run in enumerate(projection):
            for letter in run or ():
                yield (tensor.id, dim), of_letter.get(letter)


def _of_restriction(r: Restriction) -> Iterator[tuple[Place, list[Place] | None]]:
    """The same; a position that is selected is no dimension of the result, but nothing is contracted either."""
    for of_whole, of_part, _ in r.dims:
        if of_part is not None:
            whole, part = (r.whole.id, of_whole), (r.part.id, of_part)
            yield (whole, [part]) if r.part_is_result else (part, [whole])


def _paired(system: System, live: set[int], builder: SpecBuilder, spec: PermutationSpec) -> Iterator[int]:
    for frame in system.frames:
        if isinstance(frame, Restriction) or not any(t.id in live for t in _results(frame)):
            continue
        kept = {letter for k in frame.outputs for run in frame.members[k][1] for letter in run or ()}
        holders: dict[int, list[Place]] = {}
        for tensor, projection in frame.members:
            for dim, run in enumerate(projection):
                if tensor.id in live:
                    for letter in set(run or ()) - kept:
                        holders.setdefault(letter, []).append((tensor.id, dim))
        for places in holders.values():
            if len(places) > 1:
                yield from _groups_at(system, places[0], builder, spec)


def _groups_at(system: System, place: Place, builder: SpecBuilder, spec: PermutationSpec) -> Iterator[int]:
    layout = builder.layout_of(system.tensors[place[0]])
    for cell in layout.cells:
        for leaf in layout.leaves_at(cell, place[1]):
            if leaf in spec.action.group_of:
                yield spec.action.group_of[leaf]


def _order(captured: Capture, spec: PermutationSpec, of: dict[tuple[str, int], str]) -> tuple[int, ...]:
    first = {spec.aliases[captured.states[p][0]]: at for p, at in first_uses(captured).items()}

    def begins(g: int) -> int:
        moves = spec.groups[g].moves
        made = [name for name, dim in moves if of[name, dim] in ("made", "both")] or [name for name, _ in moves]
        return min(first.get(name, len(captured.graph.nodes)) for name in made)

    return tuple(sorted(range(len(spec.groups)), key=lambda g: (begins(g), g)))


def first_uses(captured: Capture) -> dict[str, int]:
    """For each placeholder of a weight the place in the graph of the first activation that is computed with it."""
    found: dict[str, int] = {}
    weights: dict[fx.Node, set[str]] = {}
    live: set[fx.Node] = set()
    for at, node in enumerate(captured.graph.nodes):
        if node.op == "placeholder":
            weights[node] = {node.name} & captured.states.keys()
            if node.name in captured.inputs:
                live.add(node)
            continue
        reads = weights_of(node.all_input_nodes, weights)
        if live.isdisjoint(node.all_input_nodes):
            weights[node] = reads
        else:
            live.add(node)
            for name in reads:
                found.setdefault(name, at)
    return found


def weights_of(nodes: Sequence[fx.Node], weights: dict[fx.Node, set[str]]) -> set[str]:
    """All weights that some nodes are computed from; activations count for nothing."""
    return set().union(*(weights.get(n, set()) for n in nodes))
