"""Time to 90 % test accuracy on the whole of Fashion-MNIST: the speed recipe, and what one would write for it."""

from __future__ import annotations

from benchmarks.alternate import Arm
from benchmarks.figures import Figure, figure, over
from benchmarks.rows.r12_to_85 import PLACE, best_workers, races

TITLE = "Seconds to 90 % test accuracy, the whole of Fashion-MNIST"
TARGET = 0.9
SEEDS = 3  # the usual script takes some ten minutes each
FULL = ["data.subset=full"]
NOTE = (
    "Ours: recipe=fast_fashion, a network and schedule of its own. The usual script is that of the row before, "
    "MobileNetV3-small with its 12 epochs of cosine, on the 60,000 images; both count from the start of the process "
    "and look at the test split after each epoch, in turns of half a second. The control: ours again in these "
    "races, and in seven of its own."
)


def measure() -> list[Figure]:
    workers = best_workers(FULL)

    def arms(seed: int) -> list[Arm]:
        ours = {"words": ["recipe=fast_fashion", f"seed={seed}"], "target": TARGET}
        usual = {"words": [*FULL, f"seed={seed}"], "target": TARGET, "workers": workers}
        return [Arm("ours", PLACE + "ours", ours), Arm("usual", PLACE + "usual", usual)]

    found, alone = races(arms, SEEDS)
    title = f"ours / usual script ({workers} workers)"
    return [figure(title, found, over("ours", "usual"), "<= 0.3333", "{:.1f} s".format, NOTE, alone)]
