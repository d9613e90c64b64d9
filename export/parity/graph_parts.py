"""Cuts an engine's graph into parts that run one after another: prologue, layers, head.

The parts hold the graph's own nodes and initializers, each node exactly once, and pass values on
under the names that the graph gives them. A session over a part costs that part's weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtcoder.errors import EngineError

if TYPE_CHECKING:
    import onnx

_IN_LAYER = re.compile(r"layers\.(\d+)/(.*)")
_HEAD = ("sampled", "lm_head")


@dataclass(frozen=True, slots=True)
class GraphPart:
    """Some consecutive nodes of a graph, as a model of their own.

    Attributes:
        name: ``prologue``, ``layers.N`` or ``head``.
        model: the nodes and the initializers that they take; weights stay in the data file.
        inputs: graph inputs, and values of earlier parts.
        outputs: graph outputs, watched values, and what later parts take.
        passed: the values of this and earlier parts that later parts take.
    """

    name: str
    model: onnx.ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    passed: frozenset[str]


def cut_graph(
    model: onnx.ModelProto, layers: int, watched: Iterable[str] = ()
) -> tuple[GraphPart, ...]:
    """Return the prologue, one part for each of ``layers``, and the head.

    A layer ends behind the next layer's first norm: that node adds the layer's last branch to the
    residual stream, so each part gives the stream ``layers.N/output`` of its own layer.
    ``watched`` values become outputs of the parts that make them.

    Raises:
        EngineError: a node takes what a later part makes, or holds a graph of its own, or a
            watched value is made nowhere.
    """
    import onnx.utils

    graph = model.graph
    nodes: list[list[onnx.NodeProto]] = [[] for _ in range(layers + 2)]
    maker: dict[str, int] = {}
    for node in graph.node:
        index = _part_of(node.name, layers)
        nodes[index].append(node)
        maker |= {name: index for name in node.output if name}
    weights = {tensor.name for tensor in graph.initializer}
    extractor = onnx.utils.Extractor(model)
    wanted = set(watched) | {value.name for value in graph.output}
    if not wanted <= maker.keys():
        raise EngineError(f"the graph has no values {', '.join(sorted(wanted - maker.keys()))}")
    taken = [{name for node in part for name in node.input if name} for part in nodes]
    parts = []
    for index, part in enumerate(nodes):
        for node in part:
            _check(node, index, maker)
        made = {name for node in part for name in node.output if name}
        later = set[str]().union(*taken[index + 1 :])
        inputs = sorted(taken[index] - made - weights)
        outputs = sorted(made & (later | wanted))
        parts.append(
            GraphPart(
                name=_name(index, layers),
                model=extractor.extract_model(inputs, outputs),
                inputs=tuple(inputs),
                outputs=tuple(outputs),
                passed=frozenset(name for name in later if maker.get(name, layers + 2) <= index),
            )
        )
    return tuple(parts)


def _part_of(name: str, layers: int) -> int:
    found = _IN_LAYER.match(name)
    if found:
        layer = int(found[1])
        return layer if found[2].startswith("input_norm") else layer + 1
    if name.startswith("final_norm"):
        return layers
    return layers + 1 if name.startswith(_HEAD) else 0


def _name(index: int, layers: int) -> str:
    if index == 0:
        return "prologue"
    return "head" if index > layers else f"layers.{index - 1}"


def _check(node: onnx.NodeProto, index: int, maker: dict[str, int]) -> None:
    late = [name for name in node.input if maker.get(name, 0) > index]
    if late:
        raise EngineError(f"{node.name}: takes {late[0]}, which a later part of the graph makes")
    # The names that an inner graph takes from the outer one are not among the node's inputs.
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        raise EngineError(f"{node.name}: holds a graph of its own, which cannot be cut")
