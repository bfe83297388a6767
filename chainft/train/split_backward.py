"""The backward pass of a stage in two parts: first the gradients that another rank waits for, later those of weights.

The graph of a stage is walked once. Nodes from which an input can be reached are *on the way*; the first part computes
them alone and notes the gradient that came to each one that has weights at its side. The second part goes on from
there, in groups of weights that depend on each other, so that nothing on the way is computed twice. Unlike torch's own
(`torch.distributed.pipelining`), graphs may have several outputs and parts that several blocks share, as those of
encoder-decoders and of DeBERTa have. Idea: Qi et al. 2024, "Zero Bubble Pipeline Parallelism", section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

Gradients = tuple[Tensor | None, ...]


class SplitBackward:
    """One micro-batch's backward pass through a stage."""

    def __init__(self, outputs: Sequence[GradientEdge], gradients: Sequence[Tensor | None]) -> None:
        """`gradients`: of each output; None: it is a scalar, of which the gradient is 1."""
        self._outputs = list(outputs)
        self._gradients = list(gradients)
        self._groups: list[_Group] = []

    def inputs(self, inputs: Sequence[Tensor]) -> Gradients:
        """The gradients of the inputs, leaves that require one; None where no output depends on it."""
        graph = _Graph([edge.node for edge in self._outputs], inputs)
        boundary = {node: weights for node, weights in graph.boundary()}
        self._groups = _groups(boundary)
        came: dict[Node, Gradients] = {}
        handles = [node.register_prehook(_noting(came, node)) for node in boundary]
        try:
            found = torch.autograd.grad(
                self._outputs, list(inputs), self._gradients, retain_graph=True, allow_unused=True
            )
        finally:
            for handle in handles:
                handle.remove()
        for group in self._groups:
            group.came = {node: came[node] for node in group.nodes if node in came}
        aside = [number for number, edge in enumerate(self._outputs) if edge.node not in graph.on_way]
        self._outputs = [self._outputs[number] for number in aside]
        self._gradients = [self._gradients[number] for number in aside]
        return found

    def weights(self) -> None:
        """Add the gradients of all weights to theirs."""
        for group in self._groups:
            group.add()
        self._groups = []
        if self._outputs:  # They depend on weights only.
            torch.autograd.backward(self._outputs, self._gradients)


class _Graph:
    """The graph of a stage, from its outputs to its inputs and weights."""

    def __init__(self, roots: Sequence[Node], inputs: Sequence[Tensor]) -> None:
        self._inputs = {get_gradient_edge(tensor).node for tensor in inputs}
        self._children: dict[Node, list[Node]] = {}
        self._weights: dict[Node, frozenset[Node]] = {}
        """Node beside the way -> the leaves of the weights below it."""
        self.on_way: set[Node] = set()
        for node in self._from_leaves(roots):
            children = self._children[node]
            if node in self._inputs or any(child in self.on_way for child in children):
                self.on_way.add(node)
            else:
                own = [node] if not children and hasattr(node, "variable") else []
                self._weights[node] = frozenset(own).union(*(self._weights[child] for child in children))

    def boundary(self) -> Iterator[tuple[Node, frozenset[Node]]]:
        """Nodes on the way that weights hang on not by another one on the way, and the leaves of these weights."""
        for node in self.on_way:
            aside = [child for child in self._children[node] if child not in self.on_way]
            weights = frozenset[Node]().union(*(self._weights[child] for child in aside))
            if weights:
                yield node, weights

    def _from_leaves(self, roots: Sequence[Node]) -> Iterator[Node]:
        """Every node after all that it leads to."""
        pending = list(roots)
        done: set[Node] = set()
        while pending:
            node = pending[-1]
            if node not in self._children:
                self._children[node] = [child for child, _ in node.next_functions if child is not None]
                pending += [child for child in self._children[node] if child not in self._children]
                continue
            pending.pop()
            if node not in done:
                done.add(node)
                yield node


class _Group:
    """Weights whose gradients depend on each other, and the nodes on the way from which they come."""

    def __init__(self, nodes: list[Node], weights: set[Node]) -> None:
        self.nodes = nodes
        self.weights = weights
        self.came: dict[Node, Gradients] = {}
        """Node -> the gradients that came to it, one for each of its outputs."""

    def add(self) -> None:
        edges = [
            (GradientEdge(node, number), gradient)
            for node, gradients in self.came.items()
            for number, gradient in enumerate(gradients)
            if gradient is not None
        ]
        if not edges:
            return
        variables: list[Any] = [node.variable for node in self.weights]  # type: ignore[attr-defined]
        # Of two nodes one may lead to the other: each gets what came to it in the first part, and no more.
        handles = [node.register_prehook(_giving(gradients)) for node, gradients in self.came.items()]
        try:
            torch.autograd.backward(
                [edge for edge, _ in edges],
                [gradient for _, gradient in edges],
                inputs=variables,
                # Groups may share a part of the graph, which goes when the last one is dropped.
                retain_graph=True,
            )
        finally:
            for handle in handles:
                handle.remove()


def _groups(boundary: dict[Node, frozenset[Node]]) -> list[_Group]:
    """Nodes that have weights in common, together."""
    group_of: dict[Node, _Group] = {}
    for node, weights in boundary.items():
        joined = _Group([node], set(weights))
        for other in {id(group_of[weight]): group_of[weight] for weight in weights if weight in group_of}.values():
            joined.nodes += other.nodes
            joined.weights |= other.weights
        group_of |= dict.fromkeys(joined.weights, joined)
    return list({id(group): group for group in group_of.values()}.values())


def _noting(came: dict[Node, Gradients], node: Node) -> Callable[..., None]:
    def hook(gradients: Gradients) -> None:
        came[node] = gradients

    return hook


def _giving(gradients: Gradients) -> Callable[..., Gradients]:
    return lambda _: gradients
