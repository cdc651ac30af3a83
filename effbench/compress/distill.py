"""distill=true: half of the loss of fine-tuning is against the answers of the run before (arXiv:1503.02531)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from effbench.cpu.accelerate import accelerate
from effbench.errors import ConfigError, first_line
from effbench.tasks.task import Task
from effbench.training.callbacks import Callback, Context
from effbench.training.penalty import logits_of
from effbench.training.trainer import Trainer

TEMPERATURE = 2.0  # divides the logits of both models: wrong classes then count by how wrong they are
SHARE = 0.5  # of the loss that is against the teacher


class Distill(Callback):
    """Adds the loss against a teacher's answers to that against the targets, for the time of a fit.

    The answers take the targets' place in the task's own loss: probabilities of classes, labels or tokens, both models'
    logits divided by TEMPERATURE and the loss multiplied by its square (section 2 of the paper); values as they are.

    Args:
        teacher: the run's model, in eval mode.
    """

    def __init__(self, teacher: nn.Module):
        self._teacher = teacher
        self._restore: tuple[Trainer, nn.Module] | None = None

    def fit_start(self, context: Context) -> None:
        trainer = context.trainer
        device = next(trainer.model.parameters()).device
        teacher = copy.deepcopy(self._teacher).to(device).eval().requires_grad_(False)
        if device.type == "cpu":
            accelerate(teacher)
        self._restore = (trainer, trainer.forward)
        both = _WithTeacher(trainer.forward, teacher)
        trainer.forward = both
        # on the object, because a task may be of any class
        trainer.task.training_loss = _DistilledLoss(trainer.task, both)  # type: ignore[method-assign]

    def fit_end(self, context: Context) -> None:
        if self._restore is not None:
            trainer, forward = self._restore
            trainer.forward, self._restore = forward, None
            del trainer.task.training_loss  # that of its class again


class _WithTeacher(nn.Module):
    """The student's forward pass, after which `answers` holds the teacher's outputs for the same inputs."""

    def __init__(self, student: nn.Module, teacher: nn.Module):
        super().__init__()
        self.student = student
        self._teacher = (teacher,)  # in a tuple: as a submodule it would be set to train mode
        self.outputs: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            self.outputs = logits_of(self._teacher[0](inputs)).float()
        out: Tensor = self.student(inputs)
        return out


class _DistilledLoss:
    def __init__(self, task: Task, both: _WithTeacher):
        self._task, self._both, self._own = task, both, task.training_loss

    def __call__(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        hard, _ = self._own(outputs, targets)
        assert self._both.outputs is not None  # the forward pass comes first
        heat = 1.0 if self._task.kind == "values" else TEMPERATURE
        # one row a target, as `rows` makes them of the outputs
        answers = self._task.answers(self._both.outputs / heat).reshape(outputs.shape).detach()
        try:
            soft, _ = self._own(outputs / heat, answers)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"distill=true needs a loss that takes probabilities; loss={type(self._task.loss).__name__} does not "
                f"({first_line(error)}). Leave distill out."
            ) from error
        loss = (1 - SHARE) * hard + SHARE * heat**2 * soft
        return loss, loss.detach()
