"""Every shipped schedule, drawn from its object: the learning rate over a run."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from effbench import build
from effbench.config.compose import compose
from effbench.config.static_compose import group_options
from effbench.explain.content import Drawing, Explanation, Paragraph, Part, Request, Table
from effbench.report.figures import Figure, Series, figure

STEPS, EPOCHS = 600, 12  # of the drawn run; a validation after each epoch
PATIENCE = 2  # of plateau, which takes it from early stopping otherwise
ABOUT = {
    "constant": "no decay: for optimizers that average their weights, such as schedule_free",
    "cosine": "half a cosine to 0 after a short warm-up; the usual choice",
    "exponential": "the same factor in every epoch",
    "one_cycle": "rises for a third of the run, then falls to almost 0",
    "plateau": "falls when validation stops improving, so its curve depends on the run",
    "step": "a tenth after each third of the run, as ResNets were trained",
}
PLACES = (0.0, 0.05, 0.25, 0.5, 0.75, 1.0)  # shares of the run in the table; 1 is the last step
REFERENCES = (
    "Loshchilov and Hutter, SGDR, arXiv:1608.03983, equation 5: the cosine, here without restarts",
    "Smith and Topin, Super-Convergence, arXiv:1708.07120: one cycle",
    "Goyal et al., arXiv:1706.02677, section 2.2: warm-up; Liu et al., arXiv:1908.03265, section 3: of Adam",
)


def validation_losses() -> list[float]:
    """Return the made-up validation losses that plateau sees: they improve for five epochs, and then stay."""
    return [max(1.0 - 0.1 * epoch, 0.5) for epoch in range(EPOCHS)]


def factors(name: str, *words: str) -> list[float]:
    """Return the learning rate of each of the STEPS steps, over the optimizer's, from the schedule's own object.

    Args:
        name: choice of the group scheduler.
        *words: further overrides.
    """
    config = compose([f"scheduler={name}", *words])
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = build.schedule(config, optimizer, STEPS, STEPS // EPOCHS)
    losses, found = validation_losses(), []
    for step in range(STEPS):
        found.append(float(optimizer.param_groups[0]["lr"]))
        schedule.step()
        if (step + 1) % (STEPS // EPOCHS) == 0:
            schedule.observe(losses[(step + 1) // (STEPS // EPOCHS) - 1])
    return found


def explain(request: Request) -> Explanation:
    """Explain the schedules."""
    del request  # nothing is drawn
    curves = {name: factors(name, *(_patience() if name == "plateau" else ())) for name in group_options()["scheduler"]}
    warmed = {f"{span} warm-up": factors("cosine", f"scheduler.warmup={span}") for span in ("0%", "5%", "20%")}
    # a twentieth of the run is after 30 steps; the last step is that after 599
    places = {place: min(round(place * STEPS), STEPS - 1) for place in PLACES}
    values = {f"{name}_{place:g}": curve[step] for name, curve in curves.items() for place, step in places.items()}
    values |= {f"{name}_mean": sum(curve) / STEPS for name, curve in curves.items()}
    rows = [
        [name, *(f"{curve[step]:.3g}" for step in places.values()), f"{values[f'{name}_mean']:.2f}"]
        for name, curve in curves.items()
    ]
    parts: list[Part] = [
        Paragraph(
            "A schedule multiplies the optimizer's learning rate by a factor that depends on the steps taken. A large "
            "rate moves fast, but the noise of batches keeps it from settling; a small one settles. Most schedules "
            "therefore begin large and end near 0. Each curve below is the learning rate that effbench's own object "
            f"sets, with the defaults of conf/scheduler, in a run of {STEPS} steps and {EPOCHS} epochs."
        ),
        Drawing(
            [_figure(name, [Series("", index, _points(curve), dotted=False)]) for index, (name, curve) in
             enumerate(curves.items())],
            "Learning rate over that of the optimizer, by step.",
            across=3,
        ),
        Table(["schedule", *(f"{100 * place:.0f} %" for place in PLACES), "mean"], rows),
        Table(["schedule", "what it does"], [[name, ABOUT.get(name, "")] for name in curves], texts=2),
        Paragraph(
            "Columns are shares of the run; 100 % is its last step. The mean tells how far a run can move in all: a "
            "change of the schedule is also a change of the learning rate, so both are tuned together. Plateau saw "
            f"validation losses that improve for five epochs and then stay, with a patience of {PATIENCE} validations: "
            f"it acts after {PATIENCE + 1} without improvement."
        ),
        Drawing(
            [_figure("cosine", [Series(name, index, _points(curve), dotted=False) for index, (name, curve) in
                                enumerate(warmed.items())])],
            "scheduler=cosine with other spans of warm-up. Adam's running mean of squares comes from few gradients "
            "in the first steps; small steps then do less harm.",
        ),
    ]  # fmt: skip
    return Explanation("schedulers", "Learning rate schedules", parts, values, REFERENCES)


def _patience() -> tuple[str, ...]:
    # its default is auto, which a run derives from early stopping
    return (f"scheduler.patience={PATIENCE}",)


def _points(curve: Sequence[float]) -> list[tuple[float, float]]:
    """Return every step at which the factor changes by more than a pixel, and the ends of jumps."""

    def matters(step: int) -> bool:
        return any(abs(curve[step] - curve[step + side]) > 0.02 for side in (-1, 1))

    last = len(curve) - 1
    kept = [step for step in range(1, last) if step % 5 == 0 or matters(step)]
    return [(float(step), curve[step]) for step in (0, *kept, last)]


def _figure(title: str, series: Sequence[Series]) -> Figure:
    found = figure(title, "step", series, "{:.2g}".format, "{:.3g}".format, (0.0, 1.05))
    assert found is not None
    return found
