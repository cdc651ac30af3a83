"""`make smoke`: every recipe and every YAML of every group, trained for two steps by the command line; every study.

study=smoke runs whole; of the other studies, each arm trains the few steps of `--plan`.
"""

from __future__ import annotations

import csv
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from effbench.config.paths import conf_dir
from effbench.config.static_compose import STUDY_GROUPS
from effbench.config.study_files import options
from tests.fitting import words_beside

ROOT = Path(__file__).parents[1]


# --- small files for the data that is not embedded --------------------------------------------------------------------


def write_cifar10(root: Path) -> None:
    """CIFAR-10's python archive, unpacked: 5 x 20 images to train on and 20 to test on."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        pixels = random.integers(0, 256, (20, 3072), dtype=np.uint8)
        batch = {b"data": pixels, b"labels": [row % 10 for row in range(20)], b"batch_label": name.encode()}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    meta = {b"label_names": [b"class %d" % number for number in range(10)], b"num_cases_per_batch": 20}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))


def write_images(root: Path) -> None:
    """Two classes of 20 pictures, none of them square."""
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for index in range(20):
            pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{index}.png")


def write_texts(root: Path) -> None:
    """Two classes of 100 texts of 1 to 10 words."""
    root.mkdir(parents=True)
    with (root / "texts.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows([f"{label} {row} " * (1 + row % 10), label] for label in ("ja", "yes") for row in range(100))


def write_text_files(root: Path) -> None:
    """Two classes of 30 files."""
    for label in ("ja", "yes"):
        (root / label).mkdir(parents=True)
        for row in range(30):
            (root / label / f"{row}.txt").write_text(f"{label} {row} " * (1 + row % 10))


def write_table(root: Path) -> None:
    """Two classes of 100 rows with a number, which is missing in some, and a category."""
    root.mkdir(parents=True)
    with (root / "table.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["age", "colour", "label"])
        writer.writerows(["" if row % 9 == 0 else row, "red" if row % 3 else "blue", row % 2] for row in range(200))


def write_text(root: Path) -> None:
    """A text of 9 kB."""
    root.mkdir(parents=True)
    (root / "text.txt").write_text("".join(f"{row} and {row * row}.\n" for row in range(600)))


FILES: dict[str, Callable[[Path], None]] = {
    "cifar10": write_cifar10, "image_folder": write_images, "text_csv": write_texts,
    "table_csv": write_table, "text_file": write_text, "text_folder": write_text_files,
}  # fmt: skip
OWN_WORDS = {
    "cifar10": ["data.root='{root}'"],
    "image_folder": ["data.root='{root}'", "data.image_size=32", "data.cache_dir='{root}_cache'"],
    "text_csv": ["data.file='{root}/texts.csv'"],
    "text_file": ["data.file='{root}/text.txt'"],
    "text_folder": ["data.root='{root}'"],
    "table_csv": ["data.file='{root}/table.csv'"],
}
OF_THE_FULL_SET = ["fast_fashion"]  # recipes, tried on the embedded part of it


def words_for(name: str, scratch: Path) -> list[str]:
    """What data=NAME needs beside its name: files, written here."""
    root = scratch / "files" / name
    FILES[name](root)
    return [*(word.format(root=root) for word in OWN_WORDS[name]), *words_beside(f"data={name}")]


# --- what is tried ----------------------------------------------------------------------------------------------------


def left_out() -> dict[str, str]:
    """{group=name: why it cannot be tried here}."""
    found = {} if torch.cuda.is_available() else {"device=cuda": "torch sees no GPU here"}
    if find_spec("transformers") is None:
        found["model=deberta_v3"] = "transformers is not installed"
    return found


def members(group: str) -> list[str]:
    names = sorted(path.stem for path in (conf_dir() / group).glob("[!_]*.yaml"))
    return [name for name in names if f"{group}={name}" not in left_out()]


def plan(scratch: Path) -> dict[str, tuple[int, list[list[str]]]]:
    """{group: (how many jobs, the words of each sweep that makes them)}."""
    recipes = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
    embedded = [name for name in recipes if name not in OF_THE_FULL_SET]
    words = [[f"recipe={','.join(embedded)}"], [f"recipe={','.join(OF_THE_FULL_SET)}", "data.subset=embedded"]]
    sweeps = {"recipe": (len(recipes), words)}
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()} - {"debug", *STUDY_GROUPS}
    for group in sorted(groups):
        names = members(group)
        needs = {name: needs_of(group, name, scratch) for name in names}
        together = [name for name in names if not needs[name]]
        words = [[f"{group}={','.join(together)}", *small_model(group, [])]]
        words += [[f"{group}={name}", *small_model(group, needs[name]), *needs[name]] for name in names if needs[name]]
        sweeps[group] = (len(names), words)
    return sweeps


def needs_of(group: str, name: str, scratch: Path) -> list[str]:
    """What a choice needs beside it: other choices, or files, which are written to `scratch`."""
    return words_for(name, scratch) if group == "data" and name in FILES else words_beside(f"{group}={name}")


def small_model(group: str, needs: list[str]) -> list[str]:
    """The model for a choice of another group, unless it needs one of its own."""
    return [] if group == "model" or any(word.startswith("model=") for word in needs) else ["model=cnn"]


def sweep(words: list[str], folder: Path) -> list[dict[str, str]]:
    """Runs `effbench train -m` and returns the rows of its sweep.csv, none where it was refused as a whole."""
    command = [sys.executable, "-m", "effbench", "train", "-m", "debug=smoke", *words, f"hydra.sweep.dir='{folder}'"]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    if not (folder / "sweep.csv").is_file():
        return []
    with (folder / "sweep.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def study(folder: Path) -> int:
    """Runs the shipped `study=smoke`, whole, and returns its exit code."""
    command = [sys.executable, "-m", "effbench", "study", "study=smoke", "study.workers=2", f"study.folder='{folder}'"]
    return subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode


def study_plan(name: str, folder: Path) -> int:
    """Builds every arm of a study that ships, trains a few steps of it, and returns the exit code."""
    command = [sys.executable, "-m", "effbench", "study", f"study={name}", f"study.folder='{folder}'", "--plan"]
    return subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode


def studies(scratch: Path) -> dict[str, Callable[[], int]]:
    """{what is printed: what runs it and returns the exit code}."""
    plans = {
        f"study={name} --plan": partial(study_plan, name, scratch / f"study-{name}")
        for name in sorted(options("study"))
        if name != "smoke"
    }
    return {"study=smoke": partial(study, scratch / "study"), **plans}


def main() -> int:
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        for group, (count, sweeps) in plan(Path(scratch)).items():
            begun = time.perf_counter()
            rows = [row for i, words in enumerate(sweeps) for row in sweep(words, Path(scratch) / f"{group}{i}")]
            if len(rows) != count:
                failed.append({"overrides": group, "error": f"{count - len(rows)} jobs are missing"})
            bad = [row for row in rows if row["status"] != "completed"]
            failed += bad
            seconds = time.perf_counter() - begun
            print(f"{group}: {len(rows) - len(bad)} of {count} completed in {seconds:.0f} s", flush=True)
        for name, run in studies(Path(scratch)).items():
            begun = time.perf_counter()
            if code := run():
                failed.append({"overrides": name, "error": f"exit code {code}"})
            print(f"{name}: exit code {code} after {time.perf_counter() - begun:.0f} s", flush=True)
    for name, reason in left_out().items():
        print(f"left out: {name}, for {reason}")
    for row in failed:
        print(f"FAILED {row['overrides']}: {row['error']}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
