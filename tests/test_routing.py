"""Sparse forms of one mixture of experts: the same group as that of its dense form, which the oracle confirms."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import autoperm
from autoperm.capture import capture
from tests.oracle import true_order
from tests.trained import soundness, trained_like

TOKENS, SIZE, EXPERTS, HIDDEN, CHOSEN = 5, 3, 3, 2, 2
ORDER = math.factorial(EXPERTS) * math.factorial(HIDDEN) ** EXPERTS


class Mixture(nn.Module):
    """Two of three experts for every token; ``mix`` says how tokens and experts come together."""

    def __init__(self, mix: Callable[[Mixture, Tensor, Tensor, Tensor], Tensor]):
        super().__init__()
        self.router, self.mix = nn.Linear(SIZE, EXPERTS), mix
        self.up = nn.Parameter(torch.randn(EXPERTS, 2 * HIDDEN, SIZE))
        self.down = nn.Parameter(torch.randn(EXPERTS, SIZE, HIDDEN))
        self.bias = nn.Parameter(torch.randn(EXPERTS, SIZE))

    def forward(self, x: Tensor) -> Tensor:
        weight, number = self.router(x).softmax(-1).topk(CHOSEN, -1)
        return self.mix(self, x, weight, number)


def gated(x: Tensor) -> Tensor:
    gate, value = x.chunk(2, -1)
    return torch.sigmoid(gate) * value


def dense(m: Mixture, x: Tensor, weight: Tensor, number: Tensor) -> Tensor:
    chosen = nn.functional.one_hot(number, EXPERTS).to(x.dtype)
    share = (chosen * weight[..., None]).sum(1)
    hidden = gated(torch.einsum("ehd,td->teh", m.up, x))
    return (share[..., None] * (torch.einsum("edh,teh->ted", m.down, hidden) + m.bias)).sum(1)


def looked_up(m: Mixture, x: Tensor, weight: Tensor, number: Tensor) -> Tensor:
    chosen, tokens = number.reshape(-1), x.repeat_interleave(CHOSEN, dim=0)
    hidden = gated(torch.bmm(m.up[chosen], tokens[..., None]).squeeze(-1))
    found = torch.bmm(m.down[chosen], hidden[..., None]).squeeze(-1) + m.bias[chosen]
    return (found * weight.reshape(-1, 1)).view(TOKENS, CHOSEN, SIZE).sum(1)


def _in_order(m: Mixture, x: Tensor, weight: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted answers with the tokens of each expert side by side, and the order."""
    chosen, order = number.reshape(-1).sort()
    hidden = gated(torch.bmm(m.up[chosen], x[order // CHOSEN][..., None]).squeeze(-1))
    found = torch.bmm(m.down[chosen], hidden[..., None]).squeeze(-1) + m.bias[chosen]
    return found * weight.reshape(-1)[order].unsqueeze(-1), order


def sorted_and_back(m: Mixture, x: Tensor, weight: Tensor, number: Tensor) -> Tensor:
    found, order = _in_order(m, x, weight, number)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    return found[back].view(TOKENS, CHOSEN, SIZE).sum(1)


def sorted_twice(m: Mixture, x: Tensor, weight: Tensor, number: Tensor) -> Tensor:
    found, order = _in_order(m, x, weight, number)
    return found[order.argsort()].view(TOKENS, CHOSEN, SIZE).sum(1)


def sorted_and_added(m: Mixture, x: Tensor, weight: Tensor, number: Tensor) -> Tensor:
    found, order = _in_order(m, x, weight, number)
    return torch.zeros_like(x).index_add(0, order // CHOSEN, found)


def token_table(m: Mixture, x: Tensor, weight: Tensor, number: Tensor) -> Tensor:
    """Tokens by a table of their numbers, which is sorted along."""
    chosen, order = number.reshape(-1).sort()
    token = torch.arange(TOKENS).repeat_interleave(CHOSEN)[order]
    hidden = gated(torch.bmm(m.up[chosen], x[token].unsqueeze(2)).squeeze(2))
    found = torch.einsum("tdh,th->td", m.down[chosen], hidden) + m.bias[chosen]
    return torch.zeros_like(x).index_add(0, token, found * weight.reshape(-1)[order][:, None])


FORMS = [dense, looked_up, sorted_and_back, sorted_twice, sorted_and_added, token_table]


def model_of(mix: Callable[..., Tensor]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = trained_like(Mixture(mix), seed=1)
    return model, torch.randn(TOKENS, SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("mix", FORMS)
def test_every_form_has_the_whole_group(mix: Callable[..., Tensor]) -> None:
    model, x = model_of(mix)
    torch.testing.assert_close(model(x), model_of(dense)[0](x), rtol=1e-12, atol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("error", autoperm.UnsupportedOpWarning)
        spec = autoperm.infer(model, x)
    assert soundness(model, spec, x, samples=10) < 1e-10
    assert spec.order == ORDER
    assert [(g.size, g.copies, g.parent) for g in spec.groups] == [(EXPERTS, 1, None), (HIDDEN, EXPERTS, spec.groups[0].name)]


@pytest.mark.parametrize("mix", [dense, looked_up])
def test_the_oracle_says_the_same(mix: Callable[..., Tensor]) -> None:
    model, x = model_of(mix)
    assert true_order(capture(model, x)) == ORDER


def _read(what: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def mix(m: Mixture, x: Tensor, weight: Tensor, number: Tensor) -> Tensor:
        found, order = _in_order(m, x, weight, number)
        return what(found, order)

    return mix


@pytest.mark.parametrize(
    "what",
    [
        lambda found, order: found,  # the order itself is seen
        lambda found, order: found.cumsum(0),
        lambda found, order: found * torch.arange(TOKENS * CHOSEN)[:, None],
        lambda found, order: found[:3].sum(0),
        lambda found, order: found.sum(0) + order.double()[:3],
        lambda found, order: found[order],  # by the order, not by its inverse
        lambda found, order: found.view(TOKENS, CHOSEN, SIZE).sum(1),  # neighbours in the order are no token's
        lambda found, order: (found @ found.T).softmax(-1),
        lambda found, order: found.sum(0) + order[0].double(),
    ],
    ids=["seen", "running", "positions", "first", "numbers", "twice", "neighbours", "products", "number"],
)  # fmt: skip
def test_where_the_order_matters_the_experts_stay(what: Callable[[Tensor, Tensor], Tensor]) -> None:
    model, x = model_of(_read(what))
    spec = autoperm.infer(model, x)
    assert soundness(model, spec, x, samples=10) < 1e-10
    assert ("router.weight", 0) in spec.pinned
    assert spec.pinned["router.weight", 0] == "rows are listed in an order that depends on it"


@pytest.mark.parametrize("mix", [
    lambda m, x, weight, number: _in_order(m, x, weight, number)[0].sum(0),
    lambda m, x, weight, number: _in_order(m, x, weight, number)[0].amax(0) + number.reshape(-1).sort()[0].bincount(minlength=3)[m.router(x).argmax(-1)].sum(),
], ids=["sum", "counts"])  # fmt: skip
def test_symmetric_functions_of_a_list(mix: Callable[..., Tensor]) -> None:
    model, x = model_of(mix)
    spec = autoperm.infer(model, x)
    assert soundness(model, spec, x, samples=10) < 1e-10


@pytest.mark.parametrize("padding", [None, 0], ids=["words", "padding-first"])
@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_mixtral(implementation: str, padding: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the eager form each expert is code of its own, which is alike for all of them once rows are seen not to be counted.

    A text that starts with the padding token has equal scores there, of experts that all make zeros of zeros; but the eager
    form goes by which experts are chosen at all.
    """
    pytest.importorskip("transformers")
    from tests.zoo import import_torchvision

    import_torchvision()
    import transformers
    from transformers.integrations import moe

    monkeypatch.setattr(moe, "_can_use_grouped_mm", lambda *factors: False)  # the kernel for CPUs has no float64
    config = transformers.MixtralConfig(
        hidden_size=8, intermediate_size=5, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=4,
        vocab_size=11, num_local_experts=4, num_experts_per_tok=2, pad_token_id=padding,
    )  # fmt: skip
    config._experts_implementation = implementation
    torch.manual_seed(0)
    model = trained_like(transformers.MixtralModel(config), seed=1)
    if padding is not None:
        torch.nn.init.zeros_(model.embed_tokens.weight[padding])
    inputs = {"input_ids": torch.arange(20).reshape(2, 10) % 11, "use_cache": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", autoperm.ValueDependentWarning)
        spec = autoperm.infer(model, inputs)
    verdict = autoperm.verify(model, spec, inputs)
    assert verdict.relative < 1e-10
    attention = 2 * math.factorial(4) ** 2
    stay = implementation == "eager" and padding is not None
    assert spec.order == attention * (1 if stay else math.factorial(4)) * math.factorial(5) ** 4
