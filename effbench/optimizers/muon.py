"""Muon for the matrices of hidden layers and AdamW for all other parameters, with one learning rate.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by the nearest orthogonal
matrix, approximately, by five steps of a Newton-Schulz iteration. The move is scaled by 0.2 sqrt(max(rows, columns))
(arXiv:2502.16982, section 2.2), which gives it AdamW's usual root mean square of 0.2 to 0.4: one learning rate and one
weight decay serve both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.optimizer import ParamsT

from effbench.config.options import FRACTION_BELOW_1, POSITIVE, Rule
from effbench.errors import ConfigError, OptionError, unknown_name
from effbench.optimizers.checks import (
    check_state,
    checked_betas,
    checked_lr,
    checked_number,
    checked_options,
    checked_weight_decay,
    closure_loss,
    current_lr,
    fill_in_options,
    refuse_sparse,
)
from effbench.optimizers.fused import gradient_of
from effbench.optimizers.hidden_matrices import hidden_matrices

FORMATS = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
AUTO = "auto"

# The authors': they push small singular values up fast; the others end between 0.7 and 1.2, which does no harm.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_LEAST_NORM = 1e-7  # torch.optim.Muon's; the gradient of an unused matrix is 0, and is divided by it
# torch.optim.Muon refuses 100 and more, too
_NS_STEPS = Rule[int](Annotated[int, Field(ge=1, le=99)], "a whole number from 1 to 99")
_OPTIONS = (  # of a group
    *("lr", "betas", "eps", "weight_decay", "momentum", "nesterov", "ns_steps", "ns_dtype", "fused", "maximize"),
    "use_muon",
)
_MATRIX_STATE, _ADAMW_STATE = ("momentum_buffer",), ("step", "exp_avg", "exp_avg_sq")


def _checked_format(name: str) -> str:
    if name not in (AUTO, *FORMATS):
        raise OptionError(unknown_name("optimizer.ns_dtype", str(name), (AUTO, *FORMATS)))
    return name


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "lr": partial(checked_lr, remedy="AdamW's range fits: 1e-4 to 3e-3 and more."),
    "betas": partial(checked_betas, count=2, remedy="They are AdamW's; [0.9, 0.95] is usual beside Muon."),
    "eps": partial(checked_number, key="eps", rule=POSITIVE, remedy="It is AdamW's; 1e-8 is common."),
    "weight_decay": checked_weight_decay,
    "momentum": partial(checked_number, key="momentum", rule=FRACTION_BELOW_1, remedy="The authors' is 0.95."),
    "ns_steps": partial(_NS_STEPS.check, key="optimizer.ns_steps", remedy="The authors' is 5; more change little."),
    "ns_dtype": _checked_format,
}


class Muon(torch.optim.Optimizer):
    """Muon for matrices; AdamW for vectors, and for groups with use_muon=False.

    With g the gradient of a matrix, and NS the Newton-Schulz iteration:
        m = momentum m + (1 - momentum) g;  u = (1 - momentum) g + momentum m, or m without nesterov
        theta = (1 - lr wd) theta - lr 0.2 sqrt(max(rows, columns)) NS(u)
    With ns_dtype="bfloat16" it is torch.optim.Muon with adjust_lr_fn="match_rms_adamw" to the bit; the rest is
    torch.optim.AdamW to the bit. A tensor of more dimensions counts as the matrix first x (all others). State: 4 bytes
    a parameter of a matrix (`momentum_buffer`), 8 of others, in float32.

    Args:
        params: parameters, or groups that may set use_muon and every option below. `divide_groups` finds the groups
            of a model; without groups every tensor of two or more dimensions is orthogonalized, also embeddings and
            output layers, where AdamW is better.
        lr: learning rate of both, >= 0; a tensor of one element stays a tensor.
        betas: AdamW's two numbers in [0, 1).
        eps: added to AdamW's denominator, > 0.
        weight_decay: decoupled decay, >= 0.
        momentum: Muon's, in [0, 1).
        nesterov: look ahead along the momentum.
        ns_steps: steps of the iteration, 1 to 99.
        ns_dtype: number format of the iteration: 'bfloat16' (torch's), 'float32', 'float64', or 'auto': float32 on
            CPUs, most of which have no fast matrix products in bfloat16, else bfloat16.
        fused: use AdamW's fused kernel.
        maximize: maximize the objective instead of minimizing it.

    Raises:
        OptionError: a value is out of range, or a matrix is complex.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2e-3,
        betas: Sequence[float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        ns_dtype: str = AUTO,
        fused: bool = False,
        maximize: bool = False,
    ) -> None:
        numbers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        options = checked_options({**numbers, "ns_steps": ns_steps, "ns_dtype": ns_dtype}, _CHECKS)
        switches = {"nesterov": nesterov, "fused": fused, "maximize": maximize, "use_muon": True}
        super().__init__(params, options | switches)

    @staticmethod
    def divide_groups(groups: list[dict[str, Any]], model: nn.Module, heads: Collection[str]) -> list[dict[str, Any]]:
        """Divide parameter groups into hidden matrices (use_muon=True) and parameters for AdamW.

        Args:
            groups: groups with name and params, from `parameter_groups`.
            model: the model.
            heads: names of its output layers.

        Returns:
            The groups, none empty, named 'decay.muon', 'decay.adamw', 'no_decay.adamw'.

        Raises:
            ConfigError: there is no hidden matrix to train.
        """
        # by identity: comparing tensors compares their elements
        matrices = set(map(id, hidden_matrices(model, heads)))
        divided = []
        for group in groups:
            for use_muon, suffix in ((True, "muon"), (False, "adamw")):
                params = [parameter for parameter in group["params"] if (id(parameter) in matrices) is use_muon]
                # logs and metrics.csv have a column lr/NAME for each group
                name = f"{group['name']}.{suffix}"
                divided.append({**group, "name": name, "params": params, "use_muon": use_muon})
        if not any(group["use_muon"] and group["params"] for group in divided):
            raise ConfigError(
                "optimizer muon needs a matrix of a hidden layer to train, and this model has none: its first layer, "
                "output layer, embeddings, vectors and grouped convolutions are AdamW's. Use optimizer=adamw."
            )
        return [group for group in divided if group["params"]]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fill in options that a checkpoint of another class lacks. load_state_dict calls it too."""
        super().__setstate__(state)
        fill_in_options(self, _OPTIONS)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(checked_options(param_group, _CHECKS))
        group = self.param_groups[-1]
        if any(torch.is_complex(parameter) and _is_matrix(parameter, group) for parameter in group["params"]):
            # super() has appended it: remove it, so that the optimizer stays valid after the error
            self.param_groups.pop()
            raise OptionError(
                "optimizer muon cannot orthogonalize complex matrices. Give their group use_muon=False, for AdamW."
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; raise OptionError if a parameter's state is another optimizer's."""
        saved = [key for group in state_dict["param_groups"] for key in group["params"]]
        own = [(parameter, group) for group in self.param_groups for parameter in group["params"]]
        for key, (parameter, group) in zip(saved, own, strict=False):  # torch's own check names unequal counts
            # By parameter: another model divides otherwise, and the state of a matrix is not that of a vector.
            names = _MATRIX_STATE if _is_matrix(parameter, group) else _ADAMW_STATE
            check_state({"state": {key: state_dict["state"].get(key, {})}}, names, "muon")
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the closure's loss, or None without a closure."""
        loss = closure_loss(closure)
        refuse_sparse(self.param_groups, "muon")
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in parameters:
                if _is_matrix(parameter, group):
                    self._update_matrix(parameter, group)
            self._update_others([parameter for parameter in parameters if not _is_matrix(parameter, group)], group)
        return loss

    def _update_matrix(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, lr, momentum = self.state[parameter], current_lr(group), group["momentum"]
        # a new tensor, not neg_: the caller may read its gradients after the step
        gradient = -gradient_of(parameter) if group["maximize"] else gradient_of(parameter)
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        # a mean, not SGD's sum: the size of the update does not depend on the momentum
        buffer = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        update = gradient.lerp(buffer, momentum) if group["nesterov"] else buffer
        # flatten follows the logical order of dimensions: channels_last gives the same numbers
        fastest = torch.float32 if parameter.device.type == "cpu" else torch.bfloat16
        direction = orthogonalized(update.flatten(1), group["ns_steps"], FORMATS.get(group["ns_dtype"], fastest))
        # decoupled, as AdamW's: before the move, so that it shrinks the old weights
        parameter.mul_(1 - lr * group["weight_decay"])
        scale = 0.2 * math.sqrt(max(direction.shape))
        parameter.add_(direction.reshape(parameter.shape), alpha=-(lr * scale))

    def _update_others(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        if not parameters:
            return
        states = [self.state[parameter] for parameter in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            if not state:
                # as torch: a fused kernel counts on the device, others on the CPU, where reading waits for no device
                device = parameter.device if group["fused"] else "cpu"
                state["step"] = torch.zeros((), dtype=torch.float32, device=device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [gradient_of(parameter) for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"] or None,  # None: torch chooses between its other two
            has_complex=any(map(torch.is_complex, parameters)),
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=current_lr(group),
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )


def orthogonalized(matrix: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """Return U S V^T of a matrix with SVD U D V^T, where S is near the identity: a quintic Newton-Schulz iteration.

    The arithmetic is torch.optim.Muon's.

    Args:
        matrix: (rows, columns) real; not changed.
        steps: number of iterations.
        dtype: number format of the iteration and of the result.

    Returns:
        (rows, columns) of `dtype`.
    """
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]  # the products then have the smaller of both sides
    x = matrix.to(dtype, copy=True)
    x = x.T if tall else x
    x.div_(x.norm().clamp(min=_LEAST_NORM))  # the largest singular value is now at most 1
    for _ in range(steps):
        # on each singular value s: a s + b s^3 + c s^5
        gram = x @ x.T
        quintic = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, quintic, x, beta=a)
    return x.T if tall else x


def _is_matrix(parameter: Tensor, group: dict[str, Any]) -> bool:
    return bool(group["use_muon"]) and parameter.ndim >= 2
