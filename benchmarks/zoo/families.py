"""The smallest model of each timm family: ``python -m benchmarks.zoo.families`` writes sources/timm_families.json.

Models are built on the meta device. Those whose size cannot be the smallest go first to last by the size that their
names suggest, and a family ends after a few that are larger than the smallest so far.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict

import torch

from benchmarks.zoo.measure import count
from benchmarks.zoo.sources.timm_ import CACHE
from tests.zoo import import_torchvision

#: What small models are called, smallest first.
SMALL = ("atto", "femto", "zepto", "pico", "nano", "xxs", "xx_small", "xxtiny", "xtiny", "xs", "x_small", "tiny", "_t", "mini",
         "_small", "_s", "18", "_0",
         "050", "32")  # fmt: skip
PATIENCE = 4


def write() -> None:
    """Add the families that the file lacks, one by one: a run that is stopped goes on where it was."""
    import_torchvision()
    import timm

    families: dict[str, list[str]] = defaultdict(list)
    for name in timm.list_models():
        if not name.startswith("test_"):  # miniatures for timm's own tests, of other families' architectures
            families[timm.models.model_entrypoint(name).__module__.rsplit(".", 1)[-1]].append(name)
    known = json.loads(CACHE.read_text()) if CACHE.exists() else {}
    for family in sorted(families.keys() - known):
        known[family] = _smallest_of(sorted(families[family], key=_promise))
        CACHE.write_text(_text(known))


def _text(known: dict[str, dict[str, object]]) -> str:
    """JSON with a family a line."""
    return "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(known.items())) + "\n}\n"


def _promise(name: str) -> tuple[int, float, int, str]:
    rank = next((k for k, word in enumerate(SMALL) if word in name), len(SMALL))
    numbers = [float(n) for n in re.findall(r"\d+", name)]
    return rank, sum(numbers), len(name), name


def _smallest_of(names: list[str]) -> dict[str, object]:
    import timm

    best: dict[str, object] = {"model": names[0], "parameters": float("inf")}
    since = 0
    for name in names:
        try:
            with torch.device("meta"):
                n = count(timm.create_model(name, pretrained=False))
        except Exception:
            continue  # one that cannot be built on the meta device is not counted
        since = 0 if n < best["parameters"] else since + 1  # type: ignore[operator]
        if not since:
            best = {"model": name, "parameters": n}
        if since >= PATIENCE:
            break
    return best


if __name__ == "__main__":
    write()
