"""The optimisers, once. 01-foundations/microoptimizer.py explains them.

Scripts carry exact copies of the pieces that they use (tools/sync.py writes and checks them).
An optimiser is given its parameters once; step(lr) applies their gradients and clears them.
"""

from __future__ import annotations

import math
from operator import mul

from common.engine import Tensor


class SGD:
    """Stochastic gradient descent: v <- momentum v + g, then x <- x - lr v."""

    def __init__(self, parameters: list[Tensor], momentum: float = 0.0) -> None:
        self.parameters = parameters
        self.momentum = momentum
        self.velocity: list[list[list[float]] | None] = [None] * len(parameters)

    def step(self, lr: float) -> None:
        """Take one step of size lr along the gradients, and clear them."""
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                continue
            velocity = self.velocity[index]
            if velocity is None or self.momentum == 0.0:
                velocity = parameter.grad
            else:
                velocity = [
                    [self.momentum * v + g for v, g in zip(v_row, g_row)]
                    for v_row, g_row in zip(velocity, parameter.grad)
                ]
            self.velocity[index] = velocity
            parameter.data = [
                [x - lr * v for x, v in zip(x_row, v_row)]
                for x_row, v_row in zip(parameter.data, velocity)
            ]
            parameter.grad = None


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


class AdamW(Adam):
    """Adam with decoupled weight decay: each step also shrinks every parameter by lr * decay.

    Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2019, arXiv:1711.05101,
    algorithm 2. The decay does not pass through Adam's scaling, so it acts on all numbers alike.
    """

    def __init__(
        self,
        parameters: list[Tensor],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, betas, eps)
        self.weight_decay = weight_decay

    def step(self, lr: float) -> None:
        """Take one step with learning rate lr, and clear the gradients."""
        shrink = 1.0 - lr * self.weight_decay
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.data = [[x * shrink for x in row] for row in parameter.data]
        super().step(lr)


class SparseAdam(Adam):
    """Adam that passes over rows whose gradient is all zero: of a large table, those not in use.

    Neither they nor their running means change, so a step costs what its batch uses. Adam would
    move them on, by what is left in their running mean: the two are not the same.
    """

    def step(self, lr: float) -> None:
        """Take one step with learning rate lr, and clear the gradients."""
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                continue
            self.num_steps[index] += 1
            data, means = list(parameter.data), list(self.means[index])
            squares = list(self.squares[index])
            rate = lr / (1.0 - self.betas[0] ** self.num_steps[index])
            scale = (1.0 - self.betas[1] ** self.num_steps[index]) ** -0.5
            for i, g_row in enumerate(parameter.grad):
                if any(g_row):
                    means[i] = self.averaged(means[i], g_row, self.betas[0])
                    g_squared = list(map(mul, g_row, g_row))
                    squares[i] = self.averaged(squares[i], g_squared, self.betas[1])
                    data[i] = [
                        x - rate * m / (scale * math.sqrt(s) + self.eps)
                        for x, m, s in zip(data[i], means[i], squares[i])
                    ]
            parameter.data, self.means[index], self.squares[index] = data, means, squares
            parameter.grad = None

    @staticmethod
    def averaged(mean: list[float], new: list[float], beta: float) -> list[float]:
        """The running mean, moved towards what is new."""
        return [beta * m + (1.0 - beta) * x for m, x in zip(mean, new)]


def clip_grad_norm_(parameters: list[Tensor], max_norm: float) -> float:
    """Scale all gradients down together if their joint length exceeds max_norm; return the length
    that they had.
    """
    rows = [row for p in parameters if p.grad is not None for row in p.grad]
    norm = math.sqrt(sum([g * g for row in rows for g in row]))
    if norm > max_norm:
        factor = max_norm / norm
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = [[g * factor for g in row] for row in parameter.grad]
    return norm
