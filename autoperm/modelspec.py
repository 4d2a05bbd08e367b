"""Models and inputs named by strings, for the command line."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoperm.errors import AutopermError

FORMS = "torchvision:NAME, timm:NAME, hf:DIR (a folder with config.json) or package.module:factory"
_SHAPE = re.compile(r"(\d+(?:x\d+)*)(?::(\w+))?")


def load_model(text: str) -> nn.Module:
    """The model that a string names, in eval mode; zoo models have random weights.

    Raises:
        AutopermError: the form is unknown, a package is missing, there is no such model, or a factory fails.
    """
    kind, _, name = text.partition(":")
    if not name:
        raise AutopermError(f"{text!r} does not name a model; use {FORMS}")
    loader = {"torchvision": _torchvision, "timm": _timm, "hf": _transformers}.get(kind)
    model = loader(name) if loader else _factory(kind, name)
    if not isinstance(model, nn.Module):
        raise AutopermError(f"{text} gives a {type(model).__name__}, not a torch.nn.Module")
    return model.eval()


def load_inputs(texts: Sequence[str], model_text: str, model: nn.Module) -> Any:
    """Example inputs from strings such as ``1x3x224x224``, ``1x16:int64`` or ``package.module:function``.

    Without any, zoo models get inputs of their default size.

    Raises:
        AutopermError: a string is neither, or the model has no default.
    """
    if not texts:
        return _default(model_text, model)
    made = [_input(text) for text in texts]
    return made[0] if len(made) == 1 else tuple(made)


def _input(text: str) -> Any:
    match = _SHAPE.fullmatch(text)
    if match is None:
        kind, _, name = text.partition(":")
        if not name:
            raise AutopermError(f"{text!r} is not an input; use a shape such as 1x3x224x224 or 1x16:int64, or package.module:function")
        return _factory(kind, name)
    shape = [int(n) for n in match[1].split("x")]
    dtype = getattr(torch, match[2] or "float32", None)
    if not isinstance(dtype, torch.dtype):
        raise AutopermError(f"{text!r}: there is no dtype {match[2]!r}; try float32, float64, int64 or bool")
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


def _default(text: str, model: nn.Module) -> Any:
    kind = text.partition(":")[0]
    generator = torch.Generator().manual_seed(0)
    if kind == "torchvision":
        size = getattr(model, "image_size", 224)
        return torch.randn(1, 3, size, size, generator=generator)
    if kind == "timm":
        return torch.randn(1, *model.default_cfg["input_size"], generator=generator)  # type: ignore[index, misc]
    if kind == "hf":
        return {"input_ids": torch.randint(0, model.config.vocab_size, (1, 16), generator=generator)}  # type: ignore[union-attr]
    raise AutopermError(f"{text} needs an example input: --input 1x3x224x224, or --input package.module:function")


def _import(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise AutopermError(f"{name} is not installed: pip install {extra}") from error
    except RuntimeError as error:
        raise AutopermError(
            f"{name} does not load beside this torch ({error}); install the {name} that was built for torch {torch.__version__}"
        ) from error


def _unknown(kind: str, name: str, known: Sequence[str]) -> AutopermError:
    close = difflib.get_close_matches(name, known, 5) or [k for k in known if name in k][:5]
    return AutopermError(f"{kind} has no model {name!r}" + (f"; close to it: {', '.join(close)}" if close else ""))


def _torchvision(name: str) -> nn.Module:
    models = _import("torchvision", "torchvision").models
    if name not in models.list_models():
        raise _unknown("torchvision", name, models.list_models())
    return models.get_model(name, weights=None)


def _timm(name: str) -> nn.Module:
    timm = _import("timm", "timm")
    if name not in timm.list_models():
        raise _unknown("timm", name, timm.list_models())
    return timm.create_model(name, pretrained=False)


def _transformers(folder: str) -> nn.Module:
    if not (Path(folder) / "config.json").is_file():
        raise AutopermError(f"hf:{folder} needs a folder with config.json; there is none at {Path(folder).resolve()}")
    transformers = _import("transformers", "transformers")
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    for name in config.architectures or ():
        if hasattr(transformers, name):
            return getattr(transformers, name)(config)
    return transformers.AutoModel.from_config(config)


def _factory(module: str, name: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise AutopermError(f"cannot import {module}: {error}. Models are {FORMS}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise AutopermError(f"{module} has no {name!r}")
        found = getattr(found, part)
    if isinstance(found, nn.Module) or not callable(found):
        return found
    needed = [p.name for p in inspect.signature(found).parameters.values() if p.default is p.empty and p.kind in (0, 1, 3)]
    if needed:
        raise AutopermError(f"{module}:{name} needs arguments ({', '.join(needed)}); give a factory that needs none")
    return found()
