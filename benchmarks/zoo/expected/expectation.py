"""What the architecture says that a spec must have, one statement at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.zoo.expected.acting import Acting, Unused, tied

#: The kinds, as they are listed.
KINDS = ("residual", "hidden", "values", "queries", "experts", "norm", "groups")
#: Kinds that the inputs and outputs may hold in place: what leaves a model keeps its order, attention maps by head among them.
MAY_BE_TIED = ("residual", "norm", "groups", "values", "queries")


@dataclass(frozen=True)
class Expectation:
    """One statement.

    Attributes:
        kind: one of ``KINDS``.
        where: the module that it is about.
        test: asked of a spec; what is wrong, or None.
    """

    kind: str
    where: str
    test: Callable[[Acting], str | None]


@dataclass(frozen=True)
class Verdict:
    """*met*; *tied*: pinned since it is an input or output; *unused*: no output depends on it; *unmet*."""

    kind: str
    where: str
    status: str
    why: str = ""


def judge(expectation: Expectation, acting: Acting) -> Verdict:
    try:
        why = expectation.test(acting)
    except Unused:
        return Verdict(expectation.kind, expectation.where, "unused")
    if why is None:
        return Verdict(expectation.kind, expectation.where, "met")
    status = "tied" if expectation.kind in MAY_BE_TIED and tied(why) else "unmet"
    return Verdict(expectation.kind, expectation.where, status, why)
