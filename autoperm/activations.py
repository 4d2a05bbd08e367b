"""Activations: how the groups of a spec act on the tensors inside a model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor, fx, nn

from autoperm.building import SpecBuilder
from autoperm.capture import capture
from autoperm.capture.inputs import flatten_inputs
from autoperm.capture.structure import leaves as leaves_of
from autoperm.errors import CaptureError, SpecError
from autoperm.infer import collection_paused, solved
from autoperm.inference import views
from autoperm.inference.engine import Engine
from autoperm.inference.views import View
from autoperm.layout import Action, Layout
from autoperm.lockstep import See, op_name, rearranges, run_nodes
from autoperm.spec import PermutationSpec
from autoperm.specfile import content

logger = logging.getLogger(__name__)

Traced = TypeVar("Traced")

#: Traces to keep; data of more shapes than this is traced again and again.
KEPT_TRACES = 16


@dataclass(frozen=True, eq=False)
class Activation:
    """One node of a graph whose value depends on the inputs.

    Attributes:
        node: its name.
        op: the name of the op that computed it, such as ``relu``.
        place: the path of the module it was computed in.
        layout: how the groups act on it, in terms of the spec's leaves.
        feeds: the ops that read it.
    """

    node: str
    op: str
    place: str
    layout: Layout
    feeds: frozenset[str]
    view: View

    def arranged(self, value: Tensor) -> Tensor:
        """The node's value with the dimensions of the layout: a node may hold them split, joined or transposed."""
        digits = [d for dim in self.view.dims for d in dim]
        inner = [d for dim in views.source_digits(self.view) for d in dim]
        order = [digits.index(d) for d in inner]
        return value.reshape([d.size for d in digits]).permute(order).reshape(self.layout.shape)


class Taps:
    """A model traced on one batch, and the layouts of its activations.

    Arguments:
        network: a module of the spec's architecture; only its constants are used, its weights are not.
        spec: the spec that the caller works with.
        batch: what the model's forward takes, as for :func:`autoperm.infer`.

    Attributes:
        activations: by node name, in the order of computation.
        action: the action of the spec's groups on their layouts; its leaves are the spec's and then others, of the
            batch for example.

    Raises:
        CaptureError: the model cannot be traced on the batch.
        SpecError: traced on the batch, the model has another spec.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> taps = Taps(mlp, spec, torch.zeros(3, 4))
        >>> [(a.op, a.layout.shape) for a in taps.activations.values()]
        [('addmm', (3, 8)), ('relu', (3, 8)), ('addmm', (3, 2))]
    """

    def __init__(self, network: nn.Module, spec: PermutationSpec, batch: Any):
        captured = capture(network, batch)
        if captured.tracer == "make_fx-real":
            logger.warning("the model's control flow depends on values; activations are those of the branches taken by one batch")
        with collection_paused():
            engine, solution = solved(captured)
            builder = SpecBuilder(engine, solution)
            check_same(spec, builder.build())
            self.activations = {a.node: a for a in _activations(engine, builder)}
        self.captured = engine.capture
        self.action = Action(builder.leaves, spec.groups)

    def run(
        self,
        states: Sequence[Mapping[str, Tensor]],
        batch: Any,
        wanted: Collection[str],
        see: See,
        lent: Mapping[str, Collection[fx.Node]] | None = None,
    ) -> None:
        """Run the model on a batch with each state dict, and show the wanted nodes' values in order.

        Arguments:
            lent: by a node's name the nodes that it reads with the values of the first state dict.
        """
        run_nodes(self.captured, states, batch, wanted, see, lent)


class Traces(Generic[Traced]):
    """What was traced on a batch, by the batch's shapes: the last batch of some data is often smaller.

    Arguments:
        trace: called with a batch of shapes that there is no trace for yet.
    """

    def __init__(self, trace: Callable[[Any], Traced]):
        self._trace = trace
        self._kept: dict[Any, Traced] = {}

    def of(self, batch: Any) -> Traced:
        """The trace for batches of these shapes.

        Raises:
            CaptureError: the batch does not fit the model; what it was and what to pass is said.
        """
        try:
            key = signature(batch)
            found = self._kept.pop(key) if key in self._kept else self._trace(batch)
        except CaptureError as error:
            raise CaptureError(
                f"the data does not fit the model: a batch is {describe(batch)}. A batch is what the model's forward takes: "
                "a tensor, a tuple of positional arguments or a dict of keyword arguments; where batches hold labels too, "
                f"pass inputs=lambda batch: batch[0].\n{error}"
            ) from error
        self._kept[key] = found
        while len(self._kept) > KEPT_TRACES:
            del self._kept[next(iter(self._kept))]
        return found


def signature(batch: Any) -> tuple[Any, ...]:
    """What a trace depends on: shapes and types of the tensors, and everything that is not a tensor."""
    flat = flatten_inputs(batch)
    parts = [leaf for part, name in zip(flat.structure, ("args", "kwargs"), strict=True) for leaf in leaves_of(part, name)]
    return tuple(
        (name, tuple(leaf.shape), leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else (name, repr(leaf))
        for name, leaf in parts
    )


def describe(batch: Any) -> str:
    """A batch's tensors with their types and shapes, for messages."""
    try:
        return flatten_inputs(batch).describe()
    except CaptureError:
        return f"a {type(batch).__name__}"


def check_same(given: PermutationSpec, found: PermutationSpec) -> None:
    """Check that two specs act alike; they may name other inputs as the reason why something is pinned.

    Raises:
        SpecError: they do not.
    """
    if given.fingerprint == found.fingerprint or _bare(given) == _bare(found):
        return
    raise SpecError(
        f"traced on the data, the model has another spec ({found!r}, fingerprint {found.fingerprint}) than the one given "
        f"({given!r}, fingerprint {given.fingerprint}). Infer the spec from the same architecture and on a batch of the "
        "data: autoperm.infer(model, batch)"
    )


def _bare(spec: PermutationSpec) -> dict[str, Any]:
    """What a spec says, without the reasons, and without which groups act: where only some are matched, the others do not."""
    found = content(spec)
    found["leaves"] = [[name, size, reason is not None] for name, size, reason in found["leaves"]]
    found["groups"] = [{key: value for key, value in group.items() if key != "leaves"} for group in found["groups"]]
    return found


def _activations(engine: Engine, builder: SpecBuilder) -> Iterator[Activation]:
    """Every floating-point node that depends on the inputs and that more than rearranges what it is given."""
    layouts: dict[int, Layout] = {}
    inputs = {n for n in engine.capture.graph.nodes if n.op == "placeholder" and n.name in engine.capture.inputs}
    reached: set[fx.Node] = set(inputs)
    for node in engine.capture.graph.nodes:
        if node.op != "call_function" or not reached.intersection(node.all_input_nodes):
            continue
        reached.add(node)
        value = node.meta["val"]
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()) or rearranges(node):
            continue
        view = engine.view(node)
        if _whole(view):
            layout = layouts.get(view.source.id)
            if layout is None:
                layout = layouts[view.source.id] = builder.layout_of(view.source)
            feeds = frozenset(op_name(user) for user in _readers(node))
            yield Activation(node.name, op_name(node), node.meta["module_path"], layout, feeds, view)


def _whole(view: View) -> bool:
    """Whether a view holds every entry of its source once."""
    sizes = [n if axis is not None else 1 for n, axis in zip(view.source.sizes, view.source.dims, strict=True)]
    if tuple(sizes) != view.source.sizes or any(d.dim is None for digits in view.dims for d in digits):
        return False
    return all(
        views.covers(run, n, offset)
        for run, n, offset in zip(views.source_digits(view), view.source.sizes, view.offsets, strict=True)
    )


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes that compute with a value, seen through views."""
    for user in node.users:
        if rearranges(user):
            yield from _readers(user)
        else:
            yield user
