"""Forwards that take gradients: forces of energies, scores, Jacobians, steps of training."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import autoperm
from autoperm.capture.gradients import attention_backward, convolution_backward


class Force(nn.Module):
    """The gradient of the summed output by the input."""

    def __init__(self, energy: nn.Module) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            return torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]


class Attention(nn.Module):
    """One head over the positions of (batch, 3, 4), written out."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(4, 4) for _ in "qkvo")

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.q(x) @ self.k(x).transpose(1, 2)).softmax(-1)
        return self.o((weights @ self.v(x)).tanh())


class Heads(nn.Module):
    """Two heads of two dims over the positions of (batch, 3, 4), by torch's own attention."""

    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o, self.options = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), options

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (2, 2)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.o(nn.functional.scaled_dot_product_attention(q, k, v, **self.options).transpose(1, 2).flatten(2).tanh())


def mlp(act: nn.Module, *between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), *between, act, nn.Linear(5, 1))


_ACTIVATIONS = [
    nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.ELU(), nn.SELU(), nn.CELU(), nn.LeakyReLU(),
    nn.Softplus(), nn.LogSigmoid(), nn.Mish(), nn.Hardswish(), nn.Hardtanh(), nn.Hardsigmoid(), nn.ReLU6(), nn.Softsign(), nn.PReLU(),
]  # fmt: skip
UNITS = math.factorial(5)

#: A network, the shape of its input, the order of the group.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    **{repr(act): (lambda a=act: mlp(a), (2, 3), UNITS) for act in _ACTIVATIONS},
    "LayerNorm": (lambda: mlp(nn.Tanh(), nn.LayerNorm(5)), (2, 3), UNITS),
    "RMSNorm": (lambda: mlp(nn.Tanh(), nn.RMSNorm(5)), (2, 3), UNITS),
    "BatchNorm": (lambda: mlp(nn.Tanh(), nn.BatchNorm1d(5)), (2, 3), UNITS),
    "GroupNorm": (lambda: nn.Sequential(nn.Linear(3, 6), nn.GroupNorm(3, 6), nn.Tanh(), nn.Linear(6, 1)), (2, 3), 6 * 2**3),
    "softmax": (lambda: mlp(nn.Softmax(-1)), (2, 3), UNITS),
    "log-softmax": (lambda: mlp(nn.LogSoftmax(-1)), (2, 3), UNITS),
    "GLU": (lambda: nn.Sequential(nn.Linear(3, 10), nn.GLU(), nn.Linear(5, 1)), (2, 3), UNITS),
    "attention": (Attention, (2, 3, 4), math.factorial(4) ** 3),
    "heads": (Heads, (2, 3, 4), 2 * 2**4 * math.factorial(4)),
    "causal heads": (lambda: Heads(is_causal=True), (2, 3, 4), 2 * 2**4 * math.factorial(4)),
    "convolution": (
        lambda: nn.Sequential(nn.Conv2d(2, 5, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(5, 2, 2), nn.Flatten()),
        (2, 2, 6, 5), UNITS * 2),
    "grouped convolution": (
        lambda: nn.Sequential(nn.Conv1d(4, 6, 2, groups=2, dilation=2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 1)), (2, 4, 5), 36),
    "transposed convolution": (
        lambda: nn.Sequential(nn.ConvTranspose1d(2, 5, 3, stride=2), nn.Tanh(), nn.Conv1d(5, 1, 1)), (2, 2, 4), UNITS),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_forces_have_the_symmetries_of_their_energy(name: str) -> None:
    make, shape, order = NETWORKS[name]
    torch.manual_seed(0)
    model, x = Force(make()).eval(), torch.randn(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an op without a rule
        spec = autoperm.infer(model, x)
    assert spec.order == order
    checked = autoperm.verify(model, spec, x)
    assert checked.relative < 1e-12


def _jacobian(net: nn.Module, x: Tensor) -> Tensor:
    return torch.func.vmap(torch.func.jacrev(net))(x)


def _hessian(net: nn.Module, x: Tensor) -> Tensor:
    return torch.func.vmap(torch.func.hessian(lambda v: net(v).sum()))(x)


def _forward(net: nn.Module, x: Tensor) -> Tensor:
    return torch.func.jvp(net, (x,), (torch.ones_like(x),))[1]


def _step(net: nn.Module, x: Tensor) -> Tensor:
    """The output after a step of gradient descent on the input's own norm."""
    weights = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    with torch.enable_grad():
        loss = torch.func.functional_call(net, weights, (x,)).square().mean()
        gradients = torch.autograd.grad(loss, list(weights.values()))
    stepped = {name: w - 0.1 * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
    return torch.func.functional_call(net, stepped, (x,))


class Derived(nn.Module):
    def __init__(self, net: nn.Module, way: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.way = net, way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self.net, x)


@pytest.mark.parametrize("way", [_jacobian, _hessian, _forward, _step])
def test_other_derivatives_too(way: Callable[[nn.Module, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, x = Derived(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), way), torch.randn(4, 3)
    spec = autoperm.infer(model, x)
    assert spec.order == UNITS * (2 if way is _hessian else 1)  # the Hessian is of the sum of both outputs
    assert not spec.unsupported
    assert autoperm.verify(model, spec, x).relative < 1e-12


@pytest.mark.parametrize("transposed, groups", itertools.product([False, True], [1, 2]))
def test_gradients_of_convolutions_are_torchs(transposed: bool, groups: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    weight = torch.randn(4, 6 // groups, 3, 2, dtype=torch.float64) if transposed else torch.randn(6, 4 // groups, 3, 2).double()
    for stride, padding, dilation in itertools.product([[1, 1], [2, 3]], [[0, 0], [1, 1]], [[1, 1], [2, 1]]):
        how = (stride, padding, dilation, transposed, [0, 0], groups)
        y = torch.ops.aten.convolution(x, weight, None, *how)
        g = torch.randn_like(y)
        for mask in ([True, False, True], [True, True, True]):
            expected = torch.ops.aten.convolution_backward(g, x, weight, [6], *how, mask)
            found = convolution_backward(g, x, weight, [6], *how, mask)
            if mask[1] and (transposed or groups > 1):
                assert found is NotImplemented
                continue
            for a, b in zip(found, expected, strict=True):
                assert (a is None) == (b is None or b.numel() == 0)
                assert a is None or float((a - b).abs().max()) < 1e-12


@pytest.mark.parametrize("causal, masked, scale", [(False, False, None), (True, False, 0.3), (False, True, None)])
def test_gradients_of_attention_are_torchs(causal: bool, masked: bool, scale: float | None) -> None:
    torch.manual_seed(0)
    q, k, v, g = (torch.randn(2, 3, 5, 4, dtype=torch.float64) for _ in range(4))
    mask = torch.randn(2, 1, 5, 5, dtype=torch.float64) if masked else None
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, attn_mask=mask, scale=scale)
    how = {"attn_mask": mask, "scale": scale}
    expected = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(g, q, k, v, out, lse, 0.0, causal, **how)
    found = attention_backward(g, q, k, v, out, lse, 0.0, causal, **how)
    assert max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) < 1e-12
    assert attention_backward(g, q, k, v, out, lse, 0.1, causal, **how) is NotImplemented
    assert attention_backward(g, q, k[:, :1], v[:, :1], out, lse, 0.0, causal, **how) is NotImplemented
