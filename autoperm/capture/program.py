"""A model and its example inputs as one pure function from flat tensors to flat tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from autoperm.caches import Cache, Entry, Snapshot, computed_again, entries, take_out
from autoperm.capture import clean
from autoperm.capture.guard import evaluating, tracing_switches, untouched
from autoperm.capture.inputs import FlatInputs, flatten_inputs
from autoperm.capture.lift import Lifted, Slot, changeable, identity, lift, place
from autoperm.capture.provenance import ModuleStack, stamped
from autoperm.capture.shell import shell
from autoperm.capture.structure import leaves, tensors
from autoperm.errors import CaptureError

_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)
_PLAIN = (Tensor, nn.Parameter, nn.Buffer)


class Program:
    """The model as ``program(*tensors)``: one tensor per lifted tensor, then one per input; a tuple of results.

    It goes through a copy of the model, around the same memory. What is read of weights by ways that do not lead through the
    copy is ``seen``.

    A call leaves that untouched, and names the results in ``outputs``, and in ``caches`` where it has kept tensors. The
    results are followed by the new values of the buffers and attributes that the forward has changed (``changed``).

    What earlier calls have kept is computed again, once it is ``gone``: a kept function of the weights would pass for a
    constant, although permuted weights make another.
    """

    def __init__(self, model: nn.Module, example_inputs: Any, prefix: str = "") -> None:
        self.model = shell(model)
        self._deep = self.model is not model
        self.inputs: FlatInputs = flatten_inputs(example_inputs)
        self.prefix = prefix
        self.lifted: list[Lifted] = lift(self.model, prefix, deep=self._deep)
        self.constants_lifted = False
        self.gone: frozenset[Entry] = frozenset()
        self.caches: tuple[Cache, ...] = ()
        self.changed: list[str] = []
        self.before = {path: where[name] for path, (where, name) in changeable(self.model)}
        self.seen: set[Any] = set()
        self.written: set[str] = set()
        self._kept: dict[Entry, Tensor] = {}
        self.stack = ModuleStack(self.model)
        self.outputs: list[str] = []

    @property
    def on_meta(self) -> bool:
        """Whether a weight or an input has no value."""
        return any(tensor.is_meta for tensor in self._tensors())

    @property
    def memories(self) -> frozenset[Any]:
        """Of the weights, the first of what :func:`autoperm.capture.lift.identity` says."""
        return frozenset(identity(entry.tensor)[0] for entry in self.lifted if entry.names)

    def lift_constants(self) -> None:
        """Make arguments of constants on a real device too; the tracer then no longer sees their values."""
        self.lifted, self.constants_lifted = lift(self.model, self.prefix, True, self._deep), True

    def _tensors(self) -> list[Tensor]:
        return [*(entry.tensor for entry in self.lifted), *self.inputs.tensors]

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        count = len(self.lifted)
        with (
            untouched(self.model),
            tracing_switches(self.model),
            self.stack.follow(),
            stamped(self.stack.place),
        ):
            take_out(self.model, self.gone, self.prefix)
            before = Snapshot.of(self.model, self.prefix)
            place(self.lifted, tensors[:count])
            args, kwargs = self.inputs.rebuild(tensors[count:])
            held = [(path, slot, slot[0][slot[1]]) for path, slot in changeable(self.model)]
            versions = [_version(tensor) for _, _, tensor in held]
            try:
                return (*self._results(self.model(*args, **kwargs)), *self._changed(held, versions))
            finally:
                self._kept = entries(self.model, self.prefix)
                self.caches = before.filled(self._kept)

    def plainly(self, times: int) -> list[tuple[Tensor, ...]]:
        """The results of calls one after the other of the model itself, not traced; buffers and inputs are copies."""
        with untouched(self.model), evaluating(self.model), torch.no_grad():
            take_out(self.model, self.gone, self.prefix)
            place(self.lifted, [self._own(entry) for entry in self.lifted])
            found = []
            for _ in range(times):
                torch.manual_seed(0)
                args, kwargs = self.inputs.rebuild([_copy(tensor) for tensor in self.inputs.tensors])
                found.append(tuple(_copy(t) for t in self._results(self.model(*args, **kwargs))))
            return found

    def _own(self, entry: Lifted) -> Tensor:
        """A lifted tensor, or a copy of one that the forward may write to."""
        if not entry.is_parameter:
            return _copy(entry.tensor)
        if entry.names[0] not in self.written:
            return entry.tensor
        return nn.Parameter(_copy(entry.tensor), entry.tensor.requires_grad)

    def drop_writes(self, graph: fx.Graph) -> None:
        """Erase from a trace the in-place ops that change no result, and keep in mind which parameters they write to."""
        places = [node.target for node in graph.find_nodes(op="placeholder")]
        self.note_written(places, clean.drop_harmless_writes(graph))

    def note_written(self, places: Sequence[str], written: Collection[str]) -> None:
        """Keep in mind the parameters whose placeholders, in order, are written to."""
        self.written |= {e.names[0] for e, place in zip(self.lifted, places, strict=False) if e.is_parameter and place in written}

    def _changed(self, held: list[tuple[str, Slot, Tensor]], versions: list[int]) -> list[Tensor]:
        """What buffers and attributes hold after the forward, where it is not what they held before."""
        found = {}
        for (path, (where, name), before), version in zip(held, versions, strict=True):
            now = where.get(name)
            if isinstance(now, Tensor) and (now is not before or _is_written(now, version)):
                found[path] = now
        self.changed = list(found)
        return list(found.values())

    def find_caches(self) -> None:
        """Find what earlier calls have kept on the modules and the forward computes from the weights if it is not there."""

        def run(gone: frozenset[Entry]) -> dict[Entry, Tensor]:
            self.gone = gone
            mode = FakeTensorMode(allow_non_fake_inputs=True)
            with contextlib.suppress(Exception), torch.no_grad():
                self(*(self.fake_tensors(mode) if self.on_meta else self.real_tensors()))
            return self._kept

        self.gone = computed_again(entries(self.model, self.prefix), run)
        self._kept = {}

    def _results(self, output: Any) -> tuple[Tensor, ...]:
        results = tensors(output, "output")
        if symbols := [name for name, leaf in leaves(output, "output") if isinstance(leaf, _SYMBOLS)]:
            raise CaptureError(f"{symbols[0]} is a number that depends on values, which this way of tracing does not have")
        if not results:
            raise CaptureError(
                f"the output of {type(self.model).__name__} holds no tensor: it is a {type(output).__name__}; return "
                "a tensor or a tuple, list, dict or dataclass of tensors"
            )
        self.outputs = [name for name, _ in results]
        return tuple(tensor for _, tensor in results)

    def fake_tensors(self, mode: FakeTensorMode) -> list[Tensor]:
        """A stand-in for every tensor, without memory. Meta tensors pretend to be where the others are, or on the CPU.

        That is what makes meta weights and real inputs meet, and ``x.device`` usable in the model.
        """
        tensors = self._tensors()
        device = next((t.device for t in tensors if not t.is_meta), torch.device("cpu"))
        return [_fake(mode, tensor, device) for tensor in tensors]

    def real_tensors(self, *, functional: bool = False) -> list[Tensor]:
        """Every tensor copied, because the model may write to it; parameters as they are for what is ``functional``."""
        shared = [functional and entry.is_parameter for entry in self.lifted]
        keep = [e.tensor.detach() if own else _copy(e.tensor) for e, own in zip(self.lifted, shared, strict=True)]
        return [*keep, *(_copy(tensor) for tensor in self.inputs.tensors)]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _is_written(tensor: Tensor, version: int) -> bool:
    """Whether a tensor was written to since it had a version."""
    if torch._is_functional_tensor(tensor):
        return torch._functionalize_has_data_mutation(tensor)
    return _version(tensor) != version


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _fake(mode: FakeTensorMode, tensor: Tensor, device: torch.device) -> Tensor:
    if type(tensor) not in _PLAIN or tensor.layout != torch.strided or tensor.is_quantized:
        return mode.from_tensor(tensor, static_shapes=True)
    # Not from_tensor: that keeps the meta device, and makes one fake tensor of an input given twice.
    with mode:
        where = device if tensor.is_meta else tensor.device
        fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=where)
        return nn.Parameter(fake, requires_grad=False) if isinstance(tensor, nn.Parameter) else fake
