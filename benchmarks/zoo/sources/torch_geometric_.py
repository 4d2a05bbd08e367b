"""torch_geometric: its layers on one small graph, between two linear layers, and its small ready-made models.

    pip install --no-deps --target /tmp/zoo-packages torch_geometric psutil xxhash
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.entry import Entry
from tests.zoo import import_torchvision

WIDTH, UNITS, NODES = 8, 12, 6
#: Source and target of each edge: a ring and two chords, both ways.
EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 2, 1, 2, 3, 4, 5, 0, 3, 5], [1, 2, 3, 4, 5, 0, 3, 5, 0, 1, 2, 3, 4, 5, 0, 2]])


def mlp(n: int, units: int) -> nn.Module:
    return nn.Sequential(nn.Linear(n, 10), nn.ReLU(), nn.Linear(10, units))


def _degrees() -> Tensor:
    return torch.bincount(torch.bincount(EDGES[1]))


_SCALED = {"aggregators": ["mean", "max", "std"], "scalers": ["identity", "amplification"]}
#: Name -> the layer, from the package's nn; what it returns has UNITS features, or WIDTH where it cannot be chosen.
LAYERS: dict[str, Callable[[Any], nn.Module]] = {
    "GCNConv": lambda g: g.GCNConv(WIDTH, UNITS),
    "GCNConv_plain": lambda g: g.GCNConv(WIDTH, UNITS, add_self_loops=False, normalize=False),
    "ChebConv": lambda g: g.ChebConv(WIDTH, UNITS, K=3),
    "SAGEConv": lambda g: g.SAGEConv(WIDTH, UNITS),
    "SAGEConv_max": lambda g: g.SAGEConv(WIDTH, UNITS, aggr="max", project=True),
    "GraphConv": lambda g: g.GraphConv(WIDTH, UNITS),
    "GatedGraphConv": lambda g: g.GatedGraphConv(UNITS, num_layers=2),
    "ResGatedGraphConv": lambda g: g.ResGatedGraphConv(WIDTH, UNITS),
    "GATConv": lambda g: g.GATConv(WIDTH, 3, heads=4),
    "GATConv_mean": lambda g: g.GATConv(WIDTH, UNITS, heads=4, concat=False),
    "GATv2Conv": lambda g: g.GATv2Conv(WIDTH, 3, heads=4),
    "SuperGATConv": lambda g: g.SuperGATConv(WIDTH, 3, heads=4),
    "TransformerConv": lambda g: g.TransformerConv(WIDTH, 3, heads=4, beta=True),
    "AGNNConv": lambda g: g.AGNNConv(),
    "TAGConv": lambda g: g.TAGConv(WIDTH, UNITS, K=2),
    "GINConv": lambda g: g.GINConv(mlp(WIDTH, UNITS), train_eps=True),
    "GINEConv": lambda g: g.GINEConv(mlp(WIDTH, UNITS), edge_dim=3),
    "ARMAConv": lambda g: g.ARMAConv(WIDTH, UNITS, num_stacks=2, num_layers=2),
    "SGConv": lambda g: g.SGConv(WIDTH, UNITS, K=2),
    "SSGConv": lambda g: g.SSGConv(WIDTH, UNITS, alpha=0.2, K=2),
    "APPNP": lambda g: g.APPNP(K=2, alpha=0.1),
    "MFConv": lambda g: g.MFConv(WIDTH, UNITS, max_degree=4),
    "RGCNConv": lambda g: g.RGCNConv(WIDTH, UNITS, num_relations=3),
    "FastRGCNConv": lambda g: g.FastRGCNConv(WIDTH, UNITS, num_relations=3, num_bases=2),
    "RGATConv": lambda g: g.RGATConv(WIDTH, UNITS, num_relations=3),
    "FiLMConv": lambda g: g.FiLMConv(WIDTH, UNITS),
    "PointNetConv": lambda g: g.PointNetConv(mlp(WIDTH + 3, 9), mlp(9, UNITS)),
    "PointTransformerConv": lambda g: g.PointTransformerConv(WIDTH, UNITS),
    "GMMConv": lambda g: g.GMMConv(WIDTH, UNITS, dim=3, kernel_size=2),
    "NNConv": lambda g: g.NNConv(WIDTH, UNITS, mlp(3, WIDTH * UNITS)),
    "CGConv": lambda g: g.CGConv(WIDTH, dim=3),
    "EdgeConv": lambda g: g.EdgeConv(mlp(2 * WIDTH, UNITS)),
    "FeaStConv": lambda g: g.FeaStConv(WIDTH, UNITS, heads=2),
    "PPFConv": lambda g: g.PPFConv(mlp(WIDTH + 4, 9), mlp(9, UNITS)),
    "HypergraphConv": lambda g: g.HypergraphConv(WIDTH, UNITS),
    "LEConv": lambda g: g.LEConv(WIDTH, UNITS),
    "PNAConv": lambda g: g.PNAConv(WIDTH, UNITS, deg=_degrees(), towers=2, **_SCALED),
    "ClusterGCNConv": lambda g: g.ClusterGCNConv(WIDTH, UNITS),
    "GENConv": lambda g: g.GENConv(WIDTH, UNITS, learn_t=True),
    "PDNConv": lambda g: g.PDNConv(WIDTH, UNITS, edge_dim=3, hidden_channels=5),
    "EGConv": lambda g: g.EGConv(WIDTH, UNITS, num_heads=3, num_bases=2),
    "GeneralConv": lambda g: g.GeneralConv(WIDTH, UNITS, attention=True, heads=2),
    "LGConv": lambda g: g.LGConv(),
    "MixHopConv": lambda g: g.MixHopConv(WIDTH, 4, powers=[0, 1, 2]),
    "AntiSymmetricConv": lambda g: g.AntiSymmetricConv(WIDTH),
    "DirGNNConv": lambda g: g.DirGNNConv(g.SAGEConv(WIDTH, UNITS)),
    "GPSConv": lambda g: g.GPSConv(WIDTH, g.GINConv(mlp(WIDTH, WIDTH)), heads=2),
    "BatchNorm": lambda g: g.BatchNorm(WIDTH),
    "LayerNorm": lambda g: g.LayerNorm(WIDTH),
    "GraphNorm": lambda g: g.GraphNorm(WIDTH),
    "InstanceNorm": lambda g: g.InstanceNorm(WIDTH, affine=True),
    "PairNorm": lambda g: g.PairNorm(),
    "MeanSubtractionNorm": lambda g: g.MeanSubtractionNorm(),
    "DiffGroupNorm": lambda g: g.DiffGroupNorm(WIDTH, groups=2),
    "MLP": lambda g: g.MLP([WIDTH, 10, UNITS]),
    "GCN": lambda g: g.GCN(WIDTH, 10, num_layers=2, out_channels=UNITS, norm="batch"),
    "GraphSAGE": lambda g: g.GraphSAGE(WIDTH, 10, num_layers=2, out_channels=UNITS, jk="cat"),
    "GIN": lambda g: g.GIN(WIDTH, 10, num_layers=2, out_channels=UNITS),
    "GAT": lambda g: g.GAT(WIDTH, 12, num_layers=2, out_channels=UNITS, heads=4, v2=True),
    "PNA": lambda g: g.PNA(WIDTH, 10, num_layers=2, out_channels=UNITS, deg=_degrees(), **_SCALED),
    "EdgeCNN": lambda g: g.EdgeCNN(WIDTH, 10, num_layers=2, out_channels=UNITS),
    "GraphUNet": lambda g: g.GraphUNet(WIDTH, 10, UNITS, depth=1),
    "Set2Set": lambda g: g.Set2Set(WIDTH, processing_steps=2),
    "SoftmaxAggregation": lambda g: g.SoftmaxAggregation(learn=True, channels=WIDTH),
    "AttentionalAggregation": lambda g: g.AttentionalAggregation(mlp(WIDTH, 1)),
    "SetTransformerAggregation": lambda g: g.SetTransformerAggregation(WIDTH, heads=2),
}  # fmt: skip


class OnGraph(nn.Module):
    """Linear, a layer, ReLU, linear. The layer gets what its forward names: edges, their features, positions, types."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.first, self.layer = nn.Linear(3, WIDTH), layer
        draw = torch.Generator().manual_seed(7)
        known = {
            "edge_index": EDGES, "hyperedge_index": EDGES, "edge_attr": torch.rand(EDGES.shape[1], 3, generator=draw),
            "pseudo": torch.rand(EDGES.shape[1], 3, generator=draw), "edge_type": torch.arange(EDGES.shape[1]) % 3,
            "pos": torch.rand(NODES, 3, generator=draw), "normal": torch.rand(NODES, 3, generator=draw),
            "index": torch.tensor([0, 0, 0, 1, 1, 1]),
        }  # fmt: skip
        names = inspect.signature(layer.forward).parameters
        self.extra = [n for n in known if n in names and not (n == "edge_attr" and _no_edge_features(layer))]
        for name in self.extra:
            self.register_buffer(name, known[name], persistent=False)
        with torch.no_grad():
            units = self.hidden(torch.zeros(NODES, 3)).shape[-1]
        self.last = nn.Linear(units, 2)

    def hidden(self, x: Tensor) -> Tensor:
        found = self.layer(self.first(x), **{name: getattr(self, name) for name in self.extra})
        return found[0] if isinstance(found, tuple) else found

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(x).relu())


def _no_edge_features(layer: nn.Module) -> bool:
    return type(layer).__name__ not in {"GINEConv", "NNConv", "CGConv", "PDNConv", "GMMConv"}


def entries(full: bool) -> Sequence[Entry]:
    """All of them; ``full`` makes no difference."""
    import_torchvision()
    import torch_geometric.nn as layers

    def build(make: Callable[[Any], nn.Module]) -> Callable[[], nn.Module]:
        return lambda: OnGraph(make(layers).eval())

    return [Entry(name, name.split("_")[0], build(make), lambda model: torch.randn(NODES, 3), counted=False)
            for name, make in LAYERS.items()]  # fmt: skip
