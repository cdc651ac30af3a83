"""The optimizers' papers in float64 numpy, written from the papers alone, and how to drive a torch one alike.

Each reference takes theta_0 and the gradients g_1..g_T, all of one shape, and returns theta_1..theta_T.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

Array = np.ndarray


def sgd(theta, gradients, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    """Sutskever et al. 2013 in torch's form: the buffer starts as the first gradient, lr scales the whole step."""
    path, buffer = [], None
    for g in gradients:
        g = g + weight_decay * theta
        buffer = g if buffer is None else momentum * buffer + g
        theta = theta - lr * (g + momentum * buffer if nesterov else buffer)
        path.append(theta)
    return path


def rmsprop(theta, gradients, lr, alpha, eps, momentum=0.0, centered=False, weight_decay=0.0):
    """Hinton's lecture 6e; `centered` from arXiv:1308.0850, eps outside the root as in torch."""
    path, square, mean, buffer = [], 0.0, 0.0, 0.0
    for g in gradients:
        g = g + weight_decay * theta
        square = alpha * square + (1 - alpha) * g**2
        mean = alpha * mean + (1 - alpha) * g
        variance = square - mean**2 if centered else square
        buffer = momentum * buffer + g / (np.sqrt(variance) + eps)
        theta = theta - lr * buffer
        path.append(theta)
    return path


def adam(theta, gradients, lr, betas, eps, weight_decay=0.0, decoupled=False):
    """arXiv:1412.6980, algorithm 1; decoupled: arXiv:1711.05101, algorithm 2."""
    (b1, b2), path, m, v = betas, [], 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        if decoupled:
            theta = theta - lr * weight_decay * theta
        else:
            g = g + weight_decay * theta
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        theta = theta - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        path.append(theta)
    return path


def lion(theta, gradients, lr, betas, weight_decay=0.0):
    """arXiv:2302.06675, program 1."""
    (b1, b2), path, m = betas, [], 0.0
    for g in gradients:
        update = np.sign(b1 * m + (1 - b1) * g)
        theta = theta - lr * (update + weight_decay * theta)
        m = b2 * m + (1 - b2) * g
        path.append(theta)
    return path


def adan(theta, gradients, lr, betas, eps, weight_decay=0.0):
    """arXiv:2208.06677, algorithm 1 with the bias corrections of its authors' code."""
    (b1, b2, b3), path = betas, []
    m = v = n = 0.0
    previous = None
    for t, g in enumerate(gradients, start=1):
        d = 0.0 if previous is None else g - previous
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * d
        n = b3 * n + (1 - b3) * (g + b2 * d) ** 2
        step = lr / (np.sqrt(n / (1 - b3**t)) + eps)
        theta = (theta - step * (m / (1 - b1**t) + b2 * v / (1 - b2**t))) / (1 + lr * weight_decay)
        previous = g
        path.append(theta)
    return path


def random_problem(steps=100, shape=(7, 5), seed=0) -> tuple[Array, list[Array]]:
    """theta_0 and gradients that float32 holds exactly, of scales from 1e-2 to 1e2."""
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-2, 2, size=shape)
    draw = [(rng.normal(size=shape) + 0.3) * scale for _ in range(steps)]
    start, *gradients = (a.astype(np.float32).astype(np.float64) for a in (rng.normal(size=shape), *draw))
    return start, gradients


def torch_path(
    make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer],
    theta: Array,
    gradients: Iterable[Array],
    dtype: torch.dtype = torch.float32,
) -> list[Array]:
    """The same path, walked by a torch optimizer in `dtype`; returned in float64."""
    parameter = torch.nn.Parameter(torch.tensor(theta, dtype=dtype))
    optimizer, path = make([parameter]), []
    for g in gradients:
        parameter.grad = torch.tensor(g, dtype=dtype)
        optimizer.step()
        path.append(parameter.detach().double().numpy().copy())
    return path


def relative_error(path: list[Array], expected: list[Array], theta: Array) -> float:
    """Largest difference at the end, relative to how far the path has led away from theta_0."""
    return float(np.abs(path[-1] - expected[-1]).max() / np.abs(expected[-1] - theta).max())
