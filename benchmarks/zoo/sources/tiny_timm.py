"""Small versions of timm's models, for the automorphism oracle: one block a stage, few channels, small images.

The arguments of a model's constructor are changed on the way, by their names; configurations among them field by field.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

#: By name of an argument, or of a field: numbers of blocks, of channels, of heads.
DEPTHS = frozenset(
    """
depth depths layers stages num_blocks num_blocks_list serial_depths block_config transformer_depths depth_token_only
cls_attn_layers d parallel_depth
""".split()  # noqa: SIM905
)
WIDTHS = frozenset(
    """
embed_dim embed_dims dims channels widths stem_chs stem_size stem_width base_dim base_dims hidden_sizes inner_dim
init_channels num_features head_hidden_size head_widths feature_dim growth_rate growth_rates num_init_features partial_dim key_dim
qk_dim neck_chans hidden_dim stem_hidden_dim initial_chs final_chs inplanes intermediate_size c out_chs mid_chs state_dim
rel_pos_dim dim
""".split()  # noqa: SIM905
)
HEADS = frozenset(["num_heads", "heads", "num_heads_inner", "num_heads_outer", "num_kv_heads", "attn_pool_num_heads"])
#: What else is smaller than usual; of a head that is a width of its own.
OTHERS = {"num_classes": 3, "patch_size": 4, "head_dim": 4, "group": 2, "position_embedding_size": 64, "pos_embed_grid_size": 4}
#: Sides of windows of attention.
WINDOWS = ("window_size", "window_sizes")
#: Multiples of all widths.
FACTORS = frozenset(["width", "width_mult", "width_factor", "scale"])
#: Configurations from which widths are computed.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "RegNetCfg": {"depth": 6, "w0": 8, "wa": 8.0, "wm": 2.0, "group_size": 4, "stem_width": 8},
}
#: Pixels of a side that are tried, the fewest first.
SIDES = (8, 12, 16, 24, 32, 48, 64)
#: What is made small: the number of stages, patches, the windows of attention.
VARIANTS = (
    {"few": True, "patches": True, "windows": False},
    {"few": True, "patches": True, "windows": True},
    {"few": False, "patches": True, "windows": False},
    {"few": True, "patches": False, "windows": False},
    {"few": False, "patches": False, "windows": False},
)
#: No smaller version has more parameters.
LARGEST = 80_000


def versions(name: str) -> Iterator[nn.Module]:
    """Small versions that run, their ``zoo_side`` the size of their images: with few stages first, and small images.

    On one pixel taps of kernels are not read, and a query has one key: parts of the weights are free there. So those whose
    features have more come first.

    Raises:
        ValueError: there is none.
    """
    import timm

    with torch.device("meta"):
        kind = type(timm.create_model(name))
    late, seen = [], set[Hashable]()
    for how in VARIANTS:
        least = 0
        while (model := _version(name, kind, how, least)) is not None:
            several = _pixels(model, model.zoo_side) > 1
            least = 2 * model.zoo_side if several else model.zoo_side + 1
            key = model.zoo_side, tuple(p.shape for p in model.parameters())
            if key not in seen:
                seen.add(key)
                if several:
                    yield model
                else:
                    late.append(model)
    yield from late
    if not seen:
        raise ValueError(f"{name} has no version of {LARGEST} parameters or fewer that runs")


def _version(name: str, kind: type, how: Mapping[str, bool], least: int) -> nn.Module | None:
    """The version with the smallest images of at least so many pixels a side."""
    import timm

    for side in SIDES:
        if side >= least:
            with contextlib.suppress(Exception), _changed(kind, functools.partial(_smaller, side=side, **how)):
                torch.manual_seed(0)
                model = timm.create_model(name).eval()
                if sum(p.numel() for p in model.parameters()) <= LARGEST and _runs(model, side):
                    model.zoo_side = side
                    return model
    return None


@contextlib.contextmanager
def _changed(kind: type, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[None]:
    """A class whose constructor gets other arguments in the meantime."""
    own = kind.__init__
    signature = inspect.signature(own)

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        named = {k: v for k, v in bound.arguments.items() if k != "self"}
        rest = [k for k, p in signature.parameters.items() if p.kind is p.VAR_KEYWORD]
        listed = [named.pop(k) for k, p in signature.parameters.items() if p.kind is p.VAR_POSITIONAL]
        for k in rest:
            named |= named.pop(k)
        own(self, *itertools.chain.from_iterable(listed), **change(named))

    kind.__init__ = init  # type: ignore[misc]
    try:
        yield
    finally:
        kind.__init__ = own  # type: ignore[misc]


def _smaller(named: Mapping[str, Any], side: int, few: bool, patches: bool, windows: bool) -> dict[str, Any]:
    found = {name: _value(name, value, patches) for name, value in named.items()}
    if windows:
        found |= {name: _capped(found[name], 2) for name in WINDOWS if found.get(name)}
    if "img_size" in found:
        found["img_size"] = (side, side) if isinstance(found["img_size"], tuple) else side
    depths = next((found[k] for k in ("depths", "depth", "layers", "stages") if isinstance(found.get(k), (tuple, list))), ())
    if few and len(depths) > 2:  # two stages
        found = {k: v[:2] if isinstance(v, (tuple, list)) and len(v) == len(depths) else v for k, v in found.items()}
    return found


def _value(name: str, value: Any, patches: bool) -> Any:
    if (known := CONFIGURATIONS.get(type(value).__name__)) is not None:
        return dataclasses.replace(value, **known)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **{k: _value(k, v, patches) for k, v in fields.items()})
    if isinstance(value, (tuple, list)) and any(dataclasses.is_dataclass(v) for v in value):
        return type(value)(_value("", v, patches) for v in value)
    if name == "block_args" and isinstance(value, list):
        return _block_args(value)
    if name in FACTORS and isinstance(value, (int, float)):
        return 0.1
    if name == "patch_size" and not patches:
        return value
    if name in OTHERS and isinstance(value, int):
        return min(value, OTHERS[name])
    if name in WIDTHS:
        return _widths(value)
    return _capped(value, 1) if name in DEPTHS else _capped(value, 2) if name in HEADS else value


def _block_args(stages: Any) -> Any:
    """Of EfficientNets: one block a stage, each a dictionary."""
    order = sorted({block["out_chs"] for stage in stages for block in stage})
    return [[{**block, "out_chs": 8 + 2 * order.index(block["out_chs"])} for block in stage[:1]] for stage in stages]


def _capped(value: Any, most: int) -> Any:
    """Numbers, in however many lists, of at most so much."""
    if isinstance(value, (tuple, list)):
        return type(value)(_capped(v, most) for v in value)
    return min(value, most) if isinstance(value, int) else value


def _widths(value: Any) -> Any:
    """8, 12, 16 ... in the order of what they were."""
    if isinstance(value, (tuple, list)) and all(isinstance(v, int) for v in value):
        order = sorted(set(value))
        return type(value)(8 + 4 * order.index(v) if v > 8 else v for v in value)
    return min(value, 8) if isinstance(value, int) and not isinstance(value, bool) else value


@torch.no_grad()
def _pixels(model: nn.Module, side: int) -> float:
    """How many positions the features have."""
    features = model.forward_features(torch.randn(1, 3, side, side))
    if not isinstance(features, torch.Tensor) or features.ndim < 3:
        return 1
    return features.numel() / model.num_features


@torch.no_grad()
def _runs(model: nn.Module, side: int) -> bool:
    return bool(model(torch.randn(1, 3, side, side)).isfinite().all())
