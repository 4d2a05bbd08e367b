"""autoperm against rebasin 0.0.47 on the same pairs: is the output unchanged, how near do the weights come, how long.

    pip install --no-deps --target /some/folder rebasin==0.0.47 torchview==0.2.6 graphviz tqdm
    PYTHONPATH=/some/folder python benchmarks/peers.py [MODEL ...]

Two random initialisations with trained-like norm statistics, biases and norm weights. Each run is a process of its own
with a time limit. The output error is relative, on the permuted model b, in float32: 1e-6 is right, 1e-1 is not.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import autoperm
from autoperm.trained import randomize_
from tests.zoo import import_torchvision

MODELS = [
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf",
    "resnext50_32x4d", "shufflenet_v2_x1_0", "densenet121", "convnext_tiny", "vit_b_16", "swin_t",
]  # fmt: skip


def pair(name: str) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    models = import_torchvision().models
    built = []
    for seed in range(2):
        torch.manual_seed(seed)
        built.append(models.get_model(name).eval())
        randomize_(built[-1], seed)
    size = 224 if name in ("vit_b_16", "swin_t", "convnext_tiny") else 64
    return built[0], built[1], torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))


def distance(a: nn.Module, b: nn.Module) -> float:
    return sum(float(((x - y) ** 2).sum()) for x, y in zip(a.parameters(), b.parameters(), strict=True)) ** 0.5


def with_autoperm(a: nn.Module, b: nn.Module, x: torch.Tensor) -> nn.Module:
    return autoperm.align(a, b, x)


def with_rebasin(a: nn.Module, b: nn.Module, x: torch.Tensor) -> nn.Module:
    from rebasin import PermutationCoordinateDescent

    b = copy.deepcopy(b)
    descent = PermutationCoordinateDescent(a, b, x)
    descent.calculate_permutations()
    descent.apply_permutations()
    return b


TOOLS = {"autoperm": with_autoperm, "rebasin": with_rebasin}


@torch.no_grad()
def run_one(tool: str, name: str) -> dict[str, float]:
    a, b, x = pair(name)
    expected, before = b(x), distance(a, b)
    start = time.perf_counter()
    aligned = TOOLS[tool](a, b, x).eval()
    seconds = time.perf_counter() - start
    error = float((aligned(x) - expected).abs().max() / expected.abs().max())
    return {"error": error, "before": before, "after": distance(a, aligned), "seconds": seconds}


def in_process(tool: str, name: str, limit: float) -> dict[str, float] | str:
    command = [sys.executable, __file__, "--one", tool, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer in {limit:.0f} s"
    if done.returncode:
        return "crashed: " + (done.stderr.strip().splitlines() or ["?"])[-1][:80]
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--limit", type=float, default=200.0, help="seconds for each run")
    parser.add_argument("--one", nargs=2, metavar=("TOOL", "MODEL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(*options.one)))
        return
    for name in options.models:
        for tool in TOOLS:
            found = in_process(tool, name, options.limit)
            text = found if isinstance(found, str) else (
                f"error {found['error']:.0e}  distance {found['before']:.1f} -> {found['after']:.1f}  {found['seconds']:.1f} s"
            )  # fmt: skip
            print(f"{name:20s} {tool:9s} {text}", flush=True)


if __name__ == "__main__":
    main()
