"""Files appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from os import PathLike
from pathlib import Path

from autoperm.errors import CheckpointError


def write_atomically(path: str | PathLike[str], data: bytes | Callable[[Path], None], *, overwrite: bool) -> None:
    """Write bytes, or what a function writes to the path it is given, and rename it into place.

    Raises:
        CheckpointError: the file exists and ``overwrite`` is false, or it cannot be written.
    """
    target = Path(path)
    refuse_existing(target, overwrite=overwrite)
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix)
        os.close(handle)
    except OSError as error:
        raise CheckpointError(f"cannot write {target}: {error.strerror}. Is the folder {target.parent} there?") from error
    temporary = Path(name)
    try:
        if callable(data):
            data(temporary)
        else:
            temporary.write_bytes(data)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, target)
    except OSError as error:
        raise CheckpointError(f"cannot write {target}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def refuse_existing(path: str | PathLike[str], *, overwrite: bool) -> None:
    """Raise CheckpointError where a file would be lost."""
    if Path(path).exists() and not overwrite:
        raise CheckpointError(f"{path} exists and is kept; pass overwrite=True (--force on the command line) to replace it")
