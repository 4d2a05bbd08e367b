"""What a capture returns, and how to run its graph on other weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from autoperm.caches import Cache
from autoperm.errors import CaptureError, StateError
from autoperm.stacks import Stacks, stacked


@dataclass
class Capture:
    """A model as one flat graph of ATen ops whose weights and inputs are placeholders.

    Attributes:
        graph_module: placeholders (states first, then inputs), ``call_function`` nodes of ``OpOverload`` (and
            ``operator.getitem`` on tuples), ``get_attr`` constants, and one output node holding a flat tuple.
            Each node's ``meta`` has ``val`` (fake tensors), ``module_path`` and ``source``.
        states: placeholder name -> its state-dict names, several where the tensor is tied.
        parameters: the state-dict names that are ``nn.Parameter``; the others in ``states`` are buffers.
        inputs: placeholder name -> where the tensor is in the call, such as ``kwargs['mask']``.
        outputs: where each result is in the model's output, such as ``output.logits``.
        constants: ``get_attr`` node name -> value, ``None`` where it is only known on the meta device.
        tracer: the tracer that succeeded.
        seconds: how long the capture took, failed attempts included.
        caches: where the forward keeps tensors on its modules that it computes.
        changing: nodes of buffers and attributes that the forward reads and changes; their new values are the last ``outputs``.
        fixed: state-dict names of weights that have to stay, whatever the graph says -> why.
        stacks: name in ``states`` of a tensor that the state dict has in parts -> the names of each, see ``autoperm.stacks``. A
            capture as it was traced has none.
    """

    graph_module: fx.GraphModule
    states: dict[str, tuple[str, ...]]
    parameters: frozenset[str]
    inputs: dict[str, str]
    outputs: list[str]
    constants: dict[str, Tensor | None]
    tracer: str
    seconds: float
    caches: tuple[Cache, ...] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)
    changing: frozenset[str] = frozenset()
    stacks: Stacks = field(default_factory=dict)

    @property
    def graph(self) -> fx.Graph:
        """The traced graph."""
        return self.graph_module.graph

    def run(self, state: Mapping[str, Tensor], *flat_inputs: Tensor) -> list[Tensor]:
        """Run the graph on a state dict and on tensors in the order of ``inputs``.

        Arguments:
            state: tensors by state-dict name; of the names of a tied tensor, the first present is read.
            flat_inputs: one tensor per entry of ``inputs``, shaped like the example inputs.

        Returns:
            One tensor per entry of ``outputs``.

        Raises:
            StateError: a name is missing from ``state``.
            CaptureError: a wrong number of inputs, or a constant whose value is only known on the meta device.
        """
        if len(flat_inputs) != len(self.inputs):
            wanted = ", ".join(self.inputs.values()) or "none"
            raise CaptureError(
                f"the graph takes {len(self.inputs)} input tensors ({wanted}), got {len(flat_inputs)}"
            )
        if unknown := [name for name, value in self.constants.items() if value is None]:
            raise CaptureError(
                f"the model's constants {', '.join(unknown)} are on the meta device and have no values to run with; "
                "capture the model on a real device"
            )
        arguments = [*self._state_arguments(stacked(self.stacks, state)), *flat_inputs]
        with torch.no_grad():
            return list(fx.Interpreter(self.graph_module).run(*arguments, enable_io_processing=False))

    def _state_arguments(self, state: Mapping[str, Tensor]) -> Iterator[Tensor]:
        for names in self.states.values():
            present = next((name for name in names if name in state), None)
            if present is None:
                raise StateError(f"the state dict has no entry for {' = '.join(names)}")
            yield state[present].detach()
