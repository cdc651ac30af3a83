"""Types of options with their rules: the config's schema and the constructors of parts check by the same ones."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter

from effbench.errors import OptionError

Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


class Rule:
    """A type of number, checked by pydantic, strictly and without NaN and infinity. text: of messages, after "must be"."""

    def __init__(self, kind: Any, text: str):
        self._kind, self._text = kind, text

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self._kind, config=ConfigDict(strict=True, allow_inf_nan=False))

    def holds(self, value: object) -> bool:
        try:
            self._validated(value)
        except ValueError:
            return False
        return True

    def check(self, value: object, key: str, text: str = "", remedy: str = "") -> Any:
        """`value` as the type: a whole number given for a float becomes one.

        Args:
            key: of the config, such as 'scheduler.gamma'.
            text: what `value` must be, where it is more exact than the rule's own, such as 'a number of steps >= 1'.
            remedy: a sentence on what to write instead.

        Raises:
            OptionError: naming key, rule, value and remedy.
        """
        try:
            return self._validated(value)
        except ValueError:
            message = f"{key} must be {text or self._text}; got {value!r}."
            raise OptionError(f"{message} {remedy}" if remedy else message) from None

    def _validated(self, value: object) -> Any:
        if not isinstance(value, int | float):  # pydantic takes whatever has __float__: a tensor would be read once
            raise ValueError
        return self._adapter.validate_python(value)


INT = Rule(int, "a whole number")
WHOLE = Rule(Whole, "a whole number >= 0")
COUNT = Rule(Count, "a whole number >= 1")
FRACTION = Rule(Fraction, "in [0, 1]")
FRACTION_BELOW_1 = Rule(Annotated[float, Field(ge=0, lt=1)], "in [0, 1)")
FRACTION_ABOVE_0 = Rule(Annotated[float, Field(gt=0, le=1)], "in (0, 1]")
FRACTION_BETWEEN = Rule(Annotated[float, Field(gt=0, lt=1)], "in (0, 1)")
NON_NEGATIVE = Rule(NonNegative, "a number >= 0")
POSITIVE = Rule(Positive, "a number > 0")
FROM_1 = Rule(Annotated[float, Field(ge=1)], ">= 1")
