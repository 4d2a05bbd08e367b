"""What is expected of a group: met by plain modules, and reported where a group is smaller or the module is not what it looks like."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

import autoperm
from autoperm.matching.problem import part_of
from benchmarks.zoo import sources
from benchmarks.zoo.app import app
from benchmarks.zoo.entry import Entry
from benchmarks.zoo.expected import KINDS, Verdict, expectations, judge
from benchmarks.zoo.expected.acting import Acting
from benchmarks.zoo.expected.run import examine, told


def ramp(n: int) -> Tensor:
    """Numbers that tell positions apart."""
    return torch.arange(1.0, n + 1)


class Attention(nn.Module):
    """Four query heads; a constant on the heads or on the dims of the queries breaks what is expected."""

    def __init__(self, kv: int = 4, broken: str = "", width: int = 12):
        super().__init__()
        self.num_heads, self.num_kv_heads, self.broken = 4, kv, broken
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(width, 12), nn.Linear(width, 3 * kv), nn.Linear(width, 3 * kv)
        self.out_proj = nn.Linear(12, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (-1, 3)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        k, v = (t.repeat_interleave(4 // self.num_kv_heads, dim=1) for t in (k, v))
        if self.broken == "queries":
            q = q + ramp(3)
        y = F.scaled_dot_product_attention(q, k, v)
        if self.broken == "values":
            y = y * ramp(4)[:, None, None]
        return self.out_proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, broken: str = "", width: int = 12):
        super().__init__()
        self.fc1, self.fc2, self.broken = nn.Linear(width, 20), nn.Linear(20, width), broken

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x).relu()
        return self.fc2(h * ramp(20) if self.broken == "hidden" else h)


class Block(nn.Module):
    def __init__(self, broken: str = "", kv: int = 4):
        super().__init__()
        self.norm1, self.norm2, self.broken = nn.LayerNorm(12), nn.LayerNorm(12), broken
        self.attn, self.mlp = Attention(kv, broken), Mlp(broken)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        y = self.mlp(self.norm2(x))
        return x + (y * ramp(12) if self.broken == "residual" else y)


class Transformer(nn.Module):
    def __init__(self, broken: str = "", kv: int = 4, head: bool = True):
        super().__init__()
        self.embed = nn.Linear(5, 12)
        self.blocks = nn.ModuleList([Block(kv=kv), Block(broken, kv)])
        self.head = nn.Linear(12, 2) if head else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Convolutions(nn.Module):
    """Norms of single channels and of groups of them between convolutions."""

    def __init__(self, broken: str = ""):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 12, 3), nn.GroupNorm(4, 12)
        self.conv3, self.broken = nn.Conv2d(12, 2, 1), broken

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.norm1(x * ramp(8)[:, None, None] if self.broken == "norm" else x).relu()
        x = self.norm2(self.conv2(x)).relu()
        return self.conv3(x * ramp(12)[:, None, None] if self.broken == "groups" else x)


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(4, 6, 5)), nn.Parameter(torch.randn(4, 5, 6))

    def forward(self, x: Tensor, scores: Tensor) -> Tensor:
        h = torch.einsum("bi,ehi->beh", x, self.up).relu()
        return torch.einsum("beh,eoh,be->bo", h, self.down, scores)


class Mixture(nn.Module):
    def __init__(self, broken: str = ""):
        super().__init__()
        self.router, self.experts, self.broken = nn.Linear(5, 4), Experts(), broken

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x).softmax(-1)
        return self.experts(x, scores * ramp(4) if self.broken == "experts" else scores)


TOKENS, IMAGE = torch.randn(2, 7, 5), torch.randn(1, 3, 9, 9)
#: Kind -> module, by whether it breaks what is expected; its inputs; a parameter of the part, whose groups are taken away.
CASES = {
    "residual": (Transformer, TOKENS, ("blocks.0.mlp.fc2.weight", 0)),
    "hidden": (Transformer, TOKENS, ("blocks.1.mlp.fc1.weight", 0)),
    "values": (Transformer, TOKENS, ("blocks.1.attn.v_proj.weight", 0)),
    "queries": (Transformer, TOKENS, ("blocks.1.attn.k_proj.weight", 0)),
    "experts": (Mixture, torch.randn(3, 5), ("experts.up", 0)),
    "norm": (Convolutions, IMAGE, ("norm1.weight", 0)),
    "groups": (Convolutions, IMAGE, ("norm2.weight", 0)),
}


def verdicts(model: nn.Module, spec: autoperm.PermutationSpec) -> list[Verdict]:
    return [judge(e, Acting(spec)) for e in expectations(model)]


def judged(model: nn.Module, x: Tensor) -> list[Verdict]:
    return verdicts(model.eval(), autoperm.infer(model.eval(), x))


def statuses(found: list[Verdict], kind: str) -> set[str]:
    return {v.status for v in found if v.kind == kind}


def test_there_is_a_case_of_every_kind() -> None:
    assert set(CASES) == set(KINDS)


@pytest.mark.parametrize("kind", CASES)
def test_plain_modules_are_as_expected(kind: str) -> None:
    build, x, _ = CASES[kind]
    found = judged(build(), x)
    assert statuses(found, kind) == {"met"}
    assert not [v for v in found if v.status == "unmet"]


@pytest.mark.parametrize("kind", CASES)
def test_a_smaller_group_is_reported(kind: str) -> None:
    """Each group that moves the part is taken away, one at a time."""
    build, x, moved = CASES[kind]
    model = build().eval()
    spec = autoperm.infer(model, x)
    names = [g.name for g in spec.groups if moved in g.moves]
    assert names
    for name in names:
        smaller = part_of(spec, lambda g, name=name: g.name != name)  # type: ignore[misc]
        assert "unmet" in statuses(verdicts(model, smaller), kind), name


@pytest.mark.parametrize("kind", CASES)
def test_a_module_that_breaks_it_is_reported(kind: str) -> None:
    build, x, _ = CASES[kind]
    found = judged(build(kind), x)
    wrong = [v for v in found if v.kind == kind and v.status == "unmet"]
    assert wrong and all(v.why for v in wrong)


def test_the_stream_of_a_bare_model_is_tied_to_its_output() -> None:
    assert statuses(judged(Transformer(head=False), TOKENS), "residual") == {"tied"}


def test_hidden_units_that_another_layer_shares_are_reported() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp, self.other = Mlp(width=5), nn.Linear(5, 20)

        def forward(self, x: Tensor) -> Tensor:
            return self.mlp.fc2(self.mlp.fc1(x).relu() * self.other(x))

    (found,) = judged(Shared(), TOKENS)
    assert found.status == "unmet" and "moves other.weight dim 0 too" in found.why


def test_what_no_output_depends_on_is_not_expected() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle, self.mlp = Mlp(width=5), Mlp(width=5)

        def forward(self, x: Tensor) -> Tensor:
            return self.mlp(x)

    assert [v.status for v in judged(Idle(), TOKENS)] == ["unused", "met"]


@pytest.mark.parametrize("kv", [1, 2])
def test_heads_that_share_values(kv: int) -> None:
    found = judged(Transformer(kv=kv), TOKENS)
    assert statuses(found, "values") == statuses(found, "queries") == {"met"}
    broken = judged(Transformer("values", kv=kv), TOKENS)
    assert "unmet" in statuses(broken, "values")


class Rotated(Attention):
    """Queries and keys are told apart by dim, as rotations by position do; ``rotary`` is the name by which it is known."""

    def __init__(self, fixed: bool = False):
        super().__init__(width=5)
        self.rotary_emb = nn.Identity() if not fixed else nn.ReLU()
        self.fixed = fixed

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (4, 3)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = q * ramp(3), k + ramp(3)
        q = q * ramp(4)[:, None, None] if self.fixed else q
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_rotated_dims_stay_but_heads_move() -> None:
    assert statuses(judged(Rotated(), TOKENS), "queries") == {"met"}
    assert statuses(judged(Rotated(fixed=True), TOKENS), "queries") == {"unmet"}


class Tabled(nn.Module):
    """Fused projections and a bias per head; ``own`` adds the table to other heads than the values have."""

    def __init__(self, own: bool = True):
        super().__init__()
        self.num_heads, self.own = 2, own
        self.qkv, self.proj = nn.Linear(5, 24), nn.Linear(8, 5)
        self.relative_position_bias_table = nn.Parameter(torch.randn(49, 2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table.T.unflatten(1, (7, 7))
        bias = bias if self.own else bias.sum(0) * ramp(2)[:, None, None]
        return self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2))


def test_tables_move_with_the_heads() -> None:
    assert statuses(judged(Tabled(), TOKENS), "values") == {"met"}
    model = Tabled().eval()
    spec = autoperm.infer(model, TOKENS)
    smaller = part_of(spec, lambda g: ("relative_position_bias_table", 1) not in g.moves)
    assert statuses(verdicts(model, smaller), "values") == {"unmet"}
    assert statuses(judged(Tabled(own=False), TOKENS), "values") == {"unmet"}


def test_records_count_what_is_expected() -> None:
    found = [Verdict("hidden", "a", "met"), Verdict("hidden", "b", "unmet", "b.fc1.weight dim 0 is pinned: a constant"),
             Verdict("residual", "c", "tied", "axis 2 of the output y"), Verdict("norm", "d", "unused")]  # fmt: skip
    record = told(found)
    assert record["status"] == "unmet"
    assert record["kinds"] == {"hidden": [1, 2]}
    assert record["tied"] == {"residual": 1} and record["unused"] == {"norm": 1}
    assert record["unmet"] == [{"kind": "hidden", "where": "b", "why": "b.fc1.weight dim 0 is pinned: a constant"}]
    assert record["reasons"] == {"hidden: a constant": 1}


def test_a_model_is_examined_on_the_meta_device() -> None:
    record: dict[str, object] = {}
    examine(Entry("t", "t", Transformer, lambda model: torch.randn(2, 7, 5)), record.update, 0)
    assert record["status"] == "as expected" and record["kinds"]["hidden"] == [2, 2]  # type: ignore[index]


def test_the_command_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Entry("plain", "t", Transformer, lambda m: torch.randn(2, 7, 5)),
             Entry("broken", "t", lambda: Transformer("hidden"), lambda m: torch.randn(2, 7, 5))]  # fmt: skip
    monkeypatch.setattr(sources, "entries", lambda source, full: found)
    command = ["expected", "--source", "torchvision", "--results", str(tmp_path)]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    assert "plain" in first.output and "1 as expected, 1 unmet" in first.output
    assert "nothing left to judge" in CliRunner().invoke(app, command).output
