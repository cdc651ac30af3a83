"""Checks of a user's callback before data are read: a hook that is never called would do nothing, without a word."""

from __future__ import annotations

import inspect
import re
from typing import Any

from effbench.training.callbacks import HOOKS, Callback, place_of

# Names in metrics.csv, and those that W&B gives a meaning of its own.
RESERVED_COLUMNS = r"(row|epoch|step|_step|_runtime|_timestamp|_wandb)$|(train|val|test|lr)/"
# Parts with slashes between them. MLflow refuses the parts '.' and '..', and would log no more.
COLUMN_NAME = r"{part}(/{part})*".format(part=r"(?!\.{1,2}(/|$))[\w.-]+")


def complaint_about(callback: Callback, columns: Any) -> str | None:
    """Return why hooks of a user's callback would not be called or would fail; None if all is well.

    Args:
        callback: the user's object.
        columns: its attribute `columns`, read once.
    """
    kind = type(callback)
    # Hooks of other libraries have such names.
    if foreign := [name for name in dir(kind) if name.startswith("on_") and callable(getattr(kind, name))]:
        return f"{foreign[0]} is no hook and would not be called; the hooks are {', '.join(HOOKS)}"
    own = [hook for hook in HOOKS if getattr(kind, hook) is not getattr(Callback, hook)]
    if not own:
        return f"it defines no hook; the hooks are {', '.join(HOOKS)}"
    for hook in own:
        try:
            signature = inspect.signature(getattr(callback, hook))
            signature.bind(*HOOKS[hook].split(", "))
        except TypeError as error:
            return f"{hook} must take ({HOOKS[hook]}): {error}"
        except ValueError:
            continue  # a function in C may tell no signature: only the call can show that it does not fit
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a property of the user's may raise anything
            return f"{hook} raised {error!r}{place_of(error)}"

    if not isinstance(columns, list | tuple) or not all(isinstance(name, str) for name in columns):
        return f"columns must be names, such as columns = ('grad_norm',); got {columns!r}"
    for name in columns:
        if not re.fullmatch(COLUMN_NAME, name) or re.match(RESERVED_COLUMNS, name):
            return (
                f"column {name!r} is not possible: a name is of letters, digits and _ - . /, and none of effbench's "
                "own (row, epoch, step, train/…, val/…, test/…, lr/…) or W&B's (_step, _runtime, _timestamp, _wandb)"
            )
    return None
