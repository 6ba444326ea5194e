"""One small GPT trained by four engines, step by step in turn, to measure how their speeds compare.

    published  one object per number, a recursive topological sort, the cyclic collector at work:
               the scalar engine as it is usually written
    stack      the same numbers with an explicit stack and the cyclic collector off
    matrix     common/engine.py: one node per matrix
    torch      PyTorch in float64 on one thread, if it is installed

All start from the same weights, see the same names and must report the same losses. Each engine
has a process of its own, so that none pays for another's objects; measure() lets them work in
turns. Called by tools/bench.py --engine.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

# The model of microgpt.py: one block, RMSNorm without gains, ReLU, no biases, untied head.
NUM_SYMBOLS, CONTEXT, WIDTH, NUM_HEADS, MLP = 27, 16, 16, 4, 64
SHAPES = {
    "token_embedding": (NUM_SYMBOLS, WIDTH),
    "position_embedding": (CONTEXT, WIDTH),
    "query": (WIDTH, WIDTH),
    "key": (WIDTH, WIDTH),
    "value": (WIDTH, WIDTH),
    "attention_out": (WIDTH, WIDTH),
    "mlp_in": (MLP, WIDTH),
    "mlp_out": (WIDTH, MLP),
    "head": (NUM_SYMBOLS, WIDTH),
}
SPREAD = 0.08
BETAS, EPS, NORM_EPS = (0.85, 0.99), 1e-8, 1e-5
RATE, SCHEDULE = 0.01, 1000  # the learning rate falls to 0 over this many steps
SEED = 42

NUM_NAMES = 12  # the names of one pass; every pass sees the same ones again
# Many, since a scalar engine's step gets dearer with the number of steps taken (the record's
# cost_relative_to_matrix_by_round shows it), and a whole training takes hundreds.
ROUNDS = 25
SLOW, FAST = ("published", "stack"), ("matrix", "torch")  # one step, or one whole pass, in a turn
TOLERANCE = 1e-9  # between the engines' losses

Matrix = list[list[float]]


def make_weights() -> dict[str, Matrix]:
    """The start of all engines: name -> [rows][columns], 4,192 numbers."""
    rng = random.Random(SEED)
    return {
        name: [[rng.gauss(0.0, SPREAD) for _ in range(columns)] for _ in range(rows)]
        for name, (rows, columns) in SHAPES.items()
    }


def make_examples(root: Path, count: int) -> list[list[int]]:
    """count names as symbols, 0 before and after, at most CONTEXT + 1 long."""
    names = sorted(set((root / "data" / "names.txt").read_text(encoding="ascii").split()))
    random.Random(SEED).shuffle(names)
    return [[0, *[ord(c) - 96 for c in name], 0][: CONTEXT + 1] for name in names[:count]]


# === THE SCALAR ENGINE ===


class Value:
    """A number that remembers its parents, and its derivative with respect to each of them."""

    __slots__ = ("data", "grad", "parents", "slopes")

    def __init__(self, data: float, parents: tuple = (), slopes: tuple = ()) -> None:
        self.data = data
        self.grad = 0.0
        self.parents = parents
        self.slopes = slopes

    def __add__(self, other: Value | float) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other: Value | float) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, power: float) -> Value:
        return Value(self.data**power, (self,), (power * self.data ** (power - 1),))

    def exp(self) -> Value:
        result = math.exp(self.data)
        return Value(result, (self,), (result,))

    def log(self) -> Value:
        return Value(math.log(self.data), (self,), (1.0 / self.data,))

    def relu(self) -> Value:
        return Value(max(0.0, self.data), (self,), (float(self.data > 0.0),))

    def __neg__(self) -> Value:
        return self * -1.0

    def __sub__(self, other: Value | float) -> Value:
        return self + (-other)

    def __truediv__(self, other: Value | float) -> Value:
        return self * other**-1

    __radd__ = __add__
    __rmul__ = __mul__

    def backward(self, order: list[Value]) -> None:
        """Pass gradients down an order in which every number stands after its parents."""
        self.grad = 1.0
        for value in reversed(order):
            for parent, slope in zip(value.parents, value.slopes):
                parent.grad += slope * value.grad


def recursive_order(root: Value) -> list[Value]:
    """The topological order as everybody writes it. visit refers to itself through its closure:
    that cycle holds the list, and with it the whole graph, until the cyclic collector comes.
    """
    order: list[Value] = []
    visited = set()

    def visit(value: Value) -> None:
        if value not in visited:
            visited.add(value)
            for parent in value.parents:
                visit(parent)
            order.append(value)

    visit(root)
    return order


def stack_order(root: Value) -> list[Value]:
    """The same order from an explicit stack: no cycle, so reference counting frees the graph."""
    order: list[Value] = []
    visited = {root}
    stack = [(root, iter(root.parents))]
    while stack:
        value, parents = stack[-1]
        for parent in parents:
            if parent not in visited:
                visited.add(parent)
                stack.append((parent, iter(parent.parents)))
                break
        else:  # all parents are listed
            order.append(value)
            stack.pop()
    return order


def scalar_linear(x: list[Value], weight: list[list[Value]]) -> list[Value]:
    return [sum(w * v for w, v in zip(row, x)) for row in weight]


def scalar_norm(x: list[Value]) -> list[Value]:
    scale = (sum(v * v for v in x) / len(x) + NORM_EPS) ** -0.5
    return [v * scale for v in x]


def scalar_softmax(scores: list[Value]) -> list[Value]:
    largest = max(score.data for score in scores)
    exponentials = [(score - largest).exp() for score in scores]
    total = sum(exponentials)
    return [value / total for value in exponentials]


def scalar_attention(q: list[Value], keys: list, values: list) -> list[Value]:
    """One row q [WIDTH] reads all rows of keys and values so far."""
    size = WIDTH // NUM_HEADS
    out = []
    for start in range(0, WIDTH, size):
        places = range(start, start + size)
        scores = [sum(q[j] * key[j] for j in places) / size**0.5 for key in keys]
        weights = scalar_softmax(scores)
        out += [sum(w * value[j] for w, value in zip(weights, values)) for j in places]
    return out


def scalar_loss(weights: dict, symbols: list[int]) -> Value:
    """Mean loss of one name, symbol after symbol, keys and values collected on the way."""
    keys, values, losses = [], [], []
    for place, (symbol, target) in enumerate(zip(symbols, symbols[1:])):
        token, position = weights["token_embedding"][symbol], weights["position_embedding"][place]
        x = scalar_norm([t + p for t, p in zip(token, position)])
        normed = scalar_norm(x)
        keys.append(scalar_linear(normed, weights["key"]))
        values.append(scalar_linear(normed, weights["value"]))
        attended = scalar_attention(scalar_linear(normed, weights["query"]), keys, values)
        x = [a + b for a, b in zip(scalar_linear(attended, weights["attention_out"]), x)]
        hidden = [h.relu() for h in scalar_linear(scalar_norm(x), weights["mlp_in"])]
        x = [a + b for a, b in zip(scalar_linear(hidden, weights["mlp_out"]), x)]
        losses.append(-scalar_softmax(scalar_linear(x, weights["head"]))[target].log())
    return sum(losses) * (1.0 / len(losses))


def scalar_trainer(start: dict[str, Matrix], find_order: Callable) -> Callable:
    """A function that takes one training step and returns its loss, with Adam number by number."""
    weights = {name: [[Value(x) for x in row] for row in rows] for name, rows in start.items()}
    parameters = [value for rows in weights.values() for row in rows for value in row]
    means, squares = [0.0] * len(parameters), [0.0] * len(parameters)
    beta1, beta2 = BETAS
    # The usual training loop stands at the top of a script, where the name of the loss holds one
    # step's graph until the next loss takes its place.
    loss = None

    def step(symbols: list[int], number: int, rate: float) -> float:
        nonlocal loss
        loss = scalar_loss(weights, symbols)
        loss.backward(find_order(loss))
        for i, parameter in enumerate(parameters):
            means[i] = beta1 * means[i] + (1.0 - beta1) * parameter.grad
            squares[i] = beta2 * squares[i] + (1.0 - beta2) * parameter.grad**2
            mean = means[i] / (1.0 - beta1 ** (number + 1))
            square = squares[i] / (1.0 - beta2 ** (number + 1))
            parameter.data -= rate * mean / (square**0.5 + EPS)
            parameter.grad = 0.0
        return loss.data

    return step


# === THE OTHER TWO ===


def matrix_trainer(start: dict[str, Matrix], root: Path) -> Callable:
    """The same with common/: one node per matrix."""
    sys.path[:0] = [str(root), str(root / "common")]
    from common.engine import cross_entropy, scaled_dot_product_attention
    from common.language_model import GPT
    from common.optim import Adam

    model = GPT(NUM_SYMBOLS, CONTEXT, WIDTH, random.Random(SEED))
    for name, rows in start.items():
        parameter = getattr(model, name)
        if (len(parameter.data), len(parameter.data[0])) != SHAPES[name]:
            raise ValueError(f"{name} of common/language_model.py has another shape")
        parameter.data = rows
    if len(model.parameters()) != len(start):
        raise ValueError("common/language_model.py has other parameters than the twins")
    optimiser = Adam(model.parameters(), betas=BETAS, eps=EPS)

    def step(symbols: list[int], number: int, rate: float) -> float:
        length = len(symbols) - 1
        spans = [(0, i + 1) for i in range(length)]
        logits = model.forward(
            symbols[:-1],
            range(length),
            lambda q, k, v: scaled_dot_product_attention(q, k, v, NUM_HEADS, spans),
        )
        loss = cross_entropy(logits, symbols[1:])
        loss.backward()
        optimiser.step(rate)
        return loss.item()

    return step


def torch_trainer(start: dict[str, Matrix]) -> Callable:
    """The same with PyTorch, float64, one thread."""
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(1)
    weights = {
        name: torch.tensor(rows, dtype=torch.float64, requires_grad=True)
        for name, rows in start.items()
    }
    optimiser = torch.optim.Adam(list(weights.values()), betas=BETAS, eps=EPS)

    def norm(x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (WIDTH,), eps=NORM_EPS)

    def step(symbols: list[int], number: int, rate: float) -> float:
        length = len(symbols) - 1
        ids = torch.tensor(symbols)
        x = norm(weights["token_embedding"][ids[:-1]] + weights["position_embedding"][:length])
        normed = norm(x)
        q, k, v = [
            F.linear(normed, weights[name]).view(length, NUM_HEADS, -1).transpose(0, 1)
            for name in ("query", "key", "value")
        ]
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + F.linear(attended.transpose(0, 1).reshape(length, WIDTH), weights["attention_out"])
        x = x + F.linear(F.relu(F.linear(norm(x), weights["mlp_in"])), weights["mlp_out"])
        loss = F.cross_entropy(F.linear(x, weights["head"]), ids[1:])
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        return loss.item()

    return step


def make_trainer(engine: str, root: Path) -> Callable:
    """step(symbols, number, rate) -> loss of a new model on that engine."""
    start = make_weights()
    if engine == "matrix":
        return matrix_trainer(start, root)
    if engine == "torch":
        return torch_trainer(start)
    return scalar_trainer(start, {"published": recursive_order, "stack": stack_order}[engine])


# === MEASURING ===


def work(engine: str, root: Path, num_names: int) -> None:
    """Be one engine's process: for every line "first stop" on standard input, take these steps
    and answer with their losses and what they cost.
    """
    from run_one import peak_megabytes

    examples = make_examples(root, num_names)
    # A step on a model that is thrown away, so that no engine is timed while it starts up.
    make_trainer(engine, root)(examples[0], 0, RATE)
    gc.collect()
    if engine == "stack":
        gc.disable()
    collecting = {"seconds": 0.0, "since": 0.0}

    def watch(phase: str, _: dict) -> None:
        if phase == "start":
            collecting["since"] = time.process_time()
        else:
            collecting["seconds"] += time.process_time() - collecting["since"]

    if engine == "published":
        gc.callbacks.append(watch)
    step = make_trainer(engine, root)
    for line in sys.stdin:
        first, stop = map(int, line.split())
        collecting["seconds"] = 0.0
        cpu, wall = time.process_time(), time.perf_counter()
        losses = [
            step(examples[i % num_names], i, RATE * max(0.0, 1.0 - i / SCHEDULE))
            for i in range(first, stop)
        ]
        answer = {
            "cpu": time.process_time() - cpu,
            "wall": time.perf_counter() - wall,
            "collector": collecting["seconds"],
            "losses": losses,
            "peak_megabytes": peak_megabytes(),
        }
        print(json.dumps(answer), flush=True)


def largest_difference(losses: dict[str, list[float]]) -> tuple[float, int]:
    """The largest distance of two engines' losses at one step, over the steps that all took.

    >>> largest_difference({"a": [1.0, 2.0, 9.0], "b": [1.5, 2.25]})
    (0.5, 2)
    """
    shared = list(zip(*losses.values()))
    return max([max(row) - min(row) for row in shared]), len(shared)


def start_worker(engine: str, root: Path, num_names: int) -> subprocess.Popen:
    """A process that runs work(engine, ...)."""
    command = [sys.executable, "-B", __file__, engine, str(root), str(num_names)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    )


def take_turns(
    workers: dict[str, subprocess.Popen], rounds: int, num_names: int, say: Callable[[str], None]
) -> dict[str, list[list[dict]]]:
    """Let the engines work in turns: engine -> round -> its answers.

    In a turn a slow engine takes one step and a fast one a whole pass over the names, about as
    long. So the machine's better and worse moments, which are longer than a turn, meet all alike.
    """
    answers: dict[str, list[list[dict]]] = {name: [] for name in workers}
    for number in range(rounds):
        for name in workers:
            answers[name].append([])
        for turn in range(number * num_names, (number + 1) * num_names):
            for name, worker in workers.items():
                size = 1 if name in SLOW else num_names
                print(turn * size, (turn + 1) * size, file=worker.stdin, flush=True)
                line = worker.stdout.readline()
                if not line:
                    raise RuntimeError(f"the engine {name} stopped with an error")
                answers[name][-1].append(json.loads(line))
        say(f"round {number + 1}/{rounds}")
    return answers


def measure(
    root: Path,
    rounds: int = ROUNDS,
    num_names: int = NUM_NAMES,
    engines: tuple[str, ...] = SLOW + FAST,
    say: Callable[[str], None] = print,
) -> dict:
    """Let the engines train in turns, compare their losses, and return costs and ratios.

    Every engine sees whole passes over the same names, so that steps of one are as much work as
    steps of another. Costs are totals over all steps: a median would hide the cyclic collector,
    which makes few steps pay for many. ValueError if the losses differ.
    """
    if "torch" in engines and importlib.util.find_spec("torch") is None:
        say("PyTorch is not installed here: left out.")
        engines = tuple(name for name in engines if name != "torch")
    workers = {}
    try:
        for name in engines:
            workers[name] = start_worker(name, root, num_names)
        answers = take_turns(workers, rounds, num_names, say)
    finally:
        for worker in workers.values():
            worker.kill()
            worker.communicate()
    flat = {name: [a for answers_of in rows for a in answers_of] for name, rows in answers.items()}
    losses = {name: [x for a in rows for x in a["losses"]] for name, rows in flat.items()}
    difference, shared = largest_difference(losses)
    if not difference <= TOLERANCE:
        raise ValueError(f"the engines' losses differ by {difference:.3g} within {shared} steps")

    def per_step(rows: list[dict], what: str) -> float:
        return sum([a[what] for a in rows]) / sum([len(a["losses"]) for a in rows]) * 1e3

    costs = {
        name: {
            "steps": len(losses[name]),
            "cpu_ms_per_step": per_step(rows, "cpu"),
            "wall_ms_per_step": per_step(rows, "wall"),
            "peak_megabytes": rows[-1]["peak_megabytes"],
        }
        for name, rows in flat.items()
    }
    ratios, by_round = {}, {}
    for name in engines:
        ratios[name] = per_step(flat[name], "cpu") / per_step(flat["matrix"], "cpu")
        pairs = zip(answers[name], answers["matrix"])
        by_round[name] = [round(per_step(a, "cpu") / per_step(b, "cpu"), 3) for a, b in pairs]
    return {
        "parameters": sum([rows * columns for rows, columns in SHAPES.values()]),
        "names": num_names,
        "rounds": rounds,
        "engines": costs,
        "collector_share_of_published": per_step(flat["published"], "collector")
        / per_step(flat["published"], "cpu"),
        "cost_relative_to_matrix": ratios,
        "cost_relative_to_matrix_by_round": by_round,
        "max_loss_difference": difference,
        "shared_steps": shared,
    }


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
