"""The modes of `effbench bench` besides inference, from words to a record and its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effbench.bench.memory import check_attention, check_convolutions
from effbench.bench.options import check_counts
from effbench.cache_dir import expanded, is_folder
from effbench.config.arguments import check_list
from effbench.config.compose import compose
from effbench.config.options import COUNT
from effbench.errors import ConfigError
from effbench.records import read_summary
from effbench.redaction import redact
from effbench.report.compression import read_compression
from effbench.strict_json import json_text

LEAST_STEPS = 10  # the first 5 are a warm-up


def bench_train(
    words: Sequence[str],
    steps: int = 45,
    rounds: int = 5,
    threads: int = 1,
    output: str = "",
    targets: Sequence[str] = (),
    config_dir: str | None = None,
) -> dict[str, Any]:
    """Split the training steps of a run's config, or of overrides.

    Args:
        words: a run's folder alone, or overrides such as model=swin.
        steps: optimizer steps of a process.
        rounds: processes.
        threads: of a process.
        output: folder of train.json and train.png; '' is RUN/bench, and none for overrides.
        targets: the user's modules that the config may name.
        config_dir: folder with the user's groups, for overrides.

    Returns:
        The content of train.json, with `path` of that file if it was written.

    Raises:
        ConfigError: a word or an option is wrong.
        EffbenchError: the config does not train.
    """
    check_counts(rounds=rounds, threads=threads)
    if COUNT.check(steps, "steps") < LEAST_STEPS:
        raise ConfigError(f"steps must be at least {LEAST_STEPS}, of which 5 warm up; got {steps}.")
    place = run_in(words)
    folder = expanded(output) if output else None if place is None else place / "bench"
    config = compose(_allowing(words, targets), config_dir) if place is None else None
    if place is not None:
        _check_trained(place)
    from effbench.bench.record import taken, write_files

    with taken(folder, ("train.png", "train.json")):
        # imports torch: only after the checks
        from effbench.bench.training import bench_training, run_config

        config = config or run_config(words[0], targets)
        record = bench_training(config, steps, rounds, threads, "" if place is None else words[0])
        if folder is None:
            return record
        from effbench.bench.training_table import draw_training

        draw_training(folder / "train.png", record)
        write_files(folder, {"train.json": json_text(redact(record))})
    return {**record, "path": str(folder / "train.json")}


def run_in(words: Sequence[str]) -> Path | None:
    """Return the run's folder that the words name; None for overrides."""
    # overrides have an equals sign, and so may a folder's name
    one = len(words) == 1 and ("=" not in words[0] or is_folder(expanded(words[0])))
    return expanded(words[0]) if one else None


def _allowing(words: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Return overrides that also allow the modules; of texts in quotes, as Hydra reads them."""
    return [*words, *[f"allow_targets={json.dumps(list(targets))}"] * bool(targets)]


def _check_trained(place: Path) -> None:
    """Raise ConfigError unless the folder holds a run whose config is that of its model."""
    read_summary(place)  # names a folder that holds no run
    record = read_compression(place) or {}
    if record.get("channels") or record.get("file"):
        raise ConfigError(
            f"mode=train trains the model of a run's config, and that of {place} was changed by effbench compress "
            f"(method={record['method']}): the numbers would be of another model. Give the run before it."
        )


def bench_layers(
    channels: Sequence[int] = (16, 32, 64, 128, 256),
    sizes: Sequence[int] = (14, 28, 56),
    batch: int = 1,
    rounds: int = 5,
    threads: int = 1,
    output: str = "",
) -> dict[str, Any]:
    """Compare depthwise separable with standard convolutions of as many channels out as in.

    Args:
        channels: of the input and the output.
        sizes: rows, and columns, of the input.
        batch: samples.
        rounds: processes.
        threads: of a process.
        output: folder of layers.json and layers.svg; '' for none.

    Returns:
        The record, with `path` of layers.json if it was written.

    Raises:
        ConfigError: an option is wrong.
    """
    counts = _counts(channels, "channels"), _counts(sizes, "sizes")
    COUNT.check(batch, "batch")
    cases = [{"channels": each, "size": size, "batch": batch} for size in counts[1] for each in counts[0]]
    for case in cases:
        check_convolutions(**case)
    return _pairs("layers", cases, rounds, threads, output)


def bench_attention(
    tokens: Sequence[int] = (256, 512, 1024, 2048, 4096), rounds: int = 5, threads: int = 1, output: str = ""
) -> dict[str, Any]:
    """Compare local with dense attention by the length of the text.

    Args:
        tokens: lengths.
        rounds: processes.
        threads: of a process.
        output: folder of attention.json and attention.svg; '' for none.

    Returns:
        The record, with `path` of attention.json if it was written.

    Raises:
        ConfigError: an option is wrong.
    """
    from effbench.bench.primitives import HEAD_WIDTH, HEADS

    cases = [{"tokens": each} for each in _counts(tokens, "tokens")]
    for case in cases:
        check_attention(**case, width=HEADS * HEAD_WIDTH)
    return _pairs("attention", cases, rounds, threads, output)


def _counts(values: Sequence[int], key: str) -> list[int]:
    check_list(key, values, int, "a list of whole numbers, such as [64, 128]")
    if not values:
        raise ConfigError(f"{key} must hold a number, such as [64, 128]; got [].")
    return sorted({COUNT.check(value, f"each item of {key}") for value in values})


def _pairs(kind: str, cases: Sequence[dict[str, int]], rounds: int, threads: int, output: str) -> dict[str, Any]:
    check_counts(rounds, threads)
    from effbench.bench.record import taken, write_files

    folder = expanded(output) if output else None
    with taken(folder, (f"{kind}.svg", f"{kind}.json")):
        from effbench.bench.primitives import bench_pairs

        record = bench_pairs(kind, cases, rounds, threads)
        if folder is None:
            return record
        from effbench.bench.pairs_table import pairs_sheet

        write_files(folder, {f"{kind}.svg": pairs_sheet(record), f"{kind}.json": json_text(redact(record))})
    return {**record, "path": str(folder / f"{kind}.json")}
