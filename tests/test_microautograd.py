"""microautograd: what its run must reach, which changes must break it, and the properties behind it."""

from __future__ import annotations

import gc
import math
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support import check_gradients, failed_bars, headline_of, load_script, run_main

SEEDS = (42, 1, 2)

BARS = (
    # Both engines and the trial are three opinions on the same gradients.
    "grad_max_diff <= 1e-12",
    "lockstep_max_diff <= 1e-10",
    "finite_difference_error <= 1e-5",
    "node_ratio >= 5000",
    "test_accuracy >= 0.87",
)


# === BROKEN TWINS ===


def value_that_passes_on(assign, *, reverse=True, in_order=True):
    """Value with its own backward(): assign(parent, part) keeps what arrives at a parent."""

    class Value(load_script("microautograd").Value):
        __slots__ = ()

        def backward(self):
            order, visited, stack = [], set(), [(self, False)]
            while stack:
                node, parents_are_listed = stack.pop()
                if parents_are_listed:
                    order.append(node)
                elif node not in visited:
                    visited.add(node)
                    if not in_order:
                        order.append(node)  # before its parents' other children were seen
                    else:
                        stack.append((node, True))
                    stack.extend([(parent, False) for parent in node.parents])
            self.grad = 1.0
            for node in reversed(order) if in_order else order:
                for parent, local_grad in zip(node.parents, node.local_grads):
                    assign(parent, node.grad * local_grad)

    # Operations of the base class make base nodes, so they are made anew for this class.
    for name in ("__add__", "__mul__", "relu", "exp", "log"):
        setattr(Value, name, remake(Value, name))
    return Value


def remake(cls, name):
    """The operation of the base class, with its result as a node of cls."""
    operation = getattr(cls.__mro__[1], name)

    def method(self, *others):
        result = operation(self, *others)
        return cls(result.data, result.parents, result.local_grads)

    return method


def add_up(parent, part):
    parent.grad += part


def keep_the_last(parent, part):
    parent.grad = part


def linear_with_transposed_weight_gradient(x, weight, bias=None):
    """linear whose d_weight is x^T d_out instead of d_out^T x, read row by row into its shape."""
    out = script.linear(x, weight, bias)
    honest = out.pass_back

    def pass_back(d_out):
        d_x, _, *rest = honest(d_out)
        flat = sum(script.matmul(script.transpose(x.data), d_out), [])
        width = len(weight.data[0])
        d_weight = [flat[i : i + width] for i in range(0, len(flat), width)]
        return d_x, d_weight, *rest

    if out.pass_back is not None:
        out.pass_back = pass_back
    return out


def relu_with_slope_one(x):
    """relu that forgets its slope on the way back."""
    out = script.relu(x)
    if out.pass_back is not None:
        out.pass_back = lambda d_out: (d_out,)
    return out


def mean_over_classes(logits, targets):
    """cross_entropy whose gradient forgets the onehot."""
    out = script.cross_entropy(logits, targets)

    def pass_back(d_out):
        factor = d_out[0][0] / len(targets)
        return ([[factor * p for p in script.softmax_row(row)] for row in logits.data],)

    if out.pass_back is not None:
        out.pass_back = pass_back
    return out


def descend_without_clearing():
    """The numbers' gradients are never cleared in lock step, those of the matrices are."""
    module = load_script("microautograd")
    honest = module.descend

    def descend(numbers, parameters):
        kept = [value.grad for matrix in numbers for row in matrix for value in row]
        honest(numbers, parameters)
        for value, grad in zip([v for m in numbers for row in m for v in row], kept):
            value.grad = grad

    return descend


def adam_without_clearing():
    """Adam that leaves the gradients where they are: each batch adds to all before it."""

    class Adam(load_script("microautograd").Adam):
        def step(self, lr):
            kept = [parameter.grad for parameter in self.parameters]
            super().step(lr)
            for parameter, grad in zip(self.parameters, kept):
                parameter.grad = grad

    return Adam


VARIANTS = {
    "missing_accumulation": {"Value": value_that_passes_on(keep_the_last)},
    "wrong_order": {"Value": value_that_passes_on(add_up, in_order=False)},
    "transposed_gradient": {"linear": linear_with_transposed_weight_gradient},
    "relu_slope_one": {"relu": relu_with_slope_one},
    "no_onehot": {"cross_entropy": mean_over_classes},
    "scalar_never_cleared": {"descend": descend_without_clearing()},
    "adam_never_cleared": {"Adam": adam_without_clearing()},
    "two_hidden_units": {"NUM_HIDDEN": 2},
}

TWINS = {
    "missing_accumulation": "grad_max_diff <= 1e-12",
    "wrong_order": "grad_max_diff <= 1e-12",
    "scalar_never_cleared": "lockstep_max_diff <= 1e-10",
    "transposed_gradient": "finite_difference_error <= 1e-5",
    "relu_slope_one": "finite_difference_error <= 1e-5",
    "no_onehot": "test_accuracy >= 0.87",
    "two_hidden_units": "node_ratio >= 5000",
}

script = load_script("microautograd")
