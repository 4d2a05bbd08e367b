"""Choices, lookups and sorted rows: every op on them is sound, and loses nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from choice_cases import CASES, EXPERTS, SIZE, TOKENS, Case, Choosing
from reach import keeping_ops_whole
from torch import Tensor

from autoperm.capture import Capture, capture
from autoperm.errors import CaptureError
from autoperm.infer import infer_captured
from tests.trained import soundness, trained_like


def model_of(case: Case) -> tuple[Choosing, Tensor]:
    torch.manual_seed(0)
    model = trained_like(case.build(), seed=1)
    x = torch.randn(TOKENS, SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return (model.float(), x.float()) if case.single else (model, x)


def captured_case(case: Case) -> Capture:
    return capture(*model_of(case))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_is_lost_by_an_op_in_between(case: Case) -> None:
    model, x = model_of(case)
    spec = infer_captured(capture(model, x))
    assert not spec.unsupported
    assert spec.order == case.order
    assert soundness(model, spec, x, samples=6) < (1e-5 if case.single else 1e-10)


@pytest.mark.parametrize("case", [case for case in CASES if not case.single], ids=lambda case: case.name)
def test_nor_by_one_that_is_kept_whole(case: Case) -> None:
    model, x = model_of(case)
    with keeping_ops_whole() as whole:
        try:
            spec = infer_captured(capture(model, x, tracers=[whole]))
        except CaptureError:
            pytest.skip("this tracer does not know how many bins there will be")
    assert case.order % spec.order == 0
    assert spec.order == case.order or case.name == "list__to_copy"
    assert soundness(model, spec, x, samples=6) < 1e-10


@pytest.mark.parametrize(
    "read",
    [
        lambda n: n.bool().double(),
        lambda n: (n.bool() == 1).double(),
        lambda n: (n.to(torch.float8_e4m3fn).double()),
        lambda n: n.remainder(EXPERTS - 1).double(),
        lambda n: n.double(),
        lambda n: (n + 1).double(),
        lambda n: (n == 2).double(),
        lambda n: n.flatten().bincount(minlength=EXPERTS).bool().cumsum(0)[:2].sum().expand(TOKENS, 2),
    ],
    ids=["bool", "bool_eq", "float8", "remainder", "double", "added", "compared", "counted"],
)  # fmt: skip
def test_where_numbers_are_read_the_experts_stay(read: Callable[[Tensor], Tensor]) -> None:
    """Of the four experts those are told apart that the reading tells apart."""
    model, x = model_of(Case("read", lambda m, x, scores, n: m.experts(x, n).sum(1) * read(n).sum(-1, keepdim=True)))
    spec = infer_captured(capture(model, x))
    assert soundness(model, spec, x, samples=20) < 1e-10
    assert spec.order < model_order()


def model_order() -> int:
    return CASES[0].order
