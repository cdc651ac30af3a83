"""Folders of 100 to 3,000 JPEGs, rendered, on which the defaults are measured beside hand-tuned settings.

    python -m benchmarks.small_folders FOLDER            # renders, trains what is not trained yet (hours), writes
    python -m benchmarks.small_folders FOLDER --collect  # docs/small_folders.json and .md from what is there

Pictures of mixed sizes: shapes and letters turned, scaled and placed at random before clutter and noise, textures,
and the embedded Fashion-MNIST's clothes, tinted, on such grounds. Classes are as uneven as people's own pictures are.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from benchmarks.kept_runs import KeptRuns, Wanted
from effbench.data.images.fashion_mnist import fashion_mnist
from effbench.stats import deviation, mean

Draw = Callable[[np.random.Generator, int, int], Image.Image]  # (random numbers, class, which of its class)
SIDES = (70, 220)  # pixels of a picture's sides, least and most


@dataclass(frozen=True)
class FolderPlan:
    """counts: images of train, val and test; share: the first class's part of train, the others alike."""

    name: str
    classes: tuple[str, ...]
    draw: str
    counts: tuple[int, int, int]
    share: float | None = None


CLOTHES = ("tshirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
SHAPES = ("circle", "pentagon", "hexagon", "star", "cross")
TEXTURES = ("checks", "dots", "stripes", "waves")
LETTERS = tuple("ABCDEFGHJKLMNPRSTUVX")
PLANS = (
    FolderPlan("shapes", SHAPES, "shapes", (325, 125, 500), 0.36),
    FolderPlan("two_clothes", ("coat", "dress"), "clothes", (100, 40, 400)),
    FolderPlan("textures", TEXTURES, "textures", (180, 40, 400), 0.5),
    FolderPlan("clothes", CLOTHES, "clothes", (1000, 200, 600)),
    FolderPlan("letters", LETTERS, "letters", (2000, 300, 600), 0.15),
    FolderPlan("clothes_many", CLOTHES, "clothes", (3000, 400, 600), 0.2),
)


def render(plan: FolderPlan, root: Path, seed: int = 0) -> Path:
    """ROOT/NAME/{train,val,test}/CLASS/*.jpg of a plan; left as it is where it is there."""
    folder = root / plan.name
    if folder.is_dir():
        return folder
    random = np.random.default_rng([seed, *plan.name.encode()])
    draw, taken = DRAWS[plan.draw](plan.classes), dict.fromkeys(range(len(plan.classes)), 0)
    for which, count in zip(("train", "val", "test"), plan.counts, strict=True):
        for label, number in enumerate(per_class(count, len(plan.classes), plan.share)):
            target = folder / which / plan.classes[label]
            target.mkdir(parents=True)
            for index in range(number):
                picture = draw(random, label, taken[label])
                picture.save(target / f"{index:04}.jpg", quality=int(random.integers(60, 95)))
                taken[label] += 1
    return folder


def per_class(count: int, classes: int, share: float | None) -> list[int]:
    """How many of `count` images each class gets."""
    first = round(count * share) if share else count // classes
    bounds = [first + (count - first) * place // (classes - 1) for place in range(classes)]
    return [first, *(after - before for before, after in pairwise(bounds))]


# --- pictures -------------------------------------------------------------------------------------------------


def ground(random: np.random.Generator) -> Image.Image:
    """Coarse coloured noise with lines over it, of random sides."""
    width, height = (int(side) for side in random.integers(*SIDES, 2))
    coarse = random.normal(128, 28, (int(random.integers(2, 6)), int(random.integers(2, 6)), 3))
    picture = Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for _ in range(int(random.integers(0, 3))):
        ends = [(int(random.integers(0, width)), int(random.integers(0, height))) for _ in range(2)]
        pen.line(ends, fill=colour(random), width=int(random.integers(1, 3)))
    return picture


def colour(random: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = random.integers(0, 256, 3).tolist()
    return red, green, blue


def contrasting(random: np.random.Generator) -> tuple[int, int, int]:
    """Darker or brighter than most grounds."""
    low = 0 if random.random() < 0.5 else 170
    red, green, blue = random.integers(low, low + 86, 3).tolist()
    return red, green, blue


def placed(random: np.random.Generator, mask: Image.Image, turn: float) -> Image.Image:
    """The mask's picture in a random colour, turned up to `turn` degrees, on a ground, with noise.

    It stays within the central square, all that a classifier is shown of a picture.
    """
    picture = ground(random)
    shortest = min(picture.size)
    side = int(shortest * random.uniform(0.7, 0.95))
    mask = mask.rotate(random.uniform(-turn, turn), Image.Resampling.BILINEAR).resize((side, side))
    left, top = ((length - shortest) // 2 + int(random.integers(0, shortest - side + 1)) for length in picture.size)
    picture.paste(contrasting(random), (left, top), mask)
    return noisy(random, picture)


def noisy(random: np.random.Generator, picture: Image.Image) -> Image.Image:
    if random.random() < 0.4:
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0.4, 1.6)))
    pixels = np.asarray(picture, dtype=np.float32) * random.uniform(0.75, 1.1)
    pixels += random.normal(0, random.uniform(3, 14), pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def shapes(classes: Sequence[str]) -> Draw:
    def draw(random: np.random.Generator, label: int, _: int) -> Image.Image:
        mask = Image.new("L", (128, 128))
        outline(ImageDraw.Draw(mask), classes[label], random)
        return placed(random, mask, 30)

    return draw


def outline(pen: ImageDraw.ImageDraw, shape: str, random: np.random.Generator) -> None:
    """One shape of about 100 px, its height and width a little different each time, filled or hollow."""
    across, down = random.uniform(34, 58, 2)
    corners = {"circle": 60, "pentagon": 5, "hexagon": 6, "star": 10, "cross": 12}[shape]
    radii = {"star": (1.0, 0.45), "cross": (1.0, 1.0, 0.45)}.get(shape, (1.0,))
    points = []
    for index in range(corners):
        angle = 2 * math.pi * index / corners
        radius = radii[index % len(radii)]
        points.append((64 + across * radius * math.cos(angle), 64 + down * radius * math.sin(angle)))
    if random.random() < 0.5:
        pen.polygon(points, fill=255)
    else:
        pen.line([*points, points[0], points[1]], fill=255, width=int(random.integers(5, 12)))


def letters(classes: Sequence[str]) -> Draw:
    import matplotlib

    fonts = (Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("DejaVuS*.ttf")
    files = sorted(path for path in fonts if "Display" not in path.name)  # those have no letters

    def draw(random: np.random.Generator, label: int, _: int) -> Image.Image:
        mask = Image.new("L", (128, 128))
        font = ImageFont.truetype(str(files[int(random.integers(len(files)))]), int(random.integers(95, 130)))
        ImageDraw.Draw(mask).text((64, 64), classes[label], fill=255, font=font, anchor="mm")
        return placed(random, mask, 15)

    return draw


def textures(classes: Sequence[str]) -> Draw:
    def draw(random: np.random.Generator, label: int, _: int) -> Image.Image:
        picture = ground(random)
        pixels = np.asarray(picture, dtype=np.float32)
        height, width = pixels.shape[:2]
        y, x = np.mgrid[:height, :width].astype(np.float32)
        turn, period = random.uniform(0, math.pi), min(height, width) / random.uniform(4, 9)
        u = (x * math.cos(turn) + y * math.sin(turn)) * 2 * math.pi / period
        v = (y * math.cos(turn) - x * math.sin(turn)) * 2 * math.pi / period
        pattern = {
            "stripes": np.sin(u),
            "waves": np.sin(u + 1.6 * np.sin(v / 2)),
            "checks": np.sign(np.sin(u) * np.sin(v)),
            "dots": np.sin(u) + np.sin(v) - 0.9,
        }[classes[label]]
        pixels = pixels + pattern[..., None] * random.normal(0, 45, 3)
        return noisy(random, Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))

    return draw


def clothes(classes: Sequence[str]) -> Draw:
    data = fashion_mnist(val_fraction=0.0)
    assert data.test is not None
    pool = (data.train, data.test)
    images = np.concatenate([split.images.numpy()[:, 0] for split in pool])
    labels = np.concatenate([split.labels.numpy() for split in pool])
    own = [np.flatnonzero(labels == CLOTHES.index(name)) for name in classes]

    def draw(random: np.random.Generator, label: int, index: int) -> Image.Image:
        grey = Image.fromarray(images[own[label][index % len(own[label])]]).resize((128, 128), Image.Resampling.BICUBIC)
        return placed(random, grey, 12)

    return draw


DRAWS: dict[str, Callable[[Sequence[str]], Draw]] = {
    "shapes": shapes,
    "letters": letters,
    "textures": textures,
    "clothes": clothes,
}


# --- measuring ------------------------------------------------------------------------------------------------

README_LINE = ("data=image_folder", "data.image_size=64", "model.stem=imagenet")
SEEDS = {"shapes": (0, 1, 2), "two_clothes": (0, 1, 2)}  # of the defaults; 0 alone elsewhere


def hand_tuned(plan: FolderPlan) -> dict[str, tuple[str, ...]]:
    """Five settings that one might try by hand: early stopping off, 800 to 3,000 steps."""
    steps = 1500 if plan.counts[0] >= 1000 else 800
    both = ("trainer.max_epochs=null", "early_stopping=off", f"trainer.max_steps={steps}")
    cycle = ("scheduler=one_cycle", "optimizer.lr=4e-3", "loss.class_weights=balanced")
    return {
        "batch16": (*both, "data.batch_size=16"),
        "batch16_low_lr": (*both, "data.batch_size=16", "optimizer.lr=1e-3"),
        "batch32_high_lr": (*both, "data.batch_size=32", "optimizer.lr=3e-3"),
        "batch16_one_cycle_balanced": (*both, "data.batch_size=16", *cycle),
        "batch16_long": (*both[:2], f"trainer.max_steps={2 * steps}", "data.batch_size=16"),
    }


def page(results: dict[str, Any]) -> str:
    """docs/small_folders.md from the JSON."""
    rows = results["rows"]
    lines = [
        "# The defaults on small folders",
        "",
        "Written by `python -m benchmarks.small_folders FOLDER` from small_folders.json: the README's line for own",
        "pictures (MobileNetV3-small, 64 px) on rendered JPEGs of mixed sizes and uneven classes, as it is and in",
        "settings tuned by hand (early stopping off; batch 16 or 32, other learning rates, one cycle with balanced",
        "classes, twice the steps). Accuracy on the test images with the weights best on validation; one thread.",
        "",
        "| folder | train / test | classes | largest class | defaults | n | best by hand | of n | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for plan in PLANS:
        own = [row for row in rows if row["folder"] == plan.name]
        by_default = [row["test_acc"] for row in own if row["setting"] == "default"]
        by_hand = {row["setting"]: row["test_acc"] for row in own if row["setting"] != "default"}
        if not by_default or not by_hand:
            continue
        best = max(by_hand, key=by_hand.__getitem__)
        average, spread = mean(by_default), deviation(by_default) if len(by_default) > 1 else None
        share = max(per_class(plan.counts[2], len(plan.classes), plan.share)) / plan.counts[2]
        lines.append(
            f"| {plan.name} | {plan.counts[0]} / {plan.counts[2]} | {len(plan.classes)} | {share:.0%} | {average:.1%}"
            f"{'' if spread is None else f' ± {spread:.1%}'} | {len(by_default)} | {by_hand[best]:.1%} ({best}) "
            f"| {len(by_hand)} | {average / by_hand[best]:.0%} |"
        )
    lines += ["", "A test accuracy of 500 images at 50 % has a standard error of 2.2 points.", "", "## Every run", ""]
    lines += [f"- {row['test_acc']:.1%} ({row['status']}, {row['steps']} steps): `{row['command']}`" for row in rows]
    return "\n".join([*lines, ""])


def runs_of(root: Path) -> KeptRuns:
    return KeptRuns(root, "small_folders", "folder", README_LINE)


def train_all(root: Path) -> None:
    for plan in PLANS:
        render(plan, root)
    runs_of(root).train_all(
        Wanted(plan.name, setting, seed, (f"data.root={root / plan.name}", *words))
        for plan in PLANS
        for setting, words in {"default": (), **hand_tuned(plan)}.items()
        for seed in (SEEDS.get(plan.name, (0,)) if setting == "default" else (0,))
    )


def main(words: Sequence[str]) -> None:
    root = Path(words[0]).absolute()
    if "--collect" not in words:
        train_all(root)
    runs_of(root).write(page)


if __name__ == "__main__":
    main(sys.argv[1:])
