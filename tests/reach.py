"""Which registered rules graphs reach: those of the tests' cases, and of the slice of the zoos.

``python -m tests.reach`` lists, rule by rule, what of it the cases reach and which models of the slice do.
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # the cases are imported by their bare names

from autoperm.capture import Capture, capture, tracers
from autoperm.capture.program import Program
from autoperm.errors import CaptureError
from autoperm.infer import infer_captured
from autoperm.rules import choices, listing, picking, registered

#: What says more than a label has rules of its own; see autoperm/rules/choices.py, picking.py and listing.py.
_TABLES = {"of a choice": choices._RULES, "of a lookup": picking._RULES, "of a list": listing._RULES}


def all_rules() -> set[str]:
    """The names of all rules; those of what says more than a label with what they are of."""
    return set(registered()) | {f"{name} {what}" for what, table in _TABLES.items() for name in table}


@dataclass
class Reach:
    """The rules that were reached, and by whom."""

    by: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def note(self, rules: set[str], who: str) -> None:
        for rule in rules:
            self.by[rule].append(who)

    def missing(self) -> list[str]:
        return sorted(all_rules() - set(self.by))


def of_graph(graph: fx.Graph) -> set[str]:
    """The plain rules that the ops of a graph have."""
    known = registered()
    targets = {str(node.target) for node in graph.nodes if node.op == "call_function"}
    return {name for t in targets for name in (t if t in known else t.rpartition(".")[0],) if name in known}


def of_inference(captured: Capture) -> set[str]:
    """All rules that inference uses."""
    with _recorded() as found:
        infer_captured(captured)
    return found | of_graph(captured.graph)


@contextmanager
def _recorded() -> Iterator[set[str]]:
    """The rules of what says more than a label that have had something to say, while inside."""
    found: set[str] = set()
    kept = {what: dict(table) for what, table in _TABLES.items()}
    for what, table in _TABLES.items():
        for name, rule in table.items():
            table[name] = _noting(rule, f"{name} {what}", found)
    try:
        yield found
    finally:
        for what, table in _TABLES.items():
            table.update(kept[what])


def _noting(rule: Callable[..., Any], name: str, found: set[str]) -> Callable[..., Any]:
    def noted(op: Any) -> Any:
        result = rule(op)
        if result is not None:
            found.add(name)
        return result

    return noted


# -- ops that torch composes of others ---------------------------------------------------------------------------------


@contextmanager
def keeping_ops_whole() -> Iterator[str]:
    """A tracer that keeps what torch composes of other ops, as exported graphs may; its name."""

    def trace(program: Program) -> fx.GraphModule:
        tensors = program.fake_tensors(FakeTensorMode(allow_non_fake_inputs=True))
        options = {"_allow_non_fake_inputs": True, "_error_on_data_dependent_ops": True}
        return make_fx(program, tracing_mode="fake", pre_dispatch=True, **options)(*tensors)

    tracers.TRACERS["whole"] = trace
    try:
        yield "whole"
    finally:
        del tracers.TRACERS["whole"]


# -- whose graphs ------------------------------------------------------------------------------------------------------


def reached_by_cases() -> Reach:
    """By the cases of rules, of modules, of ops by their own names and of ops on choices."""
    from direct_cases import DIRECT, ELSEWHERE
    from module_cases import CASES as MODULES
    from rule_cases import CASES as OPS
    from test_rules import model_of

    found = Reach()
    for case in [*OPS, *MODULES, *(direct.case for direct in DIRECT)]:
        for captured in _both_ways(*model_of(case)):
            found.note(of_graph(captured.graph), case.name)
    found.note({f"aten.{name}" for name in ELSEWHERE}, "forms for other backends")
    for name, model, inputs in _small_models():
        for captured in _both_ways(model, inputs):
            found.note(of_inference(captured), name)
    return found


def _both_ways(model: nn.Module, inputs: Any) -> Iterator[Capture]:
    """The graph, and that in which nothing is composed of other ops, if it can be had."""
    yield capture(model, inputs)
    with keeping_ops_whole() as whole, suppress(CaptureError):  # this tracer knows neither values nor in-place ops
        yield capture(model, inputs, tracers=[whole])


def _small_models() -> Iterator[tuple[str, nn.Module, Any]]:
    from choice_cases import CASES as CHOICES
    from test_choices import model_of
    from test_rules import Recurrent

    for case in CHOICES:
        yield case.name, *model_of(case)
    for make in (nn.LSTM, nn.GRU, nn.RNN):
        yield make.__name__, Recurrent(make), torch.randn(1, 2, 2)


def reached_by_slice(slice_: Sequence[tuple[str, str]]) -> Reach:
    """By models of the zoos."""
    from benchmarks.zoo import sources

    found = Reach()
    for source, name in slice_:
        entry = {e.name: e for e in sources.entries(source)}[name]
        torch.manual_seed(0)
        model = entry.build().eval()
        found.note(of_inference(capture(model, entry.inputs(model))), f"{source} {name}")
    return found


def main() -> None:
    """Print every rule with what reaches it."""
    from tests.zoo import import_torchvision

    import_torchvision()
    from test_zoo import SLICE

    warnings.simplefilter("ignore")
    cases, models = reached_by_cases(), reached_by_slice(SLICE)
    for rule in sorted(all_rules()):
        print(
            f"{rule:60} {len(cases.by.get(rule, ())):4} cases  {len(models.by.get(rule, ())):4} models  {', '.join(models.by.get(rule, ())[:2])}"
        )
    both = set(cases.by) & set(models.by)
    print(f"{len(all_rules())} rules: {len(cases.by)} reached by cases, {len(models.by)} by models, {len(both)} by both")
    print("reached by neither:", ", ".join(rule for rule in cases.missing() if rule not in models.by) or "none")


if __name__ == "__main__":
    main()
