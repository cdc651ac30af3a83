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


def nadam(theta, gradients, lr, betas, eps, momentum_decay, weight_decay=0.0, decoupled_weight_decay=False):
    """Dozat 2016, algorithm 8, with a constant b1 in the running mean, as torch has it."""
    (b1, b2), path, m, v, product = betas, [], 0.0, 0.0, 1.0
    mu = lambda t: b1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))  # noqa: E731
    for t, g in enumerate(gradients, start=1):
        if decoupled_weight_decay:
            theta = theta - lr * weight_decay * theta
        else:
            g = g + weight_decay * theta
        product *= mu(t)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        ahead = mu(t + 1) * m / (1 - product * mu(t + 1)) + (1 - mu(t)) * g / (1 - product)
        theta = theta - lr * ahead / (np.sqrt(v / (1 - b2**t)) + eps)
        path.append(theta)
    return path


def muon(theta, gradients, lr, momentum, nesterov=True, ns_steps=5, weight_decay=0.0, **_of_vectors):
    """kellerjordan.github.io/posts/muon for a matrix, its step scaled as in arXiv:2502.16982, equation 4."""
    path, m = [], 0.0
    for g in gradients:
        m = momentum * m + (1 - momentum) * g
        u = (1 - momentum) * g + momentum * m if nesterov else m
        x = u / np.linalg.norm(u)
        for _ in range(ns_steps):
            x = 3.4445 * x - 4.7750 * (x @ x.T) @ x + 2.0315 * (x @ x.T) @ (x @ x.T) @ x
        theta = (1 - lr * weight_decay) * theta - lr * 0.2 * np.sqrt(max(theta.shape)) * x
        path.append(theta)
    return path


def schedule_free(theta, gradients, lr, betas, eps, weight_decay=0.0, r=0.0, weight_lr_power=2.0):
    """arXiv:2405.15682, algorithm 1; the path is that of y, where the gradients are taken."""
    (b1, b2), path, v, total = betas, [], 0.0, 0.0
    x = y = z = theta
    for t, g in enumerate(gradients, start=1):
        v = b2 * v + (1 - b2) * g**2
        z = z - lr * (g / (np.sqrt(v / (1 - b2**t)) + eps) + weight_decay * y)
        weight = t**r * lr**weight_lr_power
        total += weight
        x = (1 - weight / total) * x + weight / total * z
        y = (1 - b1) * z + b1 * x
        path.append(y)
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
    if hasattr(optimizer, "train"):
        optimizer.train()
    for g in gradients:
        parameter.grad = torch.tensor(g, dtype=dtype)
        optimizer.step()
        path.append(parameter.detach().double().numpy().copy())
    return path


def relative_error(path: list[Array], expected: list[Array], theta: Array) -> float:
    """Largest difference at the end, relative to how far the path has led away from theta_0."""
    return float(np.abs(path[-1] - expected[-1]).max() / np.abs(expected[-1] - theta).max())
