from __future__ import annotations

import hashlib
import http.client
import math
import os
import random
import urllib.request
from collections.abc import Callable, Sequence
from math import exp, log
from operator import add, mul, sub
from pathlib import Path
from typing import Any

# === CONSTANTS ===

SEED = 42
CONTEXT = 16  # symbols: the start mark and the 15 letters of the longest name
WIDTH = 16  # entries of a vector
NUM_HEADS = 2
NUM_HELD_OUT = 1000  # names that no model is trained on
BASE_ENDINGS = "aeiouy"  # names that end in one of these are the base kind

BASE_STEPS = 300  # of training on the base kind
BASE_RATE = 0.02  # learning rates are what the step begins with; they fall to 0 in a line
BATCH_SIZE = 8  # names per step
BETAS = (0.9, 0.95)  # Adam's

NUM_ADAPT = 64  # names of the target kind to adapt to
ADAPT_STEPS = 40  # 5 passes through them
RANK = 2  # of the adapters
LORA_RATE = 0.03

# === THE TASK: A MODEL MEETS A NEW KIND OF NAME ===

# x


def split_names(all_names: Sequence[str], rng: random.Random) -> dict[str, list[str]]:
    """Shuffle, hold names out, then sort both parts into kinds by their last letter.

    Held-out names come first, so that no model ever meets one of them, whatever its kind.
    """
    names = list(all_names)
    rng.shuffle(names)
    training, held_out = names[:-NUM_HELD_OUT], names[-NUM_HELD_OUT:]
    return {
        "base": [name for name in training if name[-1] in BASE_ENDINGS],
        "target": [name for name in training if name[-1] not in BASE_ENDINGS],
        "held-out base": [name for name in held_out if name[-1] in BASE_ENDINGS],
        "held-out target": [name for name in held_out if name[-1] not in BASE_ENDINGS],
    }


class Linear:
    """x [N][in] -> x times the transpose of weight [out][in]: torch.nn.Linear without a bias."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)

    def parameters(self) -> list[Tensor]:
        return [self.weight]


class Transformer:
    """microgpt's GPT with one block, in which the seven matrix products are layers with names.

    A layer is called with x [N][in] and returns [N][out]; it has .weight and .parameters(). So
    one kind of layer can take another's place, and forward() does not notice.
    """

    def __init__(
        self, token_embedding: Tensor, position_embedding: Tensor, layers: dict[str, Any]
    ) -> None:
        self.token_embedding = token_embedding  # [27][16]
        self.position_embedding = position_embedding  # [16][16]
        self.layers = layers

    def parameters(self) -> list[Tensor]:
        """Every matrix, frozen or not."""
        inner = [p for layer in self.layers.values() for p in layer.parameters()]
        return [self.token_embedding, self.position_embedding, *inner]

    def forward(self, ids: Sequence[int], positions: Sequence[int], attend: Callable) -> Tensor:
        """N symbols and their places -> logits [N][27]: a score for each next symbol."""
        layers = self.layers
        x = embedding(self.token_embedding, ids) + embedding(self.position_embedding, positions)
        x = rms_norm(x)
        normed = rms_norm(x)
        q, k, v = layers["query"](normed), layers["key"](normed), layers["value"](normed)
        x = x + layers["attention_out"](attend(q, k, v))
        x = x + layers["mlp_out"](relu(layers["mlp_in"](rms_norm(x))))
        return layers["head"](x)


def new_transformer(rng: random.Random) -> Transformer:
    """A model that knows nothing: random matrices with small entries, nine in all."""

    def matrix(num_out: int, num_in: int) -> Tensor:
        return Tensor([[rng.gauss(0.0, 0.08) for _ in range(num_in)] for _ in range(num_out)])

    shapes = {
        "query": (WIDTH, WIDTH),
        "key": (WIDTH, WIDTH),
        "value": (WIDTH, WIDTH),
        "attention_out": (WIDTH, WIDTH),
        "mlp_in": (4 * WIDTH, WIDTH),
        "mlp_out": (WIDTH, 4 * WIDTH),
        "head": (len(ALPHABET), WIDTH),
    }
    embeddings = matrix(len(ALPHABET), WIDTH), matrix(CONTEXT, WIDTH)
    return Transformer(*embeddings, {name: Linear(matrix(*shapes[name])) for name in shapes})


def trainable_parameters(model: Transformer) -> list[Tensor]:
    """The matrices that are not frozen: the only ones that the optimiser is given."""
    return [p for p in model.parameters() if p.requires_grad]


def freeze(model: Transformer) -> None:
    """From now on no gradient is computed for the model's matrices, and no step changes them."""
    for parameter in model.parameters():
        parameter.requires_grad = False


def predict(model: Transformer, names: Sequence[str]) -> tuple[Tensor, list[int]]:
    """Read names, all at once -> logits [N][27] for the N symbols that follow, and these."""
    ids, positions, spans, targets = pack([encode(name) for name in names])

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, NUM_HEADS, spans)

    return model.forward(ids, positions, attend), targets


def mean_loss(model: Transformer, names: Sequence[str]) -> float:
    """Cross-entropy in nats per symbol, over all symbols of all names."""
    return cross_entropy(*predict(model, names)).item()


def train(
    model: Transformer,
    names: Sequence[str],
    num_steps: int,
    lr: float,
    rng: random.Random,
    report_every: int = 0,
) -> None:
    """Change what is not frozen, so that the names become more likely. lr falls to 0 in a line."""
    optimizer = Adam(trainable_parameters(model), BETAS)
    queue: list[str] = []
    recent: list[float] = []
    for step in range(1, num_steps + 1):
        if len(queue) < BATCH_SIZE:
            queue = rng.sample(names, len(names))  # the next pass through all names, shuffled
        batch, queue = queue[:BATCH_SIZE], queue[BATCH_SIZE:]

        loss = cross_entropy(*predict(model, batch))
        loss.backward()
        optimizer.step(lr * (1.0 - (step - 1) / num_steps))

        recent.append(loss.item())
        if report_every and step % report_every == 0:
            print(f"step {step:4d}/{num_steps} | loss {sum(recent) / len(recent):.4f}", flush=True)
            recent.clear()


# === THE ADAPTER ===

# x


class LoRALinear:
    """A frozen layer with weight W [out][in], and beside it an adapter of low rank r.

        y = W x + scaling * B A x          Hu et al., 2021, eq. 3, where scaling is alpha / r

    lora_A [r][in] reads r numbers off x, lora_B [out][r] writes them into y. B starts at zero.
    """

    def __init__(self, base: Any, rank: int, rng: random.Random, scaling: float = 1.0) -> None:
        num_out, num_in = len(base.weight.data), len(base.weight.data[0])
        spread = num_in**-0.5
        self.base = base
        self.lora_A = Tensor([[rng.gauss(0.0, spread) for _ in range(num_in)] for _ in range(rank)])
        self.lora_B = Tensor([[0.0] * rank for _ in range(num_out)])
        self.scaling = scaling

    def __call__(self, x: Tensor) -> Tensor:
        return self.base(x) + linear(linear(x, self.lora_A), self.lora_B) * self.scaling

    def parameters(self) -> list[Tensor]:
        return [*self.base.parameters(), self.lora_A, self.lora_B]

    def update(self) -> list[list[float]]:
        """scaling * B A as one matrix [out][in]: what the adapter adds to W."""
        product = matmul(self.lora_B.data, self.lora_A.data)
        return [[self.scaling * value for value in row] for row in product]


def add_adapters(
    base: Transformer, targets: Sequence[str], rank: int, rng: random.Random
) -> Transformer:
    """The same matrices, not copies of them, with adapters at the layers named in targets."""
    layers = {
        name: LoRALinear(layer, rank, rng) if name in targets else layer
        for name, layer in base.layers.items()
    }
    return Transformer(base.token_embedding, base.position_embedding, layers)


def main() -> dict[str, object]:
    """x"""
    rng = random.Random(SEED)
    names = split_names(load_names(), rng)
    base = new_transformer(rng)
    import time

    t = time.process_time()
    train(base, names["base"], BASE_STEPS, BASE_RATE, rng, report_every=50)
    print(time.process_time() - t)
    freeze(base)
    adapt = names["target"][:NUM_ADAPT]
    print(mean_loss(base, names["held-out target"]), mean_loss(base, names["held-out base"]))
    print(time.process_time() - t)
    a = add_adapters(base, base.layers, RANK, rng)
    print(sum(len(p.data) * len(p.data[0]) for p in trainable_parameters(a)))
    train(a, adapt, ADAPT_STEPS, LORA_RATE, random.Random(SEED))
    print(time.process_time() - t)
    print(mean_loss(a, names["held-out target"]), mean_loss(a, names["held-out base"]))
    return {}


# === APPENDIX: ENGINE (common/engine.py; microautograd.py derives it) ===

# The inner product, the engine's one primitive: dot([1, 2], [3, 4]) = 1*3 + 2*4 = 11.
# From Python 3.12 on the standard library has it (math.sumprod); before, sum(map(mul, a, b))
# also loops in C. Beware: where lengths differ, sumprod raises but map stops at the shorter one.
dot = getattr(math, "sumprod", None) or (lambda a, b: sum(map(mul, a, b)))


def transpose(a: list[list[float]]) -> list[list[float]]:
    """[N][M] -> [M][N].

    >>> transpose([[1, 2, 3], [4, 5, 6]])
    [[1, 4], [2, 5], [3, 6]]
    """
    return list(map(list, zip(*a)))


def matmul(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    """[N][K] times [K][M] -> [N][M]: entry (i, j) is the dot product of row i and column j.

    >>> matmul([[1, 2]], [[3, 4], [5, 6]])
    [[13, 16]]
    """
    columns = list(zip(*b))
    return [[dot(row, column) for column in columns] for row in a]


def softmax_row(scores: list[float]) -> list[float]:
    """Turn scores into positive weights that sum to 1: exp(s_i) / sum_j exp(s_j).

    The largest score is taken off first. It cancels in the fraction, and exp cannot overflow.

    >>> softmax_row([1000.0, 1000.0])
    [0.5, 0.5]
    """
    largest = max(scores)
    exponentials = [exp(score - largest) for score in scores]
    total = sum(exponentials)
    return [value / total for value in exponentials]


def log_sum_exp(scores: list[float]) -> float:
    """log(sum_j exp(s_j)), with the largest score taken out of the sum so that exp stays finite.

    >>> round(log_sum_exp([1000.0, 1000.0]) - 1000.0, 6)
    0.693147
    """
    largest = max(scores)
    return largest + log(sum([exp(score - largest) for score in scores]))


class Tensor:
    """A matrix that remembers how it was made, so that gradients can flow back through it.

    data       [N][M]: list of rows of floats
    grad       None until backward() reaches this tensor, then [N][M]: d(root) / d(data)
    parents    the tensors that it was computed from; empty for a leaf
    pass_back  takes this tensor's gradient and returns one gradient per parent (None: not
               wanted). It gets the gradient as an argument and never refers to its own tensor:
               so there is no reference cycle, and a graph is freed the moment it is dropped.
    """

    __slots__ = ("data", "grad", "parents", "pass_back", "requires_grad")

    def __init__(
        self,
        data: list[list[float]],
        parents: tuple[Tensor, ...] = (),
        pass_back: Callable | None = None,
        requires_grad: bool = True,
    ) -> None:
        self.data = data
        self.grad: list[list[float]] | None = None
        # A result needs a gradient if one of its parents does; otherwise it keeps no graph.
        self.requires_grad = any(p.requires_grad for p in parents) if parents else requires_grad
        self.parents = parents if self.requires_grad else ()
        self.pass_back = pass_back if self.requires_grad else None

    def item(self) -> float:
        """The one number of a [1][1] tensor, such as a loss."""
        ((value,),) = self.data
        return value

    def __add__(self, other: Tensor) -> Tensor:
        """[N][M] + [N][M]. Both parents receive the result's gradient as it is."""
        check_same_shape(self, other)
        data = [list(map(add, a, b)) for a, b in zip(self.data, other.data)]
        return Tensor(data, (self, other), lambda d_out: (d_out, d_out))

    def __sub__(self, other: Tensor) -> Tensor:
        """[N][M] - [N][M]."""
        check_same_shape(self, other)
        data = [list(map(sub, a, b)) for a, b in zip(self.data, other.data)]
        return Tensor(data, (self, other), lambda d: (d, [[-x for x in row] for row in d]))

    def __mul__(self, other: Tensor | float) -> Tensor:
        """Entry by entry: [N][M] * [N][M], or every entry times one constant number."""
        if not isinstance(other, Tensor):
            data = [[value * other for value in row] for row in self.data]
            return Tensor(
                data, (self,), lambda d_out: ([[d * other for d in row] for row in d_out],)
            )
        check_same_shape(self, other)
        a, b = self.data, other.data

        def times(x: list[list[float]], y: list[list[float]]) -> list[list[float]]:
            return [list(map(mul, row_x, row_y)) for row_x, row_y in zip(x, y)]

        # d(a * b) = b da + a db: each factor's gradient is the other factor times d_out.
        return Tensor(times(a, b), (self, other), lambda d: (times(d, b), times(d, a)))

    def backward(self, grad: list[list[float]] | None = None) -> None:
        """Add d(self)/d(tensor) to .grad of every tensor that self was made from.

        grad [N][M] is the gradient to start from; a [1][1] loss starts from 1. The graph is
        taken apart on the way, so that memory falls while gradients flow: a second backward()
        through it raises RuntimeError.
        """
        if grad is None:
            if len(self.data) != 1 or len(self.data[0]) != 1:
                raise ValueError("backward() without a gradient starts from a [1][1] tensor only")
            grad = [[1.0]]
        check_same_shape(self, Tensor(grad))
        # Topological order: every tensor stands after all of its parents. The list is built with
        # an explicit stack, since a long chain would overflow Python's call stack. A tensor goes
        # on the stack twice: on the first visit it is put back below its parents, and on the
        # second they are all in the list, so it follows them.
        order: list[Tensor] = []
        visited: set[Tensor] = set()
        stack = [(self, False)]
        while stack:
            tensor, parents_are_listed = stack.pop()
            if parents_are_listed:
                order.append(tensor)
            elif tensor not in visited:
                visited.add(tensor)
                stack.append((tensor, True))
                stack.extend([(p, False) for p in tensor.parents if p.requires_grad])
        visited.clear()
        self.grad = grad if self.grad is None else add_matrices(self.grad, grad)
        # Backwards through that order a tensor comes after everything made from it: its gradient
        # is complete, all uses added up, before it is passed on to its parents.
        while order:
            tensor = order.pop()
            if tensor.pass_back is None:
                continue
            for parent, part in zip(tensor.parents, tensor.pass_back(tensor.grad)):
                if part is not None and parent.requires_grad:
                    parent.grad = part if parent.grad is None else add_matrices(parent.grad, part)
            tensor.parents, tensor.pass_back = (), raise_graph_is_gone


def add_matrices(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    """[N][M] + [N][M] as a new matrix: a gradient may be shared, so it is never changed in place.

    >>> add_matrices([[1.0, 2.0]], [[10.0, 20.0]])
    [[11.0, 22.0]]
    """
    return [list(map(add, row_a, row_b)) for row_a, row_b in zip(a, b)]


def check_same_shape(a: Tensor, b: Tensor) -> None:
    """Raise ValueError unless both are [N][M]. Nothing is ever stretched to fit."""
    shapes = [(len(tensor.data), len(tensor.data[0])) for tensor in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"shapes differ: {shapes[0]} and {shapes[1]}")


def check_is_row(tensor: Tensor, width: int) -> None:
    """Raise ValueError unless the tensor is [1][width], as a bias must be."""
    shape = (len(tensor.data), len(tensor.data[0]))
    if shape != (1, width):
        raise ValueError(f"shapes differ: {shape} and {(1, width)}")


def raise_graph_is_gone(d_out: list[list[float]]) -> None:
    """Stand where a graph has been taken apart by backward()."""
    raise RuntimeError("backward() has already taken this graph apart: run the forward again")


def embedding(weight: Tensor, ids: Sequence[int]) -> Tensor:
    """Pick rows: weight [V][D], ids N whole numbers -> [N][D].

    A row that was picked several times receives the sum of its gradients.
    """
    if not all(0 <= i < len(weight.data) for i in ids):
        raise ValueError(f"an id is not one of the rows 0..{len(weight.data) - 1}")

    def pass_back(d_out: list[list[float]]) -> tuple:
        d_weight = [[0.0] * len(weight.data[0])] * len(weight.data)
        for i, d_row in zip(ids, d_out):
            d_weight[i] = list(map(add, d_weight[i], d_row))
        return (d_weight,)

    return Tensor([weight.data[i] for i in ids], (weight,), pass_back)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [N][in] times the transpose of weight [out][in], plus bias [1][out] -> [N][out].

    Row n of the result holds the dot products of row n of x with every row of weight.
    """
    if len(x.data[0]) != len(weight.data[0]):
        raise ValueError(f"x has {len(x.data[0])} columns, weight {len(weight.data[0])}")
    out = [[dot(row, w) for w in weight.data] for row in x.data]
    if bias is not None:
        check_is_row(bias, len(weight.data))
        out = [list(map(add, row, bias.data[0])) for row in out]

    # y[n][o] = sum_i x[n][i] w[o][i]. So dy/dx = w and dy/dw = x, and with all paths added up
    #   d_x[n][i] = sum_o d_out[n][o] w[o][i]       d_x      = d_out @ weight
    #   d_w[o][i] = sum_n d_out[n][o] x[n][i]       d_weight = transpose(d_out) @ x
    def pass_back(d_out: list[list[float]]) -> tuple:
        columns = transpose(d_out)
        d_x = matmul(d_out, weight.data) if x.requires_grad else None
        d_weight = matmul(columns, x.data) if weight.requires_grad else None
        if bias is None:
            return d_x, d_weight
        return d_x, d_weight, [[sum(column) for column in columns]]

    return Tensor(out, (x, weight) if bias is None else (x, weight, bias), pass_back)


def relu(x: Tensor) -> Tensor:
    """max(0, x), entry by entry. The slope is 1 above zero and 0 elsewhere, at zero too."""
    data = [[value if value > 0.0 else 0.0 for value in row] for row in x.data]

    def pass_back(d_out: list[list[float]]) -> tuple:
        # An output above zero had an input above zero.
        return ([[d if y > 0.0 else 0.0 for d, y in zip(*rows)] for rows in zip(d_out, data)],)

    return Tensor(data, (x,), pass_back)


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Scale every row of x [N][D] to a root mean square of 1; weight [1][D] multiplies after.

    Zhang & Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467, eq. 4.
    """
    width = len(x.data[0])
    if weight is not None:
        check_is_row(weight, width)
    scales = [(dot(row, row) / width + eps) ** -0.5 for row in x.data]
    normed = [[value * scale for value in row] for row, scale in zip(x.data, scales)]
    gains = weight.data[0] if weight is not None else None
    out = normed if gains is None else [list(map(mul, row, gains)) for row in normed]

    # n_i = x_i s with s = (mean(x^2) + eps)^(-1/2), hence ds/dx_j = -s^3 x_j / D and
    # d_x_j = s d_j - s^3 x_j / D sum_i d_i x_i = s (d_j - n_j mean(d n)).
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_normed = d_out if gains is None else [list(map(mul, row, gains)) for row in d_out]
        d_x = []
        for d_row, n_row, scale in zip(d_normed, normed, scales):
            mean = dot(d_row, n_row) / width
            d_x.append([(d - n * mean) * scale for d, n in zip(d_row, n_row)])
        if gains is None:
            return (d_x,)
        columns = zip(transpose(d_out), transpose(normed))
        return d_x, [[dot(d_column, n_column) for d_column, n_column in columns]]

    return Tensor(out, (x,) if weight is None else (x, weight), pass_back)


def attention_head(
    q: list[list[float]],
    k: list[list[float]],
    v: list[list[float]],
    spans: Sequence[tuple[int, int]],
) -> tuple[list[list[float]], list[list[float]]]:
    """One head: q [N][d], k [M][d], v [M][e] -> output [N][e], and the weights of each row.

    Row i reads rows first..stop-1 of k and v, with (first, stop) = spans[i]:
        weights = softmax(q_i . k_j / sqrt(d) for these j)      output_i = sum_j weights_j v_j
    Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, eq. 1.

    A query that fits the first of two keys: scores 1/sqrt(2) and 0, weights 0.67 and 0.33, so
    the output lies a third of the way from the first value to the second.
    >>> output, weights = attention_head([[1, 0]], [[1, 0], [0, 1]], [[10], [40]], [(0, 2)])
    >>> [round(w, 3) for w in weights[0]], round(output[0][0], 1)
    ([0.67, 0.33], 19.9)
    """
    scale = len(q[0]) ** -0.5
    value_columns = list(zip(*v))
    output, weights = [], []
    for query, (first, stop) in zip(q, spans):
        scores = [dot(query, key) * scale for key in k[first:stop]]
        weights.append(softmax_row(scores))
        output.append([dot(weights[-1], column[first:stop]) for column in value_columns])
    return output, weights


def scaled_dot_product_attention(
    q: Tensor, k: Tensor, v: Tensor, num_heads: int, spans: Sequence[tuple[int, int]]
) -> Tensor:
    """Attention in num_heads heads, each on its own columns: q [N][H*d], k [M][H*d], v [M][H*e]
    -> [N][H*e]. Row i reads rows first..stop-1 of k and v, with (first, stop) = spans[i].
    """
    if len(q.data[0]) != len(k.data[0]) or len(k.data) != len(v.data):
        shapes = [(len(x.data), len(x.data[0])) for x in (q, k, v)]
        raise ValueError(f"q, k and v do not fit together: {shapes}")
    if len(spans) != len(q.data):
        raise ValueError(f"{len(q.data)} queries but {len(spans)} spans")
    if any(not 0 <= first < stop <= len(k.data) for first, stop in spans):
        raise ValueError(f"a span is empty or reaches outside of the {len(k.data)} keys")
    q_heads, k_heads, v_heads = [split_heads(t.data, num_heads) for t in (q, k, v)]
    heads = [attention_head(*head, spans) for head in zip(q_heads, k_heads, v_heads)]

    def pass_back(d_out: list[list[float]]) -> tuple:
        # readers[j]: which rows read row j
        readers: list[list[int]] = [[] for _ in k.data]
        for i, (first, stop) in enumerate(spans):
            for j in range(first, stop):
                readers[j].append(i)
        gradients = [
            attention_head_backward(q_h, k_h, v_h, spans, readers, weights, d_h)
            for q_h, k_h, v_h, (_, weights), d_h in zip(
                q_heads, k_heads, v_heads, heads, split_heads(d_out, num_heads)
            )
        ]
        return tuple(map(join_heads, zip(*gradients)))

    return Tensor(join_heads([output for output, _ in heads]), (q, k, v), pass_back)


def attention_head_backward(
    q: list[list[float]],
    k: list[list[float]],
    v: list[list[float]],
    spans: Sequence[tuple[int, int]],
    readers: list[list[int]],
    weights: list[list[float]],
    d_output: list[list[float]],
) -> tuple[list[list[float]], list[list[float]], list[list[float]]]:
    """The gradients (d_q, d_k, d_v) of one attention_head, from d_output [N][e].

    output_i = sum_j w_ij v_j         d_v_j  = sum_i w_ij d_output_i     d_w_ij = d_output_i . v_j
    w_i = softmax(s_i)                d_s_ij = w_ij (d_w_ij - sum_m w_im d_w_im)
    s_ij = q_i . k_j / sqrt(d)        d_q_i  = sum_j d_s_ij k_j / sqrt(d)      d_k_j alike
    """
    scale = len(q[0]) ** -0.5
    key_columns = list(zip(*k))
    d_q, d_scores = [], []
    for row, d_row, (first, stop) in zip(weights, d_output, spans):
        d_weights = [dot(d_row, value) for value in v[first:stop]]
        mean = dot(row, d_weights)
        d_scores.append([w * (d - mean) * scale for w, d in zip(row, d_weights)])
        d_q.append([dot(d_scores[-1], column[first:stop]) for column in key_columns])
    d_k, d_v = [], []
    for j, rows in enumerate(readers):
        places = [(i, j - spans[i][0]) for i in rows]
        d_score_column = [d_scores[i][place] for i, place in places]
        weight_column = [weights[i][place] for i, place in places]
        # A row that nobody reads has no columns to run over: its gradient is zero.
        q_columns = zip(*[q[i] for i in rows]) if rows else [()] * len(q[0])
        d_columns = zip(*[d_output[i] for i in rows]) if rows else [()] * len(v[0])
        d_k.append([float(dot(d_score_column, column)) for column in q_columns])
        d_v.append([float(dot(weight_column, column)) for column in d_columns])
    return d_q, d_k, d_v


def split_heads(x: list[list[float]], num_heads: int) -> list[list[list[float]]]:
    """[N][H*d] -> H matrices [N][d], each a block of neighbouring columns.

    >>> split_heads([[1, 2, 3, 4]], 2)
    [[[1, 2]], [[3, 4]]]
    """
    width, rest = divmod(len(x[0]), num_heads)
    if rest:
        raise ValueError(f"{len(x[0])} columns do not split into {num_heads} heads")
    return [[row[h * width : (h + 1) * width] for row in x] for h in range(num_heads)]


def join_heads(heads: Sequence[list[list[float]]]) -> list[list[float]]:
    """H matrices [N][d] -> [N][H*d], side by side: the inverse of split_heads.

    >>> join_heads([[[1, 2]], [[3, 4]]])
    [[1, 2, 3, 4]]
    """
    return [sum(rows, []) for rows in zip(*heads)]


def cross_entropy(logits: Tensor, targets: Sequence[int]) -> Tensor:
    """Mean over rows of -log softmax(logits)[target]: logits [N][C], targets N -> [1][1], in nats.

    Softmax and logarithm are one operation: -log softmax(z)[t] = log_sum_exp(z) - z[t], which
    never takes the logarithm of a number that was rounded to zero.
    """
    check_targets(logits, targets)
    totals = [log_sum_exp(row) for row in logits.data]
    count = len(targets)
    loss = sum([total - row[t] for total, row, t in zip(totals, logits.data, targets)]) / count

    # d(log_sum_exp(z))/dz_c = exp(z_c) / sum_j exp(z_j) = p_c, hence d_z = (p - onehot) / N: each
    # logit is pushed by the probability that it got, and the target's by that minus 1.
    def pass_back(d_out: list[list[float]]) -> tuple:
        factor = d_out[0][0] / count
        d_logits = []
        for row, total, target in zip(logits.data, totals, targets):
            d_row = [factor * exp(z - total) for z in row]
            d_row[target] -= factor
            d_logits.append(d_row)
        return (d_logits,)

    return Tensor([[loss]], (logits,), pass_back)


def check_targets(logits: Tensor, targets: Sequence[int]) -> None:
    """Raise ValueError unless there is one class number for every row of logits [N][C]."""
    if len(targets) != len(logits.data):
        raise ValueError(f"{len(logits.data)} rows of logits but {len(targets)} targets")
    if not all(0 <= target < len(logits.data[0]) for target in targets):
        raise ValueError(f"a target is not one of the classes 0..{len(logits.data[0]) - 1}")


# === APPENDIX: OPTIMISER (common/optim.py; microoptimizer.py explains it) ===


class Adam:
    """Adam: a step for each parameter, scaled by its own gradient's recent size.

    Kingma & Ba, "Adam: A Method for Stochastic Optimization", 2015, arXiv:1412.6980, algorithm 1.
    Two running means per number, of the gradient and of its square, start at zero; dividing by
    1 - beta^t makes up for that start (bias correction).
    """

    def __init__(
        self,
        parameters: list[Tensor],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.parameters = parameters
        self.betas = betas
        self.eps = eps
        zeros = [[[0.0] * len(p.data[0])] * len(p.data) for p in parameters]
        self.means = list(zeros)
        self.squares = list(zeros)
        self.num_steps = [0] * len(parameters)

    def step(self, lr: float) -> None:
        """Take one step with learning rate lr, and clear the gradients."""
        beta1, beta2 = self.betas
        for index, parameter in enumerate(self.parameters):
            grad = parameter.grad
            if grad is None:
                continue
            self.num_steps[index] += 1
            mean = self.means[index] = [
                [beta1 * m + (1.0 - beta1) * g for m, g in zip(m_row, g_row)]
                for m_row, g_row in zip(self.means[index], grad)
            ]
            square = self.squares[index] = [
                [beta2 * s + (1.0 - beta2) * g * g for s, g in zip(s_row, g_row)]
                for s_row, g_row in zip(self.squares[index], grad)
            ]
            rate = lr / (1.0 - beta1 ** self.num_steps[index])
            scale = (1.0 - beta2 ** self.num_steps[index]) ** -0.5
            parameter.data = [
                [
                    x - rate * m / (scale * math.sqrt(s) + self.eps)
                    for x, m, s in zip(x_row, m_row, s_row)
                ]
                for x_row, m_row, s_row in zip(parameter.data, mean, square)
            ]
            parameter.grad = None


# === APPENDIX: LANGUAGE MODEL (common/language_model.py; microgpt.py explains it) ===

ALPHABET = ".abcdefghijklmnopqrstuvwxyz"  # symbol i is ALPHABET[i]; the dot marks start and end


def encode(name: str) -> list[int]:
    """A name as symbols, with the boundary before and after it.

    >>> encode("ava")
    [0, 1, 22, 1, 0]
    """
    return [0, *[ALPHABET.index(letter) for letter in name], 0]


def pack(
    sequences: Sequence[Sequence[int]], look_back: int = 10**9
) -> tuple[list[int], list[int], list[tuple[int, int]], list[int]]:
    """Lay sequences end to end, so that one matrix product serves them all.

    Returns four lists, one entry per prediction: the symbol read, its place in its sequence, the
    span (first, stop) of rows that its row may read, and the target: the symbol that comes next.

    >>> pack([[0, 1, 2, 0], [0, 5, 0]])  # doctest: +NORMALIZE_WHITESPACE
    ([0, 1, 2, 0, 5], [0, 1, 2, 0, 1],
     [(0, 1), (0, 2), (0, 3), (3, 4), (3, 5)], [1, 2, 0, 5, 0])
    """
    ids: list[int] = []
    positions: list[int] = []
    spans: list[tuple[int, int]] = []
    targets: list[int] = []
    for sequence in sequences:
        start, length = len(ids), len(sequence) - 1
        ids += sequence[:-1]
        targets += sequence[1:]
        positions += range(length)
        # A row reads its own sequence only, up to itself: its target stands one further on.
        spans += [
            (max(start, row + 1 - look_back), row + 1) for row in range(start, start + length)
        ]
    return ids, positions, spans, targets


# === APPENDIX: DATA (common/data.py) ===

# Where a script finds its data when it was copied out of the repository.
DATA_URL = "https://raw.githubusercontent.com/Mathews-Tom/no-magic/main/data/"
NAMES_SHA256 = "bd02dfd33179e23ec2dd093cbd4de619834f75d660ef1ae04d3127e7a0110053"


def load_data(filename: str, sha256: str) -> bytes:
    """Return the data file's bytes; end the program with one clear sentence if they are not to be
    had or not the right ones (their sha256 differs).
    """
    here = Path(__file__).resolve().parent
    for path in (here.parent / "data" / filename, here / filename):
        if path.exists():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != sha256:
                raise SystemExit(f"{path} is damaged (wrong sha256): restore it, or delete it.")
            return content
    partial = here / f"{filename}.{os.getpid()}.part"
    try:
        with urllib.request.urlopen(DATA_URL + filename, timeout=20) as response:
            content = response.read()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise OSError("the download is damaged (wrong sha256)")
        partial.write_bytes(content)
        partial.replace(here / filename)
    except (OSError, http.client.HTTPException) as problem:
        where = f"from {DATA_URL} and put it beside the script"
        raise SystemExit(f"No {filename}: {problem}. Get it {where}.") from None
    finally:
        partial.unlink(missing_ok=True)
    return content


def load_names() -> list[str]:
    """29,693 different first names, a to z only, in alphabetical order.

    The file has 32,257 lines, since names given to girls and to boys stand in it twice. They must
    become one before anything is held out, or names from training would return in the test.
    """
    return sorted(set(load_data("names.txt", NAMES_SHA256).decode("ascii").split()))


if __name__ == "__main__":
    main()
