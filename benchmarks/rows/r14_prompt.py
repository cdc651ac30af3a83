"""What a person waits for at the prompt, against `import torch`."""

from __future__ import annotations

from benchmarks.alternate import Arm, rounds
from benchmarks.figures import Figure, figure, milliseconds, over

TITLE = "Help, completion and refusals"
COMMAND = "benchmarks.arms_start:command"
TORCH = Arm("import torch", COMMAND, {"words": ["-c", "import torch"]})
AT_ONCE = {
    "--help": Arm("--help", COMMAND, {"words": ["--help"]}),
    "--version": Arm("--version", COMMAND, {"words": ["--version"]}),
    "completing a verb": Arm(
        "completing a verb", COMMAND, {"words": ["-sc", "query=bash"], "variables": {"COMP_LINE": "effbench tr"}}
    ),
    "completing an optimizer": Arm(
        "completing an optimizer",
        COMMAND,
        {"words": ["-sc", "query=bash"], "variables": {"COMP_LINE": "effbench train optimizer=l"}},
    ),
    "completing a key": Arm(
        "completing a key",
        COMMAND,
        {"words": ["-sc", "query=bash"], "variables": {"COMP_LINE": "effbench train recipe=swin_lion optimizer.w"}},
    ),
}
SOON = {
    "train --help": Arm("train --help", COMMAND, {"words": ["train", "--help"]}),
    "a mistyped key": Arm("a mistyped key", COMMAND, {"words": ["train", "optimizer.lrr=1"], "code": 2}),
    "a mistyped name": Arm("a mistyped name", COMMAND, {"words": ["train", "model=resnet19"], "code": 2}),
    "a value out of range": Arm("a value out of range", COMMAND, {"words": ["train", "optimizer.lr=-1"], "code": 2}),
}


def measure() -> list[Figure]:
    found = rounds([TORCH, *AT_ONCE.values(), *SOON.values()], 18, 2)
    targets = {**dict.fromkeys(AT_ONCE, "<= 0.05"), **dict.fromkeys(SOON, "<= 0.25")}
    return [
        figure(f"{name} / import torch", found, over(name, TORCH.name), target, milliseconds)
        for name, target in targets.items()
    ]
