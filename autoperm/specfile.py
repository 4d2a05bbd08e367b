"""Specs as versioned JSON."""

from __future__ import annotations

import json
from os import PathLike
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from autoperm.caches import Cache
from autoperm.errors import SpecError
from autoperm.files import write_atomically
from autoperm.layout import Exchanged, Factor, Factors, Group, Label, Layout, Leaf
from autoperm.provenance import Provenance, Step

if TYPE_CHECKING:
    from autoperm.spec import PermutationSpec

FORMAT = "autoperm-spec"
#: 2 for specs with stacks, which readers of version 1 would not see; 1 for all others.
VERSION = 2


def content(spec: PermutationSpec) -> dict[str, Any]:
    """The groups and how they act, as plain data."""
    return {
        "leaves": [[leaf.name, leaf.size, leaf.pinned] for leaf in spec.leaves],
        "groups": [
            {
                "name": g.name,
                "leaves": list(g.leaves),
                "parents": list(g.parents),
                "parent": g.parent,
                "moves": [list(m) for m in g.moves],
            }
            for g in spec.groups
        ],
        "tensors": {name: _layout_out(layout) for name, layout in spec.layouts.items()},
        "aliases": dict(spec.aliases),
        "parameters": sorted(spec.parameters),
        **({"stacks": [[name, [list(names) for names in parts]] for name, parts in spec.stacks.items()]} if spec.stacks else {}),
    }


def _layout_out(layout: Layout) -> dict[str, Any]:
    return {
        "shape": list(layout.shape),
        "pieces": [[_runs(p) for p in pieces] for pieces in layout.pieces],
        "cells": [
            [list(cell), [[_listed(dim.relabel), *([f.leaf, _listed(f.relabel)] for f in dim)] for dim in dims]]
            for cell, dims in layout.cells.items()
        ],
        "exchanged": [
            [list(cell), e.orbit, [[x.dim, x.leaf, x.at] for x in e.labels]] for cell, e in layout.exchanged.items()
        ],
    }


def _listed(relabel: np.ndarray | None) -> list[int] | None:
    return None if relabel is None else relabel.tolist()


def _array(relabel: list[int] | None) -> np.ndarray | None:
    return None if relabel is None else np.asarray(relabel, dtype=np.int64)


def _runs(positions: np.ndarray) -> list[list[int]]:
    """Ascending positions as runs [start, stop)."""
    breaks = np.nonzero(np.diff(positions) != 1)[0] + 1
    return [[int(run[0]), int(run[-1]) + 1] for run in np.split(positions, breaks)]


def save(spec: PermutationSpec, path: str | PathLike[str], *, overwrite: bool = True) -> None:
    document = {"format": FORMAT, "version": VERSION if spec.stacks else 1, **content(spec)}
    document["unsupported"] = [vars(u) if hasattr(u, "__dict__") else u for u in spec.unsupported]
    document["caches"] = [[cache.path, list(cache.stays), cache.absent] for cache in spec.caches]
    document["provenance"] = _provenance_out(spec.provenance)
    write_atomically(path, json.dumps(document).encode(), overwrite=overwrite)


def load(path: str | PathLike[str]) -> PermutationSpec:
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except OSError as error:
        raise SpecError(f"cannot read the spec {path}: {error.strerror}") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not a spec: it is not JSON ({error}). Save one with spec.save(path).") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise SpecError(f"{path} is not an autoperm spec: it has no format {FORMAT!r}")
    if document.get("version") not in range(1, VERSION + 1):
        raise SpecError(
            f"{path} has spec version {document.get('version')}, this autoperm reads versions up to {VERSION}: "
            "update autoperm, or infer the spec again"
        )
    try:
        return _spec_in(document)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise SpecError(f"{path} is corrupt: {type(error).__name__}: {error}. Infer the spec again.") from error


def _spec_in(document: dict[str, Any]) -> PermutationSpec:
    from autoperm.inference.engine import Unsupported
    from autoperm.spec import PermutationSpec

    leaves = [Leaf(name, int(size), pinned) for name, size, pinned in document["leaves"]]
    _check_whole(document)
    return PermutationSpec(
        leaves=leaves,
        groups=[_group_in(g, leaves) for g in document["groups"]],
        layouts={name: _layout_in(t, len(leaves)) for name, t in document["tensors"].items()},
        aliases=document["aliases"],
        parameters=frozenset(document["parameters"]),
        unsupported=[Unsupported(**{**u, "shapes": tuple(tuple(s) for s in u["shapes"])}) for u in document["unsupported"]],
        provenance=_provenance_in(document["provenance"]),
        stacks={name: tuple(tuple(names) for names in parts) for name, parts in document.get("stacks", ())},
        caches=[Cache(path, tuple(stays), absent) for path, stays, absent in document.get("caches", ())],
    )


def _check_whole(document: dict[str, Any]) -> None:
    """Every name has its tensor, every tensor its name, and every leaf that is not pinned its group.

    Raises:
        ValueError: something is missing.
    """
    tensors, aliases, parameters = document["tensors"], document["aliases"], document["parameters"]
    if set(aliases.values()) != set(tensors):
        raise ValueError("the names and the tensors do not fit each other")
    if not isinstance(parameters, list) or not set(parameters) <= set(tensors) or (tensors and not parameters):
        raise ValueError("parameters that are no tensors, or none at all")
    if any(len(parts) != tensors[name]["shape"][0] for name, parts in document.get("stacks", ()) if name in tensors):
        raise ValueError("the stacks and the tensors do not fit each other")
    moved = {leaf for group in document["groups"] for leaf in group["leaves"]}
    free = {k for k, (_, size, pinned) in enumerate(document["leaves"]) if pinned is None and size > 1}
    if moved != free:
        raise ValueError("the leaves and the groups do not fit each other")


def _group_in(g: dict[str, Any], leaves: list[Leaf]) -> Group:
    def product(indices: list[int]) -> int:
        return int(np.prod([leaves[i].size for i in indices], dtype=object)) if indices else 1

    moves = tuple((name, int(dim)) for name, dim in g["moves"])
    size, copies = product(g["leaves"]), product(g["parents"])
    return Group(g["name"], size, tuple(g["leaves"]), tuple(g["parents"]), moves, copies, g["parent"])


def _layout_in(t: dict[str, Any], count: int) -> Layout:
    def factor(entry: list[Any]) -> Factor:
        leaf, relabel = entry
        if not 0 <= leaf < count:
            raise ValueError(f"leaf {leaf} of {count}")
        return Factor(leaf, _array(relabel))

    pieces = tuple(
        tuple(np.concatenate([np.arange(*run) for run in runs]) if runs else np.arange(0) for runs in dim) for dim in t["pieces"]
    )
    cells = {
        tuple(cell): tuple(Factors((factor(f) for f in dim[1:]), _array(dim[0])) for dim in dims)
        for cell, dims in t["cells"]
    }
    exchanged = {
        tuple(cell): Exchanged(orbit, tuple(Label(dim, factor([leaf, None]).leaf, at) for dim, leaf, at in labels))
        for cell, orbit, labels in t.get("exchanged", ())
    }
    return Layout(tuple(t["shape"]), pieces, cells, exchanged)


def _provenance_out(provenance: Provenance) -> dict[str, Any]:
    steps: dict[Step, int] = {}
    edges = []
    for a, b, data in provenance.graph.edges(data=True):
        edges.append([a, b, data["weight"], steps.setdefault(data["step"], len(steps))])
    return {
        "steps": [[s.kind, s.op, s.module_path, s.source] for s in steps],
        "edges": edges,
        "axes": [[name, dim, axis] for (name, dim), axis in provenance.axes.items()],
        "pins": [[axis, reason] for axis, reason in provenance.pins.items()],
    }


def _provenance_in(data: dict[str, Any]) -> Provenance:
    steps = [Step(*s) for s in data["steps"]]
    graph = nx.Graph()
    for a, b, weight, k in data["edges"]:
        graph.add_edge(a, b, weight=weight, step=steps[k])
    axes = {(name, dim): axis for name, dim, axis in data["axes"]}
    return Provenance(graph, axes, {axis: reason for axis, reason in data["pins"]})
