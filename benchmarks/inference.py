"""How long inference takes, as a share of the time to trace the model.

    python benchmarks/inference.py                 the ten torchvision models, median and worst ratio
    python benchmarks/inference.py --scaling       a transformer of 2 to 256 layers on the meta device
    python benchmarks/inference.py --llama         a 70B-parameter Llama config on the meta device

Each number is a ratio within one run: propagation (rules, partition, classes, groups) against tracing.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from autoperm.capture import capture
from autoperm.infer import infer_captured
from tests.zoo import import_torchvision

MODELS = [
    "resnet18", "resnet50", "vgg16_bn", "densenet121", "resnext50_32x4d",
    "mobilenet_v2", "shufflenet_v2_x1_0", "convnext_tiny", "vit_b_16", "swin_t",
]  # fmt: skip


def timed(model: nn.Module, inputs: object, repeats: int) -> dict[str, float]:
    """Best of ``repeats`` for tracing and for propagation, and the size of the graph."""
    traces, inferences = [], []
    for _ in range(repeats):
        gc.collect()
        start = time.perf_counter()
        captured = capture(model, inputs)
        traces.append(time.perf_counter() - start)
        start = time.perf_counter()
        spec = infer_captured(captured)
        inferences.append(time.perf_counter() - start)
    nodes = len(captured.graph.nodes)
    return {
        "nodes": nodes,
        "trace": min(traces),
        "infer": min(inferences),
        "ratio": min(inferences) / min(traces),
        "groups": len(spec.groups),
        "log10_order": spec.log10_order,
    }


def show(name: str, row: dict[str, float]) -> None:
    print(
        f"{name:22s} {row['nodes']:6.0f} nodes  trace {row['trace']:7.3f} s  infer {row['infer']:7.3f} s  "
        f"ratio {row['ratio']:.3f}  {row['groups']:.0f} groups  order 10^{row['log10_order']:.1f}",
        flush=True,
    )


def torchvision_models(repeats: int) -> dict[str, dict[str, float]]:
    torchvision = import_torchvision()
    rows = {}
    capture(torchvision.models.resnet18(), torch.zeros(1, 3, 64, 64))  # torch's own lazy imports
    for name in MODELS:
        with torch.device("meta"):
            model = torchvision.models.get_model(name).eval()
        rows[name] = timed(model, torch.zeros(1, 3, 224, 224), repeats)
        show(name, rows[name])
    ratios = [row["ratio"] for row in rows.values()]
    print(f"\nratio of propagation to tracing: median {statistics.median(ratios):.3f}, worst {max(ratios):.3f}")
    return rows


class Block(nn.Module):
    """A pre-norm transformer block with fused attention weights."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, c)
        x = x + self.out(y)
        return x + self.mlp(self.norm2(x))


def scaling(repeats: int) -> dict[str, dict[str, float]]:
    rows = {}
    for layers in (2, 4, 8, 16, 32, 64, 128, 256):
        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(16, 512), *(Block(512, 8) for _ in range(layers)), nn.Linear(512, 10))
        rows[f"{layers} layers"] = timed(model, torch.zeros(2, 12, 16), repeats)
        show(f"{layers} layers", rows[f"{layers} layers"])
    first, last = rows["16 layers"], rows["256 layers"]
    grown = (last["infer"] / last["nodes"]) / (first["infer"] / first["nodes"])
    print(f"\nseconds per node at 256 layers over those at 16 layers: {grown:.2f} (1 is linear growth)")
    return rows


def llama() -> dict[str, dict[str, float]]:
    import_torchvision()  # transformers imports it where it is installed
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8,
        vocab_size=32000,
    )  # fmt: skip
    start = time.perf_counter()
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    billions = sum(p.numel() for p in model.parameters()) / 1e9
    row = timed(model, {"input_ids": torch.zeros(1, 16, dtype=torch.long)}, 1)
    show("Llama 70B", row)
    total, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\n{billions:.1f}B parameters: {total:.1f} s in all, building included, peak memory {peak:.2f} GiB")
    return {"llama-70b": {**row, "seconds": total, "peak_gib": peak}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--llama", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the numbers there")
    options = parser.parse_args()
    if options.llama:
        rows = llama()
    else:
        rows = scaling(options.repeats) if options.scaling else torchvision_models(options.repeats)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
