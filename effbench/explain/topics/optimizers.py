"""The path of every shipped optimizer on a surface of two dimensions, from one start."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from effbench.config.static_compose import members
from effbench.errors import MissingExtraError
from effbench.explain.content import Drawing, Explanation, Paragraph, Part, Request, Table
from effbench.report.figures import Figure, Guide, Series, figure
from effbench.target_allowlist import resolve
from effbench.training.ema import averages_itself

START = (-2.4, 1.1)
STEEP, TURN = 25.0, math.radians(30)  # curvature across the valley, over that along it; angle of the valley
STEPS, TARGET = 100, 1e-3
RATES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
LEVELS = (0.05, 0.5, 2.0, 6.0)  # of the contours
_X, _Y = (-3.2, 3.2), (-1.9, 1.9)  # of the figures: both axes have one scale
_DRAWN = 60  # steps of a path that are drawn

Place = tuple[float, float]
REFERENCES = (
    "Kingma and Ba, Adam, arXiv:1412.6980, section 2.1: the size of a step is bounded by lr",
    "Chen et al., Lion, arXiv:2302.06675; Xie et al., Adan, arXiv:2208.06677; Jordan et al. 2024, Muon",
    "Polyak 1964; Goh 2017, Why Momentum Really Works, Distill: the valley and 2 / curvature",
)


def surface(x: Any, y: Any) -> Any:
    """Return f: a valley whose walls are STEEP times as curved as its floor, turned by TURN. Its minimum is 0 at 0."""
    along = math.cos(TURN) * x + math.sin(TURN) * y
    across = math.cos(TURN) * y - math.sin(TURN) * x
    # products, not powers: those of Python raise an error where a path diverges
    return (along * along + STEEP * across * across) / 2


def gradient(x: float, y: float) -> Place:
    """Return (df/dx, df/dy)."""
    along = math.cos(TURN) * x + math.sin(TURN) * y
    across = STEEP * (math.cos(TURN) * y - math.sin(TURN) * x)
    return math.cos(TURN) * along - math.sin(TURN) * across, math.sin(TURN) * along + math.cos(TURN) * across


@dataclass(frozen=True)
class Path:
    """The way of an optimizer.

    Attributes:
        lr: learning rate.
        places: the start and the place after each step.
    """

    lr: float
    places: Sequence[Place]

    @property
    def heights(self) -> list[float]:
        """The surface at each place."""
        return [float(surface(x, y)) for x, y in self.places]

    @property
    def reached(self) -> int | None:
        """Steps after which the surface stays below TARGET; None if it does not."""
        heights = self.heights
        above = [step for step, height in enumerate(heights) if not height < TARGET]
        return above[-1] + 1 if above and above[-1] + 1 < len(heights) else None

    @property
    def score(self) -> float:
        """What the choice of the learning rate minimises: the height at the end, after the steps to the target."""
        end = self.heights[-1]
        return float(self.reached) if self.reached is not None else STEPS + (end if math.isfinite(end) else math.inf)


def path(target: str, options: Mapping[str, Any], lr: float, steps: int = STEPS) -> Path:
    """Return the path of an optimizer of torch or effbench.

    The point is the diagonal of a 2 x 2 matrix, because Muon works on matrices; the other entries have no gradient and
    stay 0.

    Args:
        target: dotted name of the class.
        options: of its constructor.
        lr: learning rate.
        steps: to take.
    """
    parameter = torch.nn.Parameter(torch.diag(torch.tensor(START, dtype=torch.float64)))
    kind = resolve("optimizer", target)
    optimizer = kind([parameter], **{**options, "lr": lr})
    averages = averages_itself(optimizer)
    place, places = START, [START]
    for _ in range(steps):
        if averages:  # as the training loop does
            optimizer.train()
            place = _place(parameter)
        # in closed form: autograd would take most of the time
        parameter.grad = torch.diag(torch.tensor(gradient(*place), dtype=torch.float64))
        optimizer.step()
        if averages:
            optimizer.eval()
        place = _place(parameter)
        places.append(place)
    return Path(lr, places)


def _place(parameter: torch.Tensor) -> Place:
    x, y = parameter.detach().diagonal().tolist()
    return x, y


def shipped_paths() -> tuple[dict[str, Path], list[str]]:
    """Return (choice of the group optimizer -> path at its best learning rate, choices whose package is missing)."""
    found, missing = dict[str, Path](), []
    for name, content in members("optimizer").items():
        try:
            kind = resolve("optimizer", content["_target_"])
        except MissingExtraError:
            missing.append(name)
            continue
        # no_decay and group_lr are keys of the group, not of the class. Without decay: it would move the minimum
        words = inspect.signature(kind).parameters
        options = {key: value for key, value in content.items() if key in words} | {"weight_decay": 0.0}
        paths = [path(content["_target_"], options, lr) for lr in RATES]
        found[name] = min(paths, key=lambda each: (each.score, each.lr))
    return found, missing


def explain(request: Request) -> Explanation:
    """Explain the optimizers."""
    del request  # nothing is drawn
    paths, missing = shipped_paths()
    values, rows = dict[str, float](), []
    for name, own in paths.items():
        heights = own.heights
        length = sum(math.dist(a, b) for a, b in zip(own.places, own.places[1:], strict=False))
        values |= {f"{name}_lr": own.lr, f"{name}_end": heights[-1], f"{name}_length": length}
        values[f"{name}_steps"] = math.nan if own.reached is None else own.reached
        reached = "-" if own.reached is None else str(own.reached)
        rows.append([name, f"{own.lr:g}", reached, f"{heights[10]:.2g}", f"{heights[-1]:.1e}", f"{length:.1f}"])
    straight = math.dist(START, (0.0, 0.0))
    parts: list[Part] = [
        Paragraph(
            f"The surface is a valley, f = (u^2 + {STEEP:g} v^2) / 2, where u runs along it and v across; it is turned "
            f"by {math.degrees(TURN):.0f} degrees, so that neither axis lies along the valley. All optimizers start at "
            f"({START[0]:g}, {START[1]:g}), where f is {float(surface(*START)):.1f}, and take {STEPS} steps. They are "
            "the classes that training uses, with the options of conf/optimizer but without weight decay, which would "
            f"move the minimum. Each has the best of {len(RATES)} learning rates from {RATES[0]:g} to {RATES[-1]:g}: "
            f"the one with the fewest steps until f stays below {TARGET:g}, or else with the smallest f at the end."
        ),
        Drawing(
            [_figure(name, own) for name, own in paths.items()],
            f"The first {_DRAWN} steps of each, with points at the start and after the first 23; thin lines are "
            "contours of f.",
            across=3,
        ),
        Table(
            [
                "optimizer",
                "best lr",
                f"steps to\n{TARGET:g}",
                "f after\n10",
                f"f after\n{STEPS}",
                "length of\nthe path",
            ],
            rows,
        ),
        Paragraph(
            f"The straight way is {straight:.1f} long. SGD follows the gradient, which points across the valley: "
            f"without momentum its learning rate must stay below 2 / {STEEP:g} = {2 / STEEP:g} or it diverges, and "
            "progress along the floor is then slow; momentum adds up the steps along the floor and cancels those "
            "across. Adam and its relatives divide each coordinate by the root of its mean square, so both move by "
            "about lr a step, whatever the gradient's size. Lion moves every coordinate by exactly lr: it does not "
            "settle unless lr falls. Muon orthogonalises the momentum of a matrix; for a diagonal one it gives both "
            "entries nearly the same size, so its path is close to Lion's. schedule_free shows its average. adam and "
            "adamw differ in their weight decay alone, which is off here."
        ),
        Paragraph(
            "A quadratic without noise says which shapes of path are typical, and nothing about which optimizer "
            "trains a network best: there, gradients are noisy and have millions of coordinates. effbench study "
            "compares them." + (f" Not shown, for lack of their package: {', '.join(missing)}." if missing else "")
        ),
    ]
    return Explanation("optimizers", "Paths of optimizers", parts, values, REFERENCES)


def contours() -> list[Guide]:
    """Return ellipses on which the surface has the values LEVELS."""
    rings = []
    for level in LEVELS:
        along, across = math.sqrt(2 * level), math.sqrt(2 * level / STEEP)
        turns = [2 * math.pi * part / 48 for part in range(49)]
        ring = [(along * math.cos(turn), across * math.sin(turn)) for turn in turns]
        places = [(math.cos(TURN) * u - math.sin(TURN) * v, math.sin(TURN) * u + math.cos(TURN) * v) for u, v in ring]
        rings.append(Guide(places))
    return rings


def _figure(name: str, own: Path) -> Figure:
    # what leaves the frame is not drawn: a path that diverges would cover its neighbours
    kept = [place for place in own.places[: _DRAWN + 1] if _X[0] <= place[0] <= _X[1] and _Y[0] <= place[1] <= _Y[1]]
    line = Series("", 0, kept, dotted=False)
    dots = Series("", 0, kept[:24])
    title = f"{name}, lr {own.lr:g}"
    found = figure(title, "x", [line, dots, Series("", 4, [(0.0, 0.0)])], "{:.3g}".format, limits=_Y, x_limits=_X,
                   guides=contours())  # fmt: skip
    assert found is not None
    return found
