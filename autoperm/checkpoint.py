"""Reading and writing weights: safetensors, sharded safetensors, and torch.save files without running code."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from autoperm.errors import CheckpointError
from autoperm.files import write_atomically

logger = logging.getLogger(__name__)

_NESTS = ("state_dict", "model_state_dict", "model", "module")
_SAFE = (".safetensors", ".sft")


def load_checkpoint(path: str | PathLike[str]) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, on the CPU.

    Reads ``*.safetensors``, a shard index ``*.index.json``, and files of ``torch.save`` with ``weights_only=True``.
    Nests such as ``{"state_dict": ...}`` and the prefix ``module.`` of DataParallel are removed, which is logged.

    Raises:
        CheckpointError: the file is missing, unreadable, holds more than weights, or holds none.
    """
    source = Path(path)
    if not source.is_file():
        raise CheckpointError(f"there is no checkpoint {source}")
    if source.name.endswith(".index.json"):
        found: Any = _load_shards(source)
    elif source.suffix in _SAFE:
        found = _load_safetensors(source)
    else:
        found = _load_torch(source)
    tensors = _tensors(_unnest(found, source))
    if not tensors:
        raise CheckpointError(f"{source} holds no tensors by name; expected a state dict, as torch.save(model.state_dict(), path) writes")
    return tensors


def save_checkpoint(state: Mapping[str, torch.Tensor], path: str | PathLike[str], *, overwrite: bool = False) -> None:
    """Write tensors by name, atomically; safetensors by suffix, else with ``torch.save``.

    Raises:
        CheckpointError: the file exists and ``overwrite`` is false, or it cannot be written.
    """
    target = Path(path)
    if target.suffix in _SAFE:
        from safetensors.torch import save_file

        # safetensors refuses tensors that share memory, as tied weights do
        apart = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
        write_atomically(target, lambda temporary: save_file(apart, str(temporary)), overwrite=overwrite)
    else:
        plain = {name: tensor.detach() for name, tensor in state.items()}
        write_atomically(target, lambda temporary: torch.save(plain, temporary), overwrite=overwrite)


def _load_safetensors(source: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(source))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read {source} as safetensors: {error}") from error


def _load_shards(source: Path) -> dict[str, torch.Tensor]:
    try:
        names = sorted(set(json.loads(source.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, OSError) as error:
        raise CheckpointError(f"{source} is not a shard index: it has no weight_map ({error})") from error
    found: dict[str, torch.Tensor] = {}
    for name in names:
        shard = source.parent / name
        if not shard.is_file():
            raise CheckpointError(f"{source} names the shard {name}, which is not beside it")
        found.update(_load_safetensors(shard) if shard.suffix in _SAFE else _load_torch(shard))
    return found


def _load_torch(source: Path) -> Any:
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{source} holds more than weights, and loading it would run code from the file, which autoperm never does. "
            "Where you trust it, load it yourself and save the weights alone: torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # torch raises what it likes on a file that is not one of its own
        raise CheckpointError(f"cannot read {source} as a checkpoint: {type(error).__name__}: {str(error).splitlines()[0]}") from error


def _unnest(found: Any, source: Path) -> Any:
    for key in _NESTS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            logger.info("%s: reading its entry %r", source, key)
            found = found[key]
    if isinstance(found, Mapping) and found and all(str(name).startswith("module.") for name in found):
        logger.info("%s: removing the prefix 'module.'", source)
        found = {str(name).removeprefix("module."): value for name, value in found.items()}
    return found


def _tensors(found: Any) -> dict[str, torch.Tensor]:
    if not isinstance(found, Mapping):
        return {}
    return {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
