"""Random architectures: every element found is sound, and nearly always all of them are found."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.random_architectures import Program, orders, programs, random_program

relaxed = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def check_subgroup(program: Program) -> bool:
    """Whether the whole group is found; what is found is sound in any case, so its order divides the true one."""
    found, true, error = orders(program)
    assert error < 1e-10, f"unsound: {program}"
    assert true % found == 0, f"{found} elements, of {true}: {program}"
    return found == true


@settings(relaxed, max_examples=25)
@given(programs())
def test_subgroup(program: Program) -> None:
    check_subgroup(program)


@pytest.mark.slow
@settings(relaxed, max_examples=200)
@given(programs(rich=True))
def test_subgroup_of_more_ops(program: Program) -> None:
    check_subgroup(program)


@pytest.mark.parametrize(
    ("count", "first", "depth"), [(40, 0, 3), (20, 1000, 6), pytest.param(300, 10_000, 6, marks=pytest.mark.slow)]
)
def test_share_that_is_complete(count: int, first: int, depth: int) -> None:
    """At least 99 in 100; in a smaller set, all but one."""
    missed = [p for p in (random_program(first + k, depth) for k in range(count)) if not check_subgroup(p)]
    print(f"{count - len(missed)} of {count} programs of depth {depth} have their whole group found")
    assert len(missed) <= max(1, count // 100), missed
