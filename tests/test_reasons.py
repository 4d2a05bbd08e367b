"""Why what is pinned is pinned: for each reason a model in which it is given, and in which nothing more can move.

The oracle counts every permutation that the model allows; where its count is the order found, what is pinned cannot move.
docs/limits.md lists the reasons, these first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autoperm
from autoperm.capture import capture
from benchmarks.zoo.pinned import reason
from tests.architectures.nets import Net
from tests.oracle import true_order
from tests.trained import soundness, trained_like

ROOT = Path(__file__).parent.parent
IDS = torch.tensor([[2, 0, 3, 1, 4]])
PIXELS = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TOKENS = torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NUMBERS = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _apply(function: Callable[..., Tensor], **parts: Any) -> nn.Module:
    return Net(function, **parts)


def _relative(m: Any, x: Tensor) -> Tensor:
    """Attention weights over tokens in order, with a bias for each distance."""
    distance = (torch.arange(9)[:, None] - torch.arange(9)[None, :] + 8).reshape(-1)
    return torch.softmax(m.table[distance].reshape(9, 9), -1) @ x


#: Reason, without names and numbers -> a model, its input, and a dimension that is pinned for it.
NECESSARY: dict[str, tuple[Callable[[], nn.Module], Tensor, tuple[str, int]]] = {
    "rows are looked up by index": (
        lambda: nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2)), IDS, ("0.weight", 0),
    ),
    "a spatial axis of a convolution": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.GELU(), nn.Conv2d(3, 1, 2)), PIXELS, ("0.weight", 2),
    ),
    "a constant of the model differs along this axis": (
        lambda: _apply(lambda m, x: m.last(m.first(x) * torch.arange(1.0, 4.0)), first=nn.Linear(4, 3), last=nn.Linear(3, 2)),
        NUMBERS, ("first.weight", 0),
    ),
    "written to by position": (
        lambda: _apply(lambda m, i: m.last(torch.zeros(5, 3).to(m.rows).index_put((i[0, :2],), m.rows).T), rows=torch.randn(2, 3), last=nn.Linear(5, 2)),
        IDS, ("last.weight", 1),
    ),
    "indexed by position": (
        lambda: _apply(lambda m, i: m.last(m.table[:, i[0, :2]].flatten()[None]), table=torch.randn(2, 5), last=nn.Linear(4, 2)),
        IDS, ("table", 1),
    ),
    "indexed with many repeats": (lambda: _apply(_relative, table=torch.randn(17)), TOKENS, ("table", 0)),
    "every position along it plays a part of its own": (
        lambda: _apply(lambda m, x: m.out(x[:, :3] * m.scale[0] + x[:, 1:] * (m.scale[1] - m.scale[2])), scale=torch.randn(3), out=nn.Linear(3, 2)),
        NUMBERS, ("scale", 0),
    ),
    "values in sorted order": (
        lambda: _apply(lambda m, x: m.last(m.first(x).sort(-1).values), first=nn.Linear(4, 3), last=nn.Linear(3, 2)),
        NUMBERS, ("last.weight", 1),
    ),
    "a spatial axis of aten.upsample_bilinear2d.default": (
        lambda: _apply(lambda m, x: x.mean((2, 3)).sum() * F.interpolate(m.grid, scale_factor=2, mode="bilinear"), grid=torch.randn(1, 1, 2, 3)),
        PIXELS, ("grid", 2),
    ),
    "a spatial axis of aten.avg_pool2d.default": (
        lambda: _apply(lambda m, x: F.avg_pool2d(m.grid, 2, 1) * x.mean(), grid=torch.randn(1, 2, 3, 3)), PIXELS, ("grid", 2),
    ),
    "a position in a kernel": (
        lambda: _apply(lambda m, x: m.weight @ F.unfold(m.point(x), 2), point=nn.Conv2d(2, 1, 1), weight=torch.randn(2, 4)), PIXELS, ("weight", 1),
    ),
    "sampling positions": (
        lambda: _apply(lambda m, x: F.grid_sample(x, m.where.tanh(), align_corners=False), where=torch.randn(1, 2, 2, 2)),
        PIXELS, ("where", 3),
    ),
    "a triangular mask depends on the order": (
        lambda: _apply(lambda m, x: x @ m.mix.tril() @ m.out, mix=torch.randn(4, 4), out=torch.randn(4, 2)), NUMBERS, ("mix", 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", NECESSARY)
def test_nothing_more_can_move(why: str) -> None:
    build, x, (name, dim) = NECESSARY[why]
    torch.manual_seed(0)
    model = trained_like(build(), seed=1)
    spec = autoperm.infer(model, x)
    assert why in spec.pinned[name, dim]
    assert soundness(model, spec, x) < 1e-10
    assert true_order(capture(model, x)) == spec.order


def _rows() -> list[str]:
    """The reasons that docs/limits.md lists."""
    table = (ROOT / "docs" / "limits.md").read_text().split("## Reasons", 1)[1]
    return re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)


def _met() -> Iterator[tuple[str, str]]:
    """The reasons that the zoo's models were given, with a model."""
    for path in sorted((ROOT / "docs" / "zoo" / "results").glob("*.jsonl")):
        if path.stem.startswith(("expected", "maximal", "peers")):
            continue
        last = {record["model"]: record for record in map(json.loads, path.read_text().splitlines())}
        yield from ((why, f"{path.stem} {name}") for name, record in last.items() for why in record.get("pinned", ()))


def _like(why: str) -> str:
    """Without the sizes and the ops that a reason names."""
    return re.sub(r"aten\.\w+(\.\w+)?|output output\S*|\b\d+\b|im2col$", "...", why)


def test_every_reason_is_listed() -> None:
    listed = _rows()
    assert set(map(_like, NECESSARY)) <= set(listed), "what is proved here is listed"
    missing = {_like(why): model for why, model in _met() if _like(why) not in listed}
    assert missing == {}, "reasons that docs/limits.md does not explain"


def test_reasons_are_told_without_names() -> None:
    assert reason("axis 3 of size 4 is cut") == "axis n of size 4 is cut"
    assert reason("axis 0 of the input x") is None
