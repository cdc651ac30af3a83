"""Time to 85 % test accuracy on the embedded images, beside the script that most would write."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.alternate import Arm, Round, race, rounds
from benchmarks.figures import Figure, figure, over
from effbench.stats import median

TITLE = "Seconds to 85 % test accuracy, embedded Fashion-MNIST, MobileNetV3-small"
PLACE = "benchmarks.arms_target:"
SEEDS = 5
ALONE = 7  # odd, as the seeds are: as many races start from the last arm as from the first
NOTE = (
    "From the start of the process; both look at the test split after each epoch and end at the first that reaches the "
    "target. The usual script: pytorch-lightning, torchvision v2 for each image, DataLoader with the best of 0, 1, 2 "
    "workers, torch's AdamW as it comes; same model, batch size, learning rate and schedule. A usual run that ends "
    "below the target counts with its whole time; one of ours tries again with another seed, within its time. They "
    "take turns of half a second until each is there. The control: ours again in these races, and in seven of its own."
)


def measure() -> list[Figure]:
    workers = best_workers([])

    def arms(seed: int) -> list[Arm]:
        options = {"words": [f"seed={seed}"], "target": 0.85}
        return [Arm("ours", PLACE + "ours", options), Arm("usual", PLACE + "usual", options | {"workers": workers})]

    found, alone = races(arms, SEEDS)
    title = f"usual script ({workers} workers) / ours"
    return [figure(title, found, over("usual", "ours"), ">= 2.2", "{:.1f} s".format, NOTE, alone)]


def races(arms: Callable[[int], list[Arm]], seeds: int) -> tuple[list[Round], list[Round]]:
    """(a race of each seed's arms, further ones of the first arm against itself), by turns from either end."""
    found = [race(arms(seed), turned=seed % 2 == 1) for seed in range(seeds)]
    return found, [race(arms(seed)[:1], turned=seed % 2 == 0) for seed in range(ALONE)]


def best_workers(words: list[str]) -> int:
    """With how many the usual script is fastest here."""
    options = {"words": words, "target": 1.0, "slice_steps": 30}
    arms = [Arm(str(count), PLACE + "usual", options | {"workers": count}) for count in (0, 1, 2)]
    found = rounds(arms, 3, 1, control=False)
    return int(min(found[0], key=lambda name: median([values[name] for values in found])))
