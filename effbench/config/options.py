"""Types of numbers and booleans for options, with their rules, for the config's schema and the parts' constructors."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Generic, TypeVar, cast

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter

from effbench.errors import OptionError, shown

Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
MOST_THREADS = 1024  # torch crashes with far more, and OpenMP ends the process
ThreadCount = Annotated[int, Field(ge=1, le=MOST_THREADS)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]

Number = TypeVar("Number", int, float, bool)


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError
    return value


class Rule(Generic[Number]):
    """A type of number, or bool, that pydantic checks: strictly, without NaN and infinity.

    Args:
        kind: the type, such as Count.
        text: what a value must be, for messages.
    """

    def __init__(self, kind: Any, text: str):
        self._kind, self._text = kind, text

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        # Built at the first use, which keeps the import short.
        return TypeAdapter(self._kind, config=ConfigDict(strict=True, allow_inf_nan=False))

    def holds(self, value: object) -> bool:
        """Return True if `value` is of the type."""
        try:
            self._validated(value)
        except ValueError:
            return False
        return True

    def check(self, value: object, key: str, text: str = "", remedy: str = "") -> Number:
        """Return `value` as the type; a whole number given for a float becomes a float.

        Args:
            value: of the option.
            key: config key for the message, such as 'scheduler.gamma'.
            text: the rule in words, if more exact than its own, such as 'a whole number of steps >= 1'.
            remedy: last sentence of the message.

        Raises:
            OptionError: the rule does not hold.
        """
        try:
            return self._validated(value)
        except ValueError:
            message = f"{key} must be {text or self._text}; got {shown(value)}."
            # from None: pydantic's text names neither the key nor a remedy.
            raise OptionError(f"{message} {remedy}" if remedy else message) from None

    def _validated(self, value: object) -> Number:
        # pydantic accepts anything with __float__, such as a tensor.
        if not isinstance(value, int | float):
            raise ValueError
        return cast(Number, self._adapter.validate_python(value))


BOOL = Rule[bool](bool, "true or false")
WHOLE = Rule[int](Whole, "a whole number >= 0")
COUNT = Rule[int](Count, "a whole number >= 1")
THREADS = Rule[int](ThreadCount, f"a whole number in [1, {MOST_THREADS}]")
ODD = Rule[int](Annotated[Count, AfterValidator(_odd)], "odd and positive")
ODD_FROM_3 = Rule[int](Annotated[int, Field(ge=3), AfterValidator(_odd)], "an odd number >= 3")
FRACTION = Rule[float](Fraction, "in [0, 1]")
FRACTION_BELOW_1 = Rule[float](Annotated[float, Field(ge=0, lt=1)], "in [0, 1)")
FRACTION_ABOVE_0 = Rule[float](Annotated[float, Field(gt=0, le=1)], "in (0, 1]")
FRACTION_BETWEEN = Rule[float](Annotated[float, Field(gt=0, lt=1)], "in (0, 1)")
NON_NEGATIVE = Rule[float](NonNegative, "a number >= 0")
POSITIVE = Rule[float](Positive, "a number > 0")
FROM_1 = Rule[float](Annotated[float, Field(ge=1)], ">= 1")
AT_LEAST_2 = Rule[int](Annotated[int, Field(ge=2)], "a whole number, at least 2")
SEED = Rule[int](Annotated[int, Field(ge=-(2**63), lt=2**64)], "a whole number of at most 64 bits")  # as torch takes
