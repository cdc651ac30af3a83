"""Lion, Adan and Muon as torch optimizers, and the parameter groups that every optimizer gets."""

from effbench.optimizers.adan import Adan
from effbench.optimizers.groups import parameter_groups
from effbench.optimizers.lion import Lion
from effbench.optimizers.muon import Muon

__all__ = ["Adan", "Lion", "Muon", "parameter_groups"]
