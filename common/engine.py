"""The engine, once: automatic differentiation with one node per matrix operation.

Scripts carry exact copies of the pieces that they use (tools/sync.py writes and checks them);
nothing imports this file but tests and tools. 01-foundations/microautograd.py derives it.
Every matrix is a list of rows, every row a list of floats. Rows are replaced, never changed in
place, so matrices may share them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from math import erf, exp, log
from operator import add, mul, sub

# === PLAIN MATRICES ===

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


# === THE NODE ===


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


# === LAYERS ===


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


def embedding_bag(weight: Tensor, bags: Sequence[Sequence[int]]) -> Tensor:
    """Add up rows: weight [V][D], N bags of row numbers -> [N][D]; an empty bag gives zeros."""
    if not all(0 <= i < len(weight.data) for bag in bags for i in bag):
        raise ValueError(f"a bag holds what is not one of the rows 0..{len(weight.data) - 1}")
    zeros = [0.0] * len(weight.data[0])
    out = [list(map(sum, zip(zeros, *[weight.data[i] for i in bag]))) for bag in bags]

    # Every row of a bag receives the bag's gradient. Rows that no bag holds all share one list of
    # zeros, so that a large table costs little; SparseAdam passes them over.
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_weight = [zeros] * len(weight.data)
        for bag, d_row in zip(bags, d_out):
            for i in bag:
                d_weight[i] = list(map(add, d_weight[i], d_row))
        return (d_weight,)

    return Tensor(out, (weight,), pass_back)


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


def mm(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product: a [N][K] times b [K][M] -> [N][M]."""
    if len(a.data[0]) != len(b.data):
        raise ValueError(f"a has {len(a.data[0])} columns, b {len(b.data)} rows")

    # y[n][m] = sum_k a[n][k] b[k][m], so d_a = d_out @ transpose(b), d_b = transpose(a) @ d_out.
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_a = [[dot(d_row, row) for row in b.data] for d_row in d_out] if a.requires_grad else None
        d_b = matmul(transpose(a.data), d_out) if b.requires_grad else None
        return d_a, d_b

    return Tensor(matmul(a.data, b.data), (a, b), pass_back)


def t(x: Tensor) -> Tensor:
    """Rows become columns: x [N][M] -> [M][N]."""
    return Tensor(transpose(x.data), (x,), lambda d_out: (transpose(d_out),))


def reshape(x: Tensor, columns: int) -> Tensor:
    """The same numbers in the same order, in rows of another length: x [N][M] -> [N*M/C][C]."""
    width = len(x.data[0])
    if columns < 1 or len(x.data) * width % columns:
        raise ValueError(f"{len(x.data)} x {width} numbers do not fill rows of {columns}")

    def cut(rows: list[list[float]], length: int) -> list[list[float]]:
        numbers = [value for row in rows for value in row]
        return [numbers[i : i + length] for i in range(0, len(numbers), length)]

    return Tensor(cut(x.data, columns), (x,), lambda d_out: (cut(d_out, width),))


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, image_shape: tuple[int, int, int], padding: int
) -> Tensor:
    """Slide square filters over images, stride 1.

    image_shape = (C, height, width): x [N][C*height*width], one image per row, channel after
    channel. weight [out][C*k*k], one filter per row, bias [1][out]. With padding zeros around
    the image -> [N][out*H*W] with H = height + 2*padding - k + 1, W alike.
    """
    channels, height, width = image_shape
    kernel = math.isqrt(len(weight.data[0]) // channels)
    if len(x.data[0]) != channels * height * width:
        raise ValueError(f"image_shape {image_shape} does not fit {len(x.data[0])} columns")
    if len(weight.data[0]) != channels * kernel * kernel:
        raise ValueError(f"{len(weight.data[0])} weights are not {channels} square filters")
    if kernel > min(height, width) + 2 * padding:
        raise ValueError(f"a filter of {kernel} x {kernel} does not fit {height} x {width} pixels")
    if bias is not None:
        check_is_row(bias, len(weight.data))
    places = patch_places(image_shape, kernel, padding)
    # Each image becomes a matrix of patches (im2col), and the convolution a matrix product. The
    # zero at the end of each row is what lies outside of the image.
    padded = [row + [0.0] for row in x.data]
    patches = [[[row[i] for i in place] for place in places] for row in padded]
    biases = bias.data[0] if bias is not None else [0.0] * len(weight.data)
    out = [
        [dot(patch, w) + b for w, b in zip(weight.data, biases) for patch in image]
        for image in patches
    ]

    def pass_back(d_out: list[list[float]]) -> tuple:
        # maps[n][o]: the gradient of image n's output for filter o, [H*W]
        size = len(places)
        maps = [[row[i : i + size] for i in range(0, len(row), size)] for row in d_out]
        d_x = d_weight = None
        if weight.requires_grad:
            # As in linear, with every patch of every image for one row of x.
            stacked = [sum(rows, []) for rows in zip(*maps)]
            d_weight = matmul(stacked, [patch for image in patches for patch in image])
        if x.requires_grad:
            # A pixel receives from every patch that it was part of.
            d_x = []
            for image_maps in maps:
                d_image = [0.0] * len(padded[0])
                for place, d_patch in zip(places, matmul(transpose(image_maps), weight.data)):
                    for i, d in zip(place, d_patch):
                        d_image[i] += d
                d_x.append(d_image[:-1])
        if bias is None:
            return d_x, d_weight
        return d_x, d_weight, [[sum(map(sum, rows)) for rows in zip(*maps)]]

    return Tensor(out, (x, weight) if bias is None else (x, weight, bias), pass_back)


def patch_places(image_shape: tuple[int, int, int], kernel: int, padding: int) -> list[list[int]]:
    """For each place of a filter, where in an image's row (channel after channel) the C*k*k values
    stand that it reads. What lies outside of the image reads the place after the row's last.

    A 2 x 2 filter at the four places of a 3 x 3 image:
    >>> patch_places((1, 3, 3), kernel=2, padding=0)
    [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]]
    """
    channels, height, width = image_shape
    return [
        [
            (c * height + top + i) * width + left + j
            if 0 <= top + i < height and 0 <= left + j < width
            else channels * height * width
            for c in range(channels)
            for i in range(kernel)
            for j in range(kernel)
        ]
        for top in range(-padding, height + padding - kernel + 1)
        for left in range(-padding, width + padding - kernel + 1)
    ]


def max_pool2d(x: Tensor, image_shape: tuple[int, int, int], kernel: int) -> Tensor:
    """The largest value of each kernel x kernel tile, in steps of kernel.

    image_shape = (C, height, width): x [N][C*height*width], one image per row, channel after
    channel -> [N][C*H*W] with H = height // kernel, W alike. Rows and columns that are left over
    are not read. The gradient goes to the largest value alone, of equal ones to the first.
    """
    channels, height, width = image_shape
    if len(x.data[0]) != channels * height * width:
        raise ValueError(f"image_shape {image_shape} does not fit {len(x.data[0])} columns")
    if not 1 <= kernel <= min(height, width):
        raise ValueError(f"a tile of {kernel} x {kernel} does not fit {height} x {width} pixels")
    tiles = [
        [(c * height + top + i) * width + left + j for i in range(kernel) for j in range(kernel)]
        for c in range(channels)
        for top in range(0, height - kernel + 1, kernel)
        for left in range(0, width - kernel + 1, kernel)
    ]
    # winners[n][m]: where in row n the value stands that tile m passed on
    winners = [[max(tile, key=row.__getitem__) for tile in tiles] for row in x.data]
    out = [[row[i] for i in places] for row, places in zip(x.data, winners)]

    def pass_back(d_out: list[list[float]]) -> tuple:
        d_x = []
        for d_row, places in zip(d_out, winners):
            d_image = [0.0] * (channels * height * width)
            for d, i in zip(d_row, places):
                d_image[i] += d
            d_x.append(d_image)
        return (d_x,)

    return Tensor(out, (x,), pass_back)


def dropout(x: Tensor, p: float, rng: random.Random) -> Tensor:
    """Set each entry of x [N][M] to zero with probability p, and divide the rest by 1 - p.

    The division keeps every entry's expectation. Call it in training only.
    """
    if not 0.0 <= p < 1.0:
        raise ValueError(f"p = {p} is not a probability below 1")
    keep = 1.0 / (1.0 - p)
    mask = [[keep if rng.random() >= p else 0.0 for _ in row] for row in x.data]
    return x * Tensor(mask, requires_grad=False)


# === ACTIVATIONS ===


def relu(x: Tensor) -> Tensor:
    """max(0, x), entry by entry. The slope is 1 above zero and 0 elsewhere, at zero too."""
    data = [[value if value > 0.0 else 0.0 for value in row] for row in x.data]

    def pass_back(d_out: list[list[float]]) -> tuple:
        # An output above zero had an input above zero.
        return ([[d if y > 0.0 else 0.0 for d, y in zip(*rows)] for rows in zip(d_out, data)],)

    return Tensor(data, (x,), pass_back)


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x above zero, negative_slope x elsewhere, entry by entry."""
    return elementwise(
        x,
        lambda value: value if value > 0.0 else negative_slope * value,
        lambda value, _: 1.0 if value > 0.0 else negative_slope,
    )


def elementwise(x: Tensor, function: Callable[[float], float], slope: Callable) -> Tensor:
    """function of every entry of x [N][M]; slope(input, output) is its derivative."""
    data = [list(map(function, row)) for row in x.data]

    def pass_back(d_out: list[list[float]]) -> tuple:
        return (
            [
                list(map(mul, d_row, map(slope, x_row, y_row)))
                for d_row, x_row, y_row in zip(d_out, x.data, data)
            ],
        )

    return Tensor(data, (x,), pass_back)


def tanh(x: Tensor) -> Tensor:
    """tanh, entry by entry. Its slope is 1 - tanh(x)^2."""
    return elementwise(x, math.tanh, lambda _, y: 1.0 - y * y)


def sigmoid_of(value: float) -> float:
    """1 / (1 + exp(-value)), written so that exp never sees a large positive number.

    >>> sigmoid_of(0.0), sigmoid_of(-800.0), sigmoid_of(800.0)
    (0.5, 0.0, 1.0)
    """
    if value >= 0.0:
        return 1.0 / (1.0 + exp(-value))
    small = exp(value)
    return small / (1.0 + small)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), entry by entry. Its slope is s (1 - s)."""
    return elementwise(x, sigmoid_of, lambda _, y: y * (1.0 - y))


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x), entry by entry. With s = sigmoid(x) its slope is s + x s (1 - s)."""

    def slope(value: float, _: float) -> float:
        s = sigmoid_of(value)
        return s + value * s * (1.0 - s)

    return elementwise(x, lambda value: value * sigmoid_of(value), slope)


def gelu(x: Tensor) -> Tensor:
    """x Phi(x), entry by entry, with Phi the normal distribution function (no approximation).

    Its slope is Phi(x) + x phi(x), phi being the normal density.
    """

    def phi(value: float) -> float:
        return 0.5 * (1.0 + erf(value / math.sqrt(2.0)))

    def slope(value: float, _: float) -> float:
        density = exp(-0.5 * value * value) / math.sqrt(2.0 * math.pi)
        return phi(value) + value * density

    return elementwise(x, lambda value: value * phi(value), slope)


def softmax(x: Tensor) -> Tensor:
    """softmax of every row of x [N][M]."""
    data = [softmax_row(row) for row in x.data]

    # y_i = exp(x_i) / total, so dy_i/dx_j = y_i ((i == j) - y_j), and
    # d_x_j = sum_i d_i dy_i/dx_j = y_j (d_j - sum_i d_i y_i).
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_x = []
        for y, d_row in zip(data, d_out):
            mean = dot(y, d_row)
            d_x.append([p * (d - mean) for p, d in zip(y, d_row)])
        return (d_x,)

    return Tensor(data, (x,), pass_back)


# === NORMS ===


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


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Shift and scale every row of x [N][D] to mean 0 and variance 1, then times weight [1][D]
    plus bias [1][D].

    Ba, Kiros & Hinton, "Layer Normalization", 2016, arXiv:1607.06450, eq. 4.
    """
    width = len(x.data[0])
    check_is_row(weight, width)
    check_is_row(bias, width)
    means = [sum(row) / width for row in x.data]
    centred = [[value - mean for value in row] for row, mean in zip(x.data, means)]
    scales = [(dot(row, row) / width + eps) ** -0.5 for row in centred]
    normed = [[value * scale for value in row] for row, scale in zip(centred, scales)]
    gains, shifts = weight.data[0], bias.data[0]
    out = [[n * g + b for n, g, b in zip(row, gains, shifts)] for row in normed]

    # As in rms_norm for the scale; that the mean is taken off takes the mean off the gradient:
    # d_x = s (d - mean(d) - n mean(d n)), with d the gradient of the normed row.
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_x = []
        for d_row, n_row, scale in zip(d_out, normed, scales):
            d_normed = list(map(mul, d_row, gains))
            shift, slope = sum(d_normed) / width, dot(d_normed, n_row) / width
            d_x.append([(d - shift - n * slope) * scale for d, n in zip(d_normed, n_row)])
        d_columns = transpose(d_out)
        d_weight = [[dot(d, n) for d, n in zip(d_columns, transpose(normed))]]
        return d_x, d_weight, [[sum(column) for column in d_columns]]

    return Tensor(out, (x, weight, bias), pass_back)


def normalize(x: Tensor, eps: float = 1e-12) -> Tensor:
    """Scale every row of x [N][D] to length 1; a row shorter than eps is divided by eps."""
    lengths = [max(math.sqrt(dot(row, row)), eps) for row in x.data]
    data = [[value / length for value in row] for row, length in zip(x.data, lengths)]

    # y = x / |x|. Moving x along y changes the length and not y, so that part of the gradient is
    # taken off and the rest divided by the length: d_x = (d - y (d . y)) / |x|. At eps no length
    # changes, and nothing is taken off.
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_x = []
        for d_row, y_row, length in zip(d_out, data, lengths):
            along = dot(d_row, y_row) if length > eps else 0.0
            d_x.append([(d - y * along) / length for d, y in zip(d_row, y_row)])
        return (d_x,)

    return Tensor(data, (x,), pass_back)


# === ATTENTION ===


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


# === LOSSES ===


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


def log_prob(logits: Tensor, targets: Sequence[int]) -> Tensor:
    """log softmax(logits)[target] of every row: logits [N][C], targets N -> [1][N], in nats."""
    check_targets(logits, targets)
    totals = [log_sum_exp(row) for row in logits.data]
    data = [[row[t] - total for total, row, t in zip(totals, logits.data, targets)]]

    # The same derivative as in cross_entropy, with the opposite sign: d_z = d (onehot - p).
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_logits = []
        for row, total, target, d in zip(logits.data, totals, targets, d_out[0]):
            d_row = [-d * exp(z - total) for z in row]
            d_row[target] += d
            d_logits.append(d_row)
        return (d_logits,)

    return Tensor(data, (logits,), pass_back)


def check_targets(logits: Tensor, targets: Sequence[int]) -> None:
    """Raise ValueError unless there is one class number for every row of logits [N][C]."""
    if len(targets) != len(logits.data):
        raise ValueError(f"{len(logits.data)} rows of logits but {len(targets)} targets")
    if not all(0 <= target < len(logits.data[0]) for target in targets):
        raise ValueError(f"a target is not one of the classes 0..{len(logits.data[0]) - 1}")


def softplus(value: float) -> float:
    """log(1 + exp(value)) of one number, written so that exp never sees a large positive one.

    >>> round(softplus(0.0), 6), softplus(-800.0), softplus(800.0)
    (0.693147, 0.0, 800.0)
    """
    return max(value, 0.0) + math.log1p(exp(-abs(value)))


def binary_cross_entropy_with_logits(logits: Tensor, targets: list[list[float]]) -> Tensor:
    """Mean over all entries of -(t log s + (1 - t) log(1 - s)) with s = sigmoid(logit): logits
    [N][M], plain targets [N][M] between 0 and 1 -> [1][1], in nats.

    -log s = softplus(-z) and -log(1 - s) = softplus(z) = softplus(-z) + z, hence
    softplus(z) - t z: no logarithm of a number that was rounded to zero.
    """
    if len(logits.data) != len(targets) or len(logits.data[0]) != len(targets[0]):
        raise ValueError(
            f"logits are {len(logits.data)} x {len(logits.data[0])}, "
            f"targets {len(targets)} x {len(targets[0])}"
        )
    count = len(targets) * len(targets[0])
    pairs = [(z, goal) for row, goals in zip(logits.data, targets) for z, goal in zip(row, goals)]
    loss = sum([softplus(z) - goal * z for z, goal in pairs]) / count

    # The slope of softplus is the sigmoid, so d_z = (s - t) / count.
    def pass_back(d_out: list[list[float]]) -> tuple:
        factor = d_out[0][0] / count
        return (
            [
                [factor * (sigmoid_of(z) - goal) for z, goal in zip(row, goals)]
                for row, goals in zip(logits.data, targets)
            ],
        )

    return Tensor([[loss]], (logits,), pass_back)


def mse_loss(x: Tensor, target: list[list[float]]) -> Tensor:
    """Mean of (x - target)^2 over all entries: x [N][M], plain target [N][M] -> [1][1]."""
    if len(x.data) != len(target) or len(x.data[0]) != len(target[0]):
        raise ValueError(
            f"x is {len(x.data)} x {len(x.data[0])}, target {len(target)} x {len(target[0])}"
        )
    errors = [list(map(sub, row, goal)) for row, goal in zip(x.data, target)]
    count = len(errors) * len(errors[0])
    loss = sum([dot(row, row) for row in errors]) / count

    def pass_back(d_out: list[list[float]]) -> tuple:
        factor = 2.0 * d_out[0][0] / count
        return ([[factor * error for error in row] for row in errors],)

    return Tensor([[loss]], (x,), pass_back)
