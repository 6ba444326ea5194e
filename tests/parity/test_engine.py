"""common/engine.py against PyTorch: every operation, its value and all its gradients."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from engine_cases import CASES, EVERY_CASE, IDS, matrix, new_case, operations

from common import engine
from common.engine import Tensor
from common.language_model import pack

TOLERANCE = 1e-9


def float64(data, requires_grad=False):
    return torch.tensor(data, dtype=torch.float64, requires_grad=requires_grad)


# === THE SAME OPERATIONS, WRITTEN WITH PYTORCH ===


def embedding_bag(weight, bags):
    ids = torch.tensor([i for bag in bags for i in bag])
    offsets = torch.tensor([sum(map(len, bags[:i])) for i in range(len(bags))])
    return F.embedding_bag(ids, weight, offsets, mode="sum")


def conv2d(x, weight, bias=None, *, image_shape, padding):
    channels = image_shape[0]
    kernel = round((weight.shape[1] / channels) ** 0.5)
    filters = weight.view(-1, channels, kernel, kernel)
    bias = bias if bias is None else bias[0]
    return F.conv2d(x.view(-1, *image_shape), filters, bias, padding=padding).flatten(1)


def max_pool2d(x, image_shape, kernel):
    return F.max_pool2d(x.view(-1, *image_shape), kernel).flatten(1)


def dropout(x, p, seed):
    """PyTorch draws other numbers: what ours leaves of a matrix of ones is the mask of both."""
    ones = Tensor([[1.0] * x.shape[1]] * x.shape[0])
    mask = float64(engine.dropout(ones, p, random.Random(seed)).data)
    assert ((mask == 0.0) | (mask == 1.0 / (1.0 - p))).all()
    return x * mask


def attention(q, k, v, num_heads, spans):
    """The spans as PyTorch says them: mask[i][j] is True where query i may read key j."""

    def heads(x):
        return x.view(len(x), num_heads, -1).transpose(0, 1)

    mask = torch.zeros(len(q), len(k), dtype=torch.bool)
    for i, (first, stop) in enumerate(spans):
        mask[i, first:stop] = True
    found = F.scaled_dot_product_attention(heads(q), heads(k), heads(v), attn_mask=mask)
    return found.transpose(0, 1).reshape(len(q), -1)


def rms_norm(x, weight=None, *, eps):
    gain = weight if weight is None else weight[0]
    return F.rms_norm(x, (x.shape[1],), gain, eps)


def log_prob(logits, targets):
    return F.log_softmax(logits, 1)[range(len(targets)), targets].view(1, -1)


# One for each operation. A loss is a [1][1] matrix here and a number there.
TORCH = {
    "Tensor.__add__": torch.add,
    "Tensor.__sub__": torch.sub,
    "Tensor.__mul__": torch.mul,
    "embedding": lambda weight, ids: F.embedding(torch.tensor(ids), weight),
    "embedding_bag": embedding_bag,
    "linear": lambda x, weight, bias=None: F.linear(x, weight, bias if bias is None else bias[0]),
    "mm": torch.mm,
    "t": torch.t,
    "reshape": lambda x, columns: x.reshape(-1, columns),
    "conv2d": conv2d,
    "max_pool2d": max_pool2d,
    "dropout": dropout,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elementwise": lambda x, function, slope: torch.sin(x),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "softmax": lambda x: F.softmax(x, 1),
    "rms_norm": rms_norm,
    "layer_norm": lambda x, w, b, eps: F.layer_norm(x, (x.shape[1],), w[0], b[0], eps),
    "normalize": F.normalize,
    "scaled_dot_product_attention": attention,
    "cross_entropy": lambda z, targets: F.cross_entropy(z, torch.tensor(targets)).view(1, 1),
    "log_prob": log_prob,
    "binary_cross_entropy_with_logits": lambda z, targets: F.binary_cross_entropy_with_logits(
        z, float64(targets)
    ).view(1, 1),
    "mse_loss": lambda x, target: F.mse_loss(x, float64(target)).view(1, 1),
}


def assert_close(ours, theirs, tolerance=TOLERANCE):
    """Every entry agrees to tolerance, relative to the largest."""
    ours = float64(ours)
    assert ours.shape == theirs.shape
    scale = max(1e-3, theirs.abs().max().item())
    assert (ours - theirs).abs().max().item() <= tolerance * scale  # not so if one is NaN


def compare(name, case, seed, tolerance=TOLERANCE):
    """Value and gradients of a case, with the same random gradient to start from."""
    ours = [Tensor(data) for data in case.inputs]
    theirs = [float64(data, requires_grad=True) for data in case.inputs]
    out = case.run(name, ours)
    expected = TORCH[name](*theirs, **case.settings)
    assert_close(out.data, expected.detach(), tolerance)
    start = matrix(random.Random(seed), len(out.data), len(out.data[0]))
    out.backward(start)
    expected.backward(float64(start))
    for tensor, other in zip(ours, theirs, strict=True):
        assert_close(tensor.grad, other.grad, tolerance)


def test_every_operation_is_compared():
    assert set(TORCH) == operations() == set(CASES), "add the new operation to TORCH"


@pytest.mark.parametrize(("name", "variant"), EVERY_CASE, ids=IDS)
def test_value_and_gradients(name, variant):
    sizes = [(1, 1), (1, 6), (6, 1)]
    rng = random.Random(name)
    sizes += [(rng.randint(1, 6), rng.randint(1, 6)) for _ in range(9)]
    for seed, (rows, columns) in enumerate(sizes):
        compare(name, new_case(name, variant, seed, rows, columns), seed)


SMOOTH = ["relu", "leaky_relu", "tanh", "sigmoid", "silu", "gelu", "softmax"]
FAR = [
    [1000.0, -1000.0, 0.0, 30.0],
    [-1000.0, -1000.0, -1000.0, -1000.0],
    [1e5, 1e5, 1e5, 1e5],
    [-40.0, -6.0, 6.0, 40.0],
]


@pytest.mark.parametrize("name", SMOOTH)
def test_far_from_zero(name):
    case = new_case(name, "", 0, 1, 1)
    compare(name, case._replace(inputs=[FAR]), 0)


@pytest.mark.parametrize("name", ["cross_entropy", "log_prob"])
def test_losses_of_far_logits(name):
    case = new_case(name, "", 0, 1, 1)
    compare(name, case._replace(inputs=[FAR], settings={"targets": [1, 0, 3, 2]}), 0)


def test_binary_loss_of_far_logits():
    case = new_case("binary_cross_entropy_with_logits", "", 0, 1, 1)
    goals = [[0.0, 1.0, 0.25, 0.5]] * 4
    compare("binary_cross_entropy_with_logits", case._replace(
        inputs=[FAR], settings={"targets": goals}), 0)  # fmt: skip


def test_ties_and_zeros_go_the_same_way():
    """The largest of equal pixels, the slopes at zero, a row without length."""
    equal = [[2.0, 2.0, 1.0, 2.0, 2.0, 2.0, 0.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    pool = new_case("max_pool2d", "", 0, 1, 1)
    settings = {"image_shape": (1, 4, 4), "kernel": 2}
    compare("max_pool2d", pool._replace(inputs=[equal], settings=settings), 0)
    for name in ("relu", "leaky_relu", "normalize"):
        case = new_case(name, "", 0, 1, 1)
        compare(name, case._replace(inputs=[[[0.0, 0.0, 0.0], [0.0, 1.0, -1.0]]]), 1)


@pytest.mark.parametrize("seed", range(10))
def test_random_graphs(seed):
    """Results of results, used several times: the graph as a whole, with a matrix in each node."""
    rng = random.Random(seed)
    data = [matrix(rng, 3, 3) for _ in range(3)]
    ours = [Tensor(rows) for rows in data]
    theirs = [float64(rows, requires_grad=True) for rows in data]
    pairs = list(zip(ours, theirs))
    for _ in range(25):
        (a, x), (b, y) = rng.choice(pairs), rng.choice(pairs[-6:])
        pairs.append(
            rng.choice(
                [
                    lambda a=a, b=b, x=x, y=y: (a + b, x + y),
                    lambda a=a, b=b, x=x, y=y: (a - b, x - y),
                    lambda a=a, b=b, x=x, y=y: (engine.tanh(a) * b, torch.tanh(x) * y),
                    lambda a=a, b=b, x=x, y=y: (engine.mm(a, engine.softmax(b)), x @ y.softmax(1)),
                    lambda a=a, b=b, x=x, y=y: (engine.linear(a, engine.t(b)), x @ y),
                    lambda a=a, x=x, b=b, y=y: (
                        engine.normalize(a) + engine.gelu(b),
                        F.normalize(x) + F.gelu(y),
                    ),
                ]
            )()
        )
    out, expected = ours[0] + pairs[-1][0], theirs[0] + pairs[-1][1]
    assert_close(out.data, expected.detach())
    out.backward([[1.0] * 3] * 3)
    expected.backward(torch.ones(3, 3, dtype=torch.float64))
    for tensor, other in zip(ours, theirs):
        assert (tensor.grad is None) == (other.grad is None)
        if tensor.grad is not None:
            assert_close(tensor.grad, other.grad)


@pytest.mark.parametrize("window", [1, 3, 100])
@pytest.mark.parametrize("lengths", [[1], [5], [1, 4, 2], [3, 3]])
def test_packed_attention_is_a_block_of_causal_attention_for_each_sequence(window, lengths):
    """The spans that pack() makes, against PyTorch's own causal attention, sequence by sequence."""
    spans = pack([[0] * (length + 1) for length in lengths], window)[2]
    q, k, v = [matrix(random.Random(seed), sum(lengths), 6) for seed in range(3)]
    ours = engine.scaled_dot_product_attention(*map(Tensor, (q, k, v)), 2, spans).data
    start = 0
    for length in lengths:
        rows = slice(start, start + length)
        heads = [float64(x[rows]).view(length, 2, 3).transpose(0, 1) for x in (q, k, v)]
        if window >= length:
            found = F.scaled_dot_product_attention(*heads, is_causal=True)
        else:
            causal = torch.ones(length, length, dtype=torch.bool).tril()
            found = F.scaled_dot_product_attention(*heads, attn_mask=causal.triu(1 - window))
        assert_close(ours[rows], found.transpose(0, 1).reshape(length, 6))
        start += length
