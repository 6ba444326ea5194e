"""Every operation of common/engine.py with random inputs: one table for two test files.

test_engine.py compares the gradients of each case with central differences, parity/test_engine.py
its value and gradients with PyTorch. A case is made from a random number generator and a size
(rows, columns); it is a list of matrices, which become Tensors, and the remaining arguments.
"""

from __future__ import annotations

import ast
import math
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from support import COMMON

from common import engine
from common.engine import Tensor

Matrix = list[list[float]]


class Case(NamedTuple):
    """The matrices that an operation is given as Tensors, and its other arguments by name."""

    inputs: list[Matrix]
    settings: dict[str, Any]

    def run(self, name: str, tensors: list[Tensor]) -> Tensor:
        """The operation on these tensors."""
        function = (
            getattr(Tensor, name[7:]) if name.startswith("Tensor.") else getattr(engine, name)
        )
        settings = dict(self.settings)
        if "seed" in settings:  # a fresh generator for each call: all calls draw the same numbers
            settings["rng"] = random.Random(settings.pop("seed"))
        return function(*tensors, **settings)


def operations() -> set[str]:
    """What makes a Tensor: the functions of engine.py that return one, and Tensor's operators."""
    found = set()
    for node in ast.parse((COMMON / "engine.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == "Tensor":
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            found |= {f"Tensor.{method.name}" for method in methods if returns_tensor(method)}
        elif isinstance(node, ast.FunctionDef) and returns_tensor(node):
            found.add(node.name)
    return found


def returns_tensor(function: ast.FunctionDef) -> bool:
    """True if the function's return annotation is Tensor."""
    return function.returns is not None and ast.unparse(function.returns).strip("'\"") == "Tensor"


def matrix(rng: random.Random, rows: int, columns: int) -> Matrix:
    """Random numbers that keep a distance from each other and from zero, where kinks lie."""
    count = rows * columns
    gap = min(0.4, 6.0 / count)
    numbers = [gap * (k - (count - 1) / 2 + rng.uniform(-0.2, 0.2)) for k in range(count)]
    numbers = [x + math.copysign(0.25 * gap, x) for x in numbers]
    if count == 1:
        numbers = [rng.uniform(0.3, 2.0)]
    rng.shuffle(numbers)
    return [numbers[i * columns : (i + 1) * columns] for i in range(rows)]


def one(**settings: Any) -> Callable:
    """A case of one matrix."""
    return lambda rng, n, m: Case([matrix(rng, n, m)], settings)


def two(rng: random.Random, n: int, m: int) -> Case:
    return Case([matrix(rng, n, m), matrix(rng, n, m)], {})


def wide(rng: random.Random, n: int, m: int) -> Case:
    """Two columns at least: with one, softmax and normalize are constant."""
    return Case([matrix(rng, n, m + 1)], {})


def picked_rows(rng: random.Random, n: int, m: int) -> Case:
    ids = [rng.randrange(n) for _ in range(rng.randint(1, 2 * n))]
    return Case([matrix(rng, n, m)], {"ids": ids})


def bags(rng: random.Random, n: int, m: int) -> Case:
    chosen = [
        [rng.randrange(n) for _ in range(rng.randint(0, 4))] for _ in range(rng.randint(1, 4))
    ]
    return Case([matrix(rng, n, m)], {"bags": [*chosen, [], [0, 0]]})


def layer(with_bias: bool) -> Callable:
    def make(rng: random.Random, n: int, m: int) -> Case:
        out = rng.randint(1, 4)
        inputs = [matrix(rng, n, m), matrix(rng, out, m)]
        return Case([*inputs, matrix(rng, 1, out)] if with_bias else inputs, {})

    return make


def product(rng: random.Random, n: int, m: int) -> Case:
    inner = rng.randint(1, 4)
    return Case([matrix(rng, n, inner), matrix(rng, inner, m)], {})


def other_rows(rng: random.Random, n: int, m: int) -> Case:
    columns = rng.choice([c for c in range(1, n * m + 1) if n * m % c == 0])
    return Case([matrix(rng, n, m)], {"columns": columns})


def filters(with_bias: bool) -> Callable:
    def make(rng: random.Random, n: int, m: int) -> Case:
        channels, out, kernel, padding = [rng.randint(*b) for b in ((1, 2), (1, 3), (1, 3), (0, 2))]
        least = max(1, kernel - 2 * padding)
        height, width = rng.randint(least, least + 2), max(least, min(m, 4))
        x = matrix(rng, min(n, 2), channels * height * width)
        inputs = [x, matrix(rng, out, channels * kernel * kernel)]
        settings = {"image_shape": (channels, height, width), "padding": padding}
        if with_bias:
            return Case([*inputs, matrix(rng, 1, out)], settings)
        return Case(inputs, {"bias": None, **settings})

    return make


def tiles(rng: random.Random, n: int, m: int) -> Case:
    channels, kernel = rng.randint(1, 2), rng.randint(1, 3)
    height, width = kernel + rng.randint(0, 4), max(kernel, m)
    x = matrix(rng, min(n, 2), channels * height * width)
    return Case([x], {"image_shape": (channels, height, width), "kernel": kernel})


def dropped(rng: random.Random, n: int, m: int) -> Case:
    p = rng.uniform(0.1, 0.7)
    for seed in range(1000):
        draws = random.Random(seed)
        if any([draws.random() >= p for _ in range(n * m)]):  # else nothing is left to check
            break
    return Case([matrix(rng, n, m)], {"p": p, "seed": seed})


def normed(*, weight: bool, bias: bool) -> Callable:
    def make(rng: random.Random, n: int, m: int) -> Case:
        inputs = [matrix(rng, n, m), *[matrix(rng, 1, m) for _ in range(weight + bias)]]
        return Case(inputs, {"eps": rng.choice([1e-5, 0.1])})

    return make


def attention(rng: random.Random, n: int, m: int) -> Case:
    num_heads, keys = rng.randint(1, 3), rng.randint(1, 5)
    spans = []
    for _ in range(n):
        first = rng.randrange(keys)
        spans.append((first, rng.randint(first + 1, keys)))
    d, e = min(m, 3), rng.randint(1, 3)
    inputs = [matrix(rng, rows, num_heads * w) for rows, w in ((n, d), (keys, d), (keys, e))]
    return Case(inputs, {"num_heads": num_heads, "spans": spans})


def classes(rng: random.Random, n: int, m: int) -> Case:
    return Case([matrix(rng, n, m + 1)], {"targets": [rng.randrange(m + 1) for _ in range(n)]})


def soft_targets(rng: random.Random, n: int, m: int) -> Case:
    goals = [[rng.choice([0.0, 1.0, rng.random()]) for _ in range(m)] for _ in range(n)]
    return Case([matrix(rng, n, m)], {"targets": goals})


def plain_target(rng: random.Random, n: int, m: int) -> Case:
    return Case([matrix(rng, n, m)], {"target": matrix(rng, n, m)})


def sine_slope(x: float, _: float) -> float:
    return math.cos(x)


# name of the operation -> its cases, by name
CASES: dict[str, dict[str, Callable[[random.Random, int, int], Case]]] = {
    "Tensor.__add__": {"": two},
    "Tensor.__sub__": {"": two},
    "Tensor.__mul__": {"tensors": two, "constant": one(other=-1.75)},
    "embedding": {"": picked_rows},
    "embedding_bag": {"": bags},
    "linear": {"": layer(False), "bias": layer(True)},
    "mm": {"": product},
    "t": {"": one()},
    "reshape": {"": other_rows},
    "conv2d": {"": filters(False), "bias": filters(True)},
    "max_pool2d": {"": tiles},
    "dropout": {"": dropped},
    "relu": {"": one()},
    "leaky_relu": {"": one(), "slope": one(negative_slope=0.2)},
    "elementwise": {"": one(function=math.sin, slope=sine_slope)},
    "tanh": {"": one()},
    "sigmoid": {"": one()},
    "silu": {"": one()},
    "gelu": {"": one()},
    "softmax": {"": wide},
    "rms_norm": {"": normed(weight=False, bias=False), "weight": normed(weight=True, bias=False)},
    "layer_norm": {"": normed(weight=True, bias=True)},
    "normalize": {"": wide, "short rows": one(eps=20.0)},
    "scaled_dot_product_attention": {"": attention},
    "cross_entropy": {"": classes},
    "log_prob": {"": classes},
    "binary_cross_entropy_with_logits": {"": soft_targets},
    "mse_loss": {"": plain_target},
}
EVERY_CASE = [(name, variant) for name, variants in CASES.items() for variant in variants]
IDS = [f"{name}-{variant}" if variant else name for name, variant in EVERY_CASE]


def new_case(name: str, variant: str, seed: int, rows: int, columns: int) -> Case:
    """The case of this name, with its numbers drawn from seed."""
    return CASES[name][variant](random.Random(seed), rows, columns)
