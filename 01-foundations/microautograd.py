"""Backpropagation is one algorithm, whether a node of the graph holds one number or a matrix.

To learn, a network must know for each of its numbers how the loss would change if that number
grew a little. One could move each number up and down: 4,820 runs for the small network below.
Backpropagation finds all these slopes, the gradient, in one backward pass, which costs about as
much as two runs. The computation is recorded as a graph, with a node for each result and an edge
to it from each value that it was computed from. Every edge knows its own slope. Along a path of
edges the slopes are multiplied, and over different paths they are added. There is no more to it.

This file builds the algorithm twice. In the first engine a node holds one number (Value): the
clearest form, and the slowest, since each multiplication pays for making, visiting and freeing
Python objects. In the second a node holds a matrix (Tensor): the same order, the same sums, but
the bookkeeping is paid once for each matrix operation. That makes it tens of times faster. Look
at three things in the run: that both engines give the same gradients, to the last digits; how
many nodes each makes for the same batch; and where the time goes, to bookkeeping, to Python's
garbage collector or to arithmetic. Then the second engine trains a network that reads handwritten
digits. All scripts of this collection carry that engine.

In the code    In the papers        Meaning                                           Shape
grad           adjoint, v-bar       derivative of the result by the node's data       as data
local_grads    d(node)/d(parent)    slope of each edge: derivative by one parent      a float each
pass_back      VJP, pullback        gradient of an output in, of its parents out      as parents
order          tape, Wengert list   every node after its parents                      list
x              x                    rows: one for each image of the batch             [N][in]
weight         W                    linear is x W^T + b; papers mostly write W x + b  [out][in]
d_out, d_x     y-bar, x-bar         derivative of the loss by each entry of y, x      as y, x
logits         z                    ten scores for each image; softmax(z) = p         [N][10]

Left out: derivatives of derivatives, operations that change data in place, broadcasting (shapes
must match), and recomputing instead of storing (microcheckpoint.py).

A number marked [results: key] is not from this run: it was recorded from a run with one thing
changed, and stands in results/microautograd.json under that key.

Read first: nothing.

Papers: Linnainmaa, "Taylor expansion of the accumulated rounding error", 1976 (the algorithm is in
his thesis of 1970). Rumelhart, Hinton & Williams, "Learning representations by back-propagating
errors", 1986. Griewank & Walther, "Evaluating Derivatives", 2008. Baydin et al., "Automatic
Differentiation in Machine Learning: a Survey", 2018, arXiv:1502.05767. Paszke et al., "PyTorch",
2019, arXiv:1912.01703. The first engine follows Karpathy's micrograd, 2020.
"""

from __future__ import annotations

import gc
import gzip
import hashlib
import http.client
import math
import os
import random
import time
import tracemalloc
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from math import exp, log
from operator import add, mul, sub
from pathlib import Path

# === CONSTANTS ===

SEED = 42
NUM_TRAIN = 1437  # images to learn from; the other 360 are mostly by other writers
NUM_HIDDEN = 32  # the network is 64 pixels, 32 hidden units, 10 classes
BATCH_SIZE = 16  # images per step; a larger batch makes the first engine slower still
STEP_H = 1e-5  # larger, and the loss bends within it; smaller, and one sees rounding
NUM_CHECKED = 40  # derivatives checked in this way, ten in each of the four matrices
LOCK_STEPS = 5  # steps of training that both engines take side by side
LOCK_RATE = 0.1  # step size of these: plain gradient descent
NUM_EPOCHS = 15  # passes through the training images, second engine alone
LEARNING_RATE = 0.005  # Adam's, at the start; it falls to 0 in a straight line
RACE_ROUNDS = 5  # times are the best of so many: the least disturbed one

# === FINITE DIFFERENCES: THE METHOD TO BEAT ===

# How does the loss change if one of the network's numbers grows a little? One can try it:
# (f(x + h) - f(x - h)) / 2h. That needs no calculus, so it is the check on all that follows. But it
# runs the network twice for each of 2,410 numbers, and subtracts nearly equal losses.


def central_difference(loss: Callable[[], float], parameter: Tensor, i: int, j: int) -> float:
    """d(loss) / d(parameter[i][j]), from the loss with that entry moved up and moved down."""
    kept, ends = parameter.data, []
    for move in (STEP_H, -STEP_H):
        row = list(kept[i])
        row[j] += move
        parameter.data = [*kept[:i], row, *kept[i + 1 :]]
        ends.append(loss())
    parameter.data = kept
    return (ends[0] - ends[1]) / (2.0 * STEP_H)


# === ONE NODE FOR EACH NUMBER ===

# Any computation is made of small steps, and each small step has a slope that it knows by itself:
# if a grows by 0.001, a * b grows by b * 0.001, whatever happens to a * b later. So let every
# number remember its parents and the slope of the edge to each. Then the chain rule does the
# rest: along a path of edges slopes multiply, and where several paths lead from a number to the
# result, they add. d = a * b + a at a = 2, b = 3 has two paths from a: b * 1 and 1, so 3 + 1 = 4.
#
# This is not symbolic differentiation: no formula for the whole is ever written, and loops and
# branches do not matter, since only steps that were really taken are in the graph. Nor is it a
# finite difference: nothing is moved, and the slopes are exact.


class Value:
    """A number that remembers how it was made: from which parents, with which slopes.

    >>> a, b = Value(2.0), Value(3.0)
    >>> (a * b + a).backward()
    >>> a.grad, b.grad
    (4.0, 2.0)
    """

    __slots__ = ("data", "grad", "parents", "local_grads")

    def __init__(self, data: float, parents: tuple = (), local_grads: tuple = ()) -> None:
        self.data = data
        self.grad = 0.0
        self.parents = parents
        self.local_grads = local_grads

    def __add__(self, other: Value) -> Value:
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other: Value | float) -> Value:
        if isinstance(other, Value):
            return Value(self.data * other.data, (self, other), (other.data, self.data))
        return Value(self.data * other, (self,), (other,))  # a constant wants no gradient

    def relu(self) -> Value:
        return Value(max(0.0, self.data), (self,), (1.0 if self.data > 0.0 else 0.0,))

    def exp(self) -> Value:
        result = exp(self.data)
        return Value(result, (self,), (result,))

    def log(self) -> Value:
        return Value(log(self.data), (self,), (1.0 / self.data,))

    def backward(self) -> None:
        """Give every node that self was made from its d(self)/d(node). Once per graph."""
        # Topological order: a node is listed after all of its parents. A node that is taken off
        # the stack for the first time goes back, marked, with its parents on top of it; when it
        # comes up again, they are all listed. (Recursion would overflow on a long chain of nodes.)
        order, visited, stack = [], set(), [(self, False)]
        while stack:
            node, parents_are_listed = stack.pop()
            if parents_are_listed:
                order.append(node)
            elif node not in visited:
                visited.add(node)
                stack.append((node, True))
                stack.extend([(parent, False) for parent in node.parents])
        self.grad = 1.0
        # Multiply along edges, add over paths. With = for += the last path would win.
        for node in reversed(order):
            for parent, local_grad in zip(node.parents, node.local_grads):
                parent.grad += node.grad * local_grad


# Why must the order be topological? Two lines show it, at a = 1:
#
#     b = a + a; c = b + b          c is 4a: the gradient of a is 4
#
# Suppose that nodes are served first come, first served: whoever receives something stands in a
# queue, and sends on all that it holds when it is served. c is served: b receives 1 twice, holds 2,
# and stands in the queue twice. b is served: a receives 2 twice and holds 4. b is served again,
# still holds 2, and a ends with 8, which is wrong. To send on only what is new would be right, but
# it would follow each path separately, and n doublings have 2^n paths. In reverse topological order
# a node is visited once, after all that was computed from it: by then its gradient is complete.


def backward_by_queue(root: Value) -> None:
    """A queue instead of an order, which is wrong: each arrival makes a node send all it holds."""
    root.grad = 1.0
    waiting = [root]
    while waiting:
        node = waiting.pop(0)
        for parent, local_grad in zip(node.parents, node.local_grads):
            parent.grad += node.grad * local_grad
            waiting.append(parent)


# === ONE NODE FOR EACH MATRIX ===

# Now a node holds a matrix, and an edge leads from many numbers to many numbers. The slopes of all
# outputs by all inputs are the Jacobian. For the first layer below these are 16 x 32 outputs by
# 2,048 weights, 1,048,576 slopes, and all but 64 in each row are zero. Nobody writes that down.
# backward() only needs the gradient of the outputs *times* the Jacobian, the vector-Jacobian
# product, and for each operation that is a short formula in matrices: its pass_back. All else
# stays: the same order, the same sums. Since a pass_back is a function, a tensor could become a
# reference cycle: a function that refers to its own tensor. So it gets the gradient as an argument.
# And backward() takes the graph apart as it goes: what fills the memory in training are results of
# the forward pass (activations: linear needs its input again, relu its output), kept until used.
#
# In production: PyTorch keeps a graph of the operations, in C++ (loss.grad_fn). JAX traces a
# function into a program, and derives the backward program from it (jax.vjp, jax.grad).
# torch.compile has AOTAutograd trace and compile forward and backward together.


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


# === THREE OPERATIONS AND THEIR RULES ===

# The matrix rules follow from one entry. With x = [1, 2] and weight = [[3, 4], [5, 6]], linear
# gives y = [1*3 + 2*4, 1*5 + 2*6] = [11, 17]. Say the loss grows 1 and 10 times as fast as these
# two: d_out = [1, 10]. The number x_0 = 1 reaches both, with slopes 3 and 5: d_x_0 = 1*3 + 10*5 =
# 53, which is d_out times the first column of weight. The number 6 of weight reaches only y_1,
# with slope x_1 = 2: its gradient is 10*2 = 20. linear says the same for all entries at once, and
# adds over the images of the batch, since all of them used the same weights.


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


# Softmax turns logits z into probabilities p; the loss is -log of the one that the right class
# got. Both in one operation have the gradient p - onehot: for z = (ln 3, 0), p = (3/4, 1/4), and
# if the second class was right, d_z = (3/4, -3/4). Taken singly, -log has the slope -1/p, and
# softmax has slopes with p as a factor; on paper the p cancel. In floats p may be exactly 0: for
# z = (1000, 0), second class right, the logarithm fails. In one operation the loss is 1000 and d_z
# is (1, -1). (torch.nn.functional.cross_entropy takes logits for the same reason.)


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


# === ONE NETWORK, WRITTEN TWICE ===

# 64 pixels, 32 hidden units, 10 logits: first with a node for each product and each sum, image
# by image; then with a node for each layer of the whole batch. Read them side by side.


def number_loss(numbers: list, images: list[list[float]], labels: list[int]) -> Value:
    """The mean cross-entropy of N images, with Values in the four matrices."""
    weight_1, (bias_1,), weight_2, (bias_2,) = numbers
    losses = []
    for image, label in zip(images, labels):
        hidden = [sum(map(mul, row, image), start=b).relu() for row, b in zip(weight_1, bias_1)]
        logits = [sum(map(mul, row, hidden), start=b) for row, b in zip(weight_2, bias_2)]
        # The largest logit is taken off: it cancels in the softmax, and exp cannot overflow.
        largest = Value(-max([z.data for z in logits]))  # a constant, but + takes only Values
        shifted = [z + largest for z in logits]
        first, *others = [z.exp() for z in shifted]
        losses.append(sum(others, start=first).log() + shifted[label] * -1.0)
    return sum(losses[1:], start=losses[0]) * (1.0 / len(losses))


def matrix_logits(parameters: list[Tensor], images: list[list[float]]) -> Tensor:
    """Images [N][64] -> logits [N][10]."""
    weight_1, bias_1, weight_2, bias_2 = parameters
    hidden = relu(linear(Tensor(images, requires_grad=False), weight_1, bias_1))
    return linear(hidden, weight_2, bias_2)


def matrix_loss(parameters: list[Tensor], images: list, labels: list[int]) -> Tensor:
    """The same mean cross-entropy, with one node for each operation: [1][1]."""
    return cross_entropy(matrix_logits(parameters, images), labels)


# === THE SAME GRADIENTS ===

# The engines share no rule for a derivative, so a wrong one in either would show. The central
# differences know no rules at all: where they are tried, an error that both made would show. Why
# so careful? A wrong gradient often still learns. With ReLU's slope left out of pass_back the
# network reads 88.3% [results: relu_slope_one.test_accuracy] of the test digits.


def train_in_lock_step(
    parameters: list[Tensor], batches: list
) -> tuple[list[tuple[float, float, float]], float]:
    """A step of gradient descent on each batch, with both engines from the same numbers -> for
    each step (loss by numbers, loss by matrices, largest difference of a gradient), and the
    largest difference of a number at the end.
    """
    numbers, steps = as_values(parameters), []
    for batch in batches:
        number, matrix = number_loss(numbers, *batch), matrix_loss(parameters, *batch)
        number.backward()
        matrix.backward()
        difference = largest_difference(numbers, parameters, "grad")
        steps.append((number.data, matrix.item(), difference))
        # backward() has changed no parameter: it is this step that trains. It also clears the
        # gradients, since backward() adds to what is there. That is a convention, not mathematics:
        # it allows a large batch to be processed in parts, but whoever forgets to clear
        # (optimizer.zero_grad() in PyTorch) follows the gradients of all old batches too: Adam
        # would below end at 49.7% [results: adam_never_cleared.test_accuracy].
        descend(numbers, parameters)
    return steps, largest_difference(numbers, parameters, "data")


# === THE RACE ===

# What makes one node per number slow is not the arithmetic but what comes with it: for each
# product, and again for each sum, Python makes an object and two tuples, finds the node's place in
# the order, visits it, and frees it. A hidden cost is the cyclic garbage collector. It runs
# whenever many more objects have been made than freed, and searches living ones (new ones often,
# old ones more rarely) for reference cycles. While a graph is built it runs again and again, and
# finds none. So it can be switched off here, with no effect on the results. (In micrograd it
# cannot: there each node keeps a closure that refers to that node.)
#
# Does the second engine only win because its dot products run in C? It also races with a Python
# loop in place of dot: what remains is mostly the gain of having fewer nodes.
#
# The run also prints what three ways to all derivatives take (forward mode is not built here). Let
# J be the Jacobian of the whole program, results by inputs. Forward mode carries slopes along from
# one input: a column of J in each pass. Reverse mode carries them back from one result: a row. A
# loss is one number that depends on thousands, so J is one long row, and reverse mode has it in
# one pass. That costs no more than a few forward passes, since each edge is used once in each
# direction (the cheap gradient principle).


def race(
    parameters: list[Tensor], images: list, labels: list[int]
) -> tuple[list[tuple[int, float]], dict[str, float]]:
    """Forward and backward of one batch -> (nodes, megabytes held between the two) of each engine,
    and times in milliseconds by name.
    """
    numbers, matrices = as_values(parameters), [Tensor(p.data) for p in parameters]
    forwards = (
        lambda: number_loss(numbers, images, labels),
        lambda: matrix_loss(matrices, images, labels),
    )
    sizes = [(count_nodes(run()), megabytes_held(run)) for run in forwards]
    by_number, by_matrix = [lambda run=run: run().backward() for run in forwards]
    times = {"number, collector on": milliseconds(by_number)}
    gc.disable()
    times["number"] = milliseconds(by_number)
    times["matrix"] = milliseconds(by_matrix)
    times["matrix, forward only"] = milliseconds(forwards[1])
    kept = dot
    globals()["dot"] = dot_in_a_loop  # linear looks it up at each call
    times["matrix, loop in Python"] = milliseconds(by_matrix)
    globals()["dot"] = kept
    gc.enable()
    return sizes, times


# === TRAINING, AND READING DIGITS ===

# To learn takes a loss, backward, and a step. The step is Adam's: along a running mean of the
# gradients, with a step size of its own for each number (microoptimizer.py).


def train(parameters: list[Tensor], training: tuple, test: tuple, rng: random.Random) -> None:
    """Change the parameters, batch by batch, so that the right class becomes more likely."""
    optimizer = Adam(parameters)
    num_steps, step = NUM_EPOCHS * math.ceil(NUM_TRAIN / BATCH_SIZE), 0
    for epoch in range(1, NUM_EPOCHS + 1):
        total = 0.0
        for batch in batches_of(*training, rng.sample(range(NUM_TRAIN), NUM_TRAIN)):
            loss = matrix_loss(parameters, *batch)
            loss.backward()
            optimizer.step(LEARNING_RATE * (1.0 - step / num_steps))
            step += 1
            total += loss.item() * len(batch[1])
        if epoch % 3 == 0:
            mean, right = total / NUM_TRAIN, accuracy(parameters, *test)
            print(f"step {step:4d}/{num_steps} | loss {mean:.4f} | test accuracy {right:.3f}")


def main() -> dict[str, object]:
    """Toy graphs, one network in both engines, the race, and digits that are read."""
    rng = random.Random(SEED)
    toys = report_toys()

    images, labels = load_digits()
    training = images[:NUM_TRAIN], labels[:NUM_TRAIN]
    test = images[NUM_TRAIN:], labels[NUM_TRAIN:]
    batches = list(batches_of(*training, range(LOCK_STEPS * BATCH_SIZE)))
    parameters = new_parameters(rng)
    difference_error = central_difference_error(parameters, *batches[0], rng)
    steps, difference = train_in_lock_step(parameters, batches)
    report_agreement(parameters, difference_error, steps, difference)
    sizes, times = race(parameters, *batches[0])
    report_race(parameters, sizes, times)

    print(f"\nTraining on {NUM_TRAIN:,} digits with one node per matrix")
    train(parameters, training, test, rng)
    report_digits(parameters, *test)
    headline = {
        "grad_max_diff": max([step[2] for step in steps]),
        "lockstep_max_diff": max([difference, *[abs(a - b) for a, b, _ in steps]]),
        "finite_difference_error": difference_error,
        "node_ratio": sizes[0][0] / sizes[1][0],
        "test_accuracy": accuracy(parameters, *test),
    }
    report_conclusion(headline, times)
    return {**headline, "details": {"toys": toys, "steps": steps, "sizes": sizes, "times": times}}


# === APPENDIX: REPORT AND HELPERS ===


def new_parameters(rng: random.Random) -> list[Tensor]:
    """Four matrices: [32][64], [1][32], [10][32], [1][10]. Weights start at random, else all hidden
    units would stay alike; a spread of sqrt(2 / inputs) keeps the size of the sums about the same
    from one ReLU layer to the next (He et al., 2015, arXiv:1502.01852). Biases start at 0.
    """
    sizes = (64, NUM_HIDDEN, 10)
    parameters = []
    for n_in, n_out in zip(sizes, sizes[1:]):
        spread = math.sqrt(2.0 / n_in)
        rows = [[rng.gauss(0.0, spread) for _ in range(n_in)] for _ in range(n_out)]
        parameters += [Tensor(rows), Tensor([[0.0] * n_out])]
    return parameters


def batches_of(
    images: list[list[float]], labels: list[int], order: Sequence[int]
) -> Iterator[tuple[list[list[float]], list[int]]]:
    """The examples with the numbers in order, BATCH_SIZE of them at a time."""
    for start in range(0, len(order), BATCH_SIZE):
        batch = order[start : start + BATCH_SIZE]
        yield [images[i] for i in batch], [labels[i] for i in batch]


def as_values(parameters: list[Tensor]) -> list[list[list[Value]]]:
    """The same matrices with a Value for each number."""
    return [[[Value(x) for x in row] for row in parameter.data] for parameter in parameters]


def central_difference_error(
    parameters: list[Tensor], images: list, labels: list[int], rng: random.Random
) -> float:
    """NUM_CHECKED gradients against central differences: the largest relative error."""

    def loss() -> float:
        return matrix_loss(parameters, images, labels).item()

    matrix_loss(parameters, images, labels).backward()
    errors = []
    for parameter in parameters:
        for _ in range(NUM_CHECKED // len(parameters)):
            i, j = rng.randrange(len(parameter.data)), rng.randrange(len(parameter.data[0]))
            slope = central_difference(loss, parameter, i, j)
            # Near 0 a difference of losses is mostly rounding: it is compared with 1e-4 there.
            errors.append(abs(slope - parameter.grad[i][j]) / max(abs(slope), 1e-4))
        parameter.grad = None
    return max(errors)


def largest_difference(numbers: list, parameters: list[Tensor], attribute: str) -> float:
    """The largest difference between the engines, over all entries of "data" or of "grad"."""
    ours = [x for p in parameters for row in getattr(p, attribute) for x in row]
    theirs = [getattr(value, attribute) for matrix in numbers for row in matrix for value in row]
    return max([abs(a - b) for a, b in zip(ours, theirs, strict=True)])


def descend(numbers: list, parameters: list[Tensor]) -> None:
    """One step of gradient descent for both engines, each with its own gradients; clears them."""
    for matrix, parameter in zip(numbers, parameters):
        for value in sum(matrix, []):
            value.data -= LOCK_RATE * value.grad
            value.grad = 0.0
        rows = zip(parameter.data, parameter.grad)
        parameter.data = [[x - LOCK_RATE * g for x, g in zip(*pair)] for pair in rows]
        parameter.grad = None


def accuracy(parameters: list[Tensor], images: list, labels: list[int]) -> float:
    """The share of images whose right class has the largest logit."""
    logits = matrix_logits(parameters, images).data
    return sum([row.index(max(row)) == label for row, label in zip(logits, labels)]) / len(labels)


def dot_in_a_loop(a: Sequence[float], b: Sequence[float]) -> float:
    """What dot does, one multiplication after the other in Python."""
    total = 0.0
    for x, y in zip(a, b):
        total += x * y
    return total


def count_nodes(root: Value | Tensor) -> int:
    """How many nodes the graph of a result has, itself and the leaves included.

    >>> a = Value(1.0)
    >>> count_nodes(a + a)
    2
    """
    found, stack = {root}, [root]
    while stack:
        new = set(stack.pop().parents) - found
        found |= new
        stack.extend(new)
    return len(found)


def milliseconds(job: Callable[[], object]) -> float:
    """How long one call takes: the best of RACE_ROUNDS."""
    times = []
    for _ in range(RACE_ROUNDS):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return 1000.0 * min(times)


def megabytes_held(job: Callable[[], object]) -> float:
    """The memory that the result of a call holds, to a tenth of a megabyte."""
    tracemalloc.start()
    result = job()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del result
    return round(held / 1e6, 1)


def report_toys() -> dict[str, float]:
    """A graph of two operations, drawn; the order of visits; sixty doublings."""
    a, b = Value(2.0), Value(3.0)
    e = a * b
    d = e + a
    d.backward()
    box = {name: f"[{name}  {v.data:g} | {v.grad:g}]" for name, v in zip("abed", (a, b, e, d))}
    a_to_e, b_to_e, e_to_d, a_to_d = [f"{s:g}" for s in (*e.local_grads, *d.local_grads)]
    upper = f"  {box['b']} ---- {b_to_e} ----+"
    middle = f"  {box['a']} -+-- {a_to_e} ----{box['e']} ---- {e_to_d} ----{box['d']}"
    left, right = middle.index("-+-") + 1, middle.rindex("[")
    print("e = a * b, d = e + a. In a box: value | gradient of d. On an edge: its slope.\n")
    print(upper)
    print(" " * (len(upper) - 1) + "|")
    print(middle)
    print(" " * left + "|" + " " * (right - left - 1) + "|")
    print(" " * left + "+" + f" {a_to_d} ".center(right - left - 1, "-") + "+")
    print(f"\nTwo paths lead from a to d: {a_to_e} * {e_to_d} + {a_to_d} = {a.grad:g}.")
    return {"two_paths": a.grad, **report_order()}


def report_order() -> dict[str, float]:
    """The counterexample for the order of visits, and sixty doublings."""
    gradients = []
    for backward in (Value.backward, backward_by_queue):
        a = Value(1.0)
        b = a + a
        backward(b + b)
        gradients.append(a.grad)
    print("\nb = a + a, c = b + b, so c = 4a. The gradient that reaches a,")
    print(f"  if each node waits until its own is complete:       {gradients[0]:g}")
    print(f"  if every arrival makes a node send all that it has: {gradients[1]:g}")
    start = top = Value(1.0)
    for _ in range(60):
        top = top + top
    top.backward()
    verdict = "is" if start.grad == 2.0**60 else "should be"
    print(f"60 doublings have 2^60 paths, but {count_nodes(top)} nodes, each visited once:")
    print(f"  the gradient {start.grad:,.0f} {verdict} 2^60")
    return {"complete": gradients[0], "by_queue": gradients[1], "doublings": start.grad}


def report_agreement(
    parameters: list[Tensor], difference_error: float, steps: list, difference: float
) -> None:
    """The engines side by side, one line per step."""
    total = sum(len(p.data) * len(p.data[0]) for p in parameters)
    print(
        f"\nA network of {total:,} numbers reads batches of {BATCH_SIZE} digits, in both engines."
    )
    print(f"The loss, and the largest difference between them over {total:,} derivatives:")
    print("step   one node per number   one node per matrix    largest difference")
    for step, (number, matrix, gradients) in enumerate(steps, 1):
        print(f"{step:4d}{number:22.15f}{matrix:22.15f}{gradients:22.1e}")
    print(f"After {len(steps)} steps the {total:,} numbers differ by at most {difference:.1e}.")
    print(
        f"Against {NUM_CHECKED} central differences: largest relative error {difference_error:.0e}"
    )


def report_race(
    parameters: list[Tensor], sizes: list[tuple[int, float]], times: dict[str, float]
) -> None:
    """What one batch costs in either engine, and what all derivatives cost in three ways."""
    total = sum(len(p.data) * len(p.data[0]) for p in parameters)
    products = BATCH_SIZE * sum(len(p.data) * len(p.data[0]) for p in parameters[::2])
    print(f"\nThe race: {BATCH_SIZE} digits forward and backward ({products:,} multiplications")
    print("forward). Memory is what the graph holds before backward begins.")
    print("engine                     nodes   nodes per multiplication      memory")
    for name, (nodes, held) in zip(("one node per number", "one node per matrix"), sizes):
        memory = f"{held:.1f} MB" if held else "< 0.1 MB"
        print(f"{name:<22}{nodes:>10,}{nodes / products:>27.4f}{memory:>12}")
    print(f"time  one node per number, collector on   {times['number, collector on']:8.1f} ms")
    print(f"time  one node per number, collector off  {times['number']:8.1f} ms")
    print(f"time  one node per matrix, loop in Python {times['matrix, loop in Python']:8.1f} ms")
    print(f"time  one node per matrix, loop in C      {times['matrix']:8.1f} ms")

    forward = times["matrix, forward only"]
    seconds = 2 * total * forward / 1000.0
    print(f"\nThree ways to {total:,} derivatives       runs forward   runs backward")
    print(f"central differences, two per number{2 * total:>15,}{0:>16}")
    print(f"forward mode, once per number{total:>21,}{0:>16}")
    print(f"reverse mode, from the loss{1:>23}{1:>16}")
    print(f"time  a run forward: {forward:.2f} ms; central differences would take {seconds:.1f} s")
    print(f"time  forward and backward together cost {times['matrix'] / forward:.1f} runs forward")


def report_digits(parameters: list[Tensor], images: list[list[float]], labels: list[int]) -> None:
    """Five test images side by side, the last one a mistake, and the classes they are given."""
    probabilities = list(map(softmax_row, matrix_logits(parameters, images).data))
    right = [row.index(max(row)) == label for row, label in zip(probabilities, labels)]
    correct = [i for i, is_right in enumerate(right) if is_right]
    mistakes = [i for i, is_right in enumerate(right) if not is_right]
    shown = correct[:: max(1, len(correct) // 4)][:4]
    shown += sorted(mistakes, key=lambda i: -max(probabilities[i]))[:1]
    print("\nTest digits and the likeliest classes; the last is the most confident mistake")
    for top in range(0, 64, 8):
        pixels = [ink for i in shown for ink in images[i][top : top + 8]]
        print("".join([2 * " .:-=+*#%@"[int(9 * ink)] for ink in pixels]).rstrip())
    for place in range(3):
        cells = []
        for row in [probabilities[i] for i in shown]:
            likely = sorted(range(10), key=lambda c: -row[c])[place]
            cells.append(f"{likely} {'#' * round(8 * row[likely]):<9}{row[likely]:4.0%} ")
        print("".join(cells).rstrip())
    print("".join([f"truly {labels[i]:<10}" for i in shown]).rstrip())


def report_conclusion(numbers: dict[str, float], times: dict[str, float]) -> None:
    """Say in words what the run has shown, whatever it has shown."""
    largest = max(numbers["grad_max_diff"], numbers["lockstep_max_diff"])
    verdict = "no more than rounding" if largest <= 1e-10 else "one of them is wrong"
    print(f"\nThe network reads {numbers['test_accuracy']:.1%} of the test digits; guessing, 10%.")
    print(f"The engines never differed by more than {largest:.0e}: {verdict}.")
    print(
        f"But the first made {numbers['node_ratio']:,.0f} times as many nodes for the same batch."
    )
    on, off, loop = [
        times[name] / times["matrix"]
        for name in ("number, collector on", "number", "matrix, loop in Python")
    ]
    print(f"time  It took {off:.0f} times as long, and {on:.0f} times with the collector on.")
    print(f"time  {off:.0f} is {off / loop:.0f} * {loop:.1f}: fewer nodes, and dot looping in C.")


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


# === APPENDIX: DATA (common/data.py) ===

# Where a script finds its data when it was copied out of the repository.
DATA_URL = "https://raw.githubusercontent.com/Mathews-Tom/no-magic/main/data/"
DIGITS_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"


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


def load_digits() -> tuple[list[list[float]], list[int]]:
    """1,797 handwritten digits: images [1797][64] of values 0 to 1 (8 x 8 pixels), and labels.

    A pixel counts the ink in a 4 x 4 block of the scan, 0 to 16. The rows stand in the order of
    their writers, so a test on the last rows is mostly a test on new handwriting (one writer may
    stand on both sides of the cut).
    """
    text = gzip.decompress(load_data("digits.csv.gz", DIGITS_SHA256)).decode("ascii")
    rows = [list(map(int, line.split(","))) for line in text.split()]
    return [[ink / 16.0 for ink in row[:64]] for row in rows], [row[64] for row in rows]


if __name__ == "__main__":
    main()
