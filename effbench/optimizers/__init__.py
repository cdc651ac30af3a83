"""Lion and Adan as torch optimizers, and the parameter groups that every optimizer gets."""

from effbench.optimizers.adan import Adan
from effbench.optimizers.groups import parameter_groups
from effbench.optimizers.lion import Lion

__all__ = ["Adan", "Lion", "parameter_groups"]
