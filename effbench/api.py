"""The Python API, for scripts and notebooks. Importing it does not import torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.cache_dir import expanded
from effbench.config.arguments import check_list, check_path
from effbench.config.compose import compose
from effbench.errors import ConfigError
from effbench.run.evaluate import evaluate_run
from effbench.run.export import export_run
from effbench.run.load import load_run
from effbench.run.predict import predict_files

if TYPE_CHECKING:
    from effbench.config.schema import Config
    from effbench.run.run import Run
    from effbench.training.callbacks import Callback

__all__ = [
    "bench_run",
    "compose",
    "compress_run",
    "evaluate_run",
    "export_run",
    "load_run",
    "predict_files",
    "train",
]


def train(
    config: Config | Sequence[str] = (),
    folder: Path | str | None = None,
    config_dir: Path | str | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train and return the run.

    Args:
        config: overrides, as on the command line, or a composed config. "resume=RUN" starts from RUN's overrides.
        folder: the run folder; None: outputs/<date>/<time>. Like the override hydra.run.dir=DIR, so "resume=auto"
            continues in it.
        config_dir: folder with your own groups, for overrides.
        callbacks: objects in addition to the config's callbacks. They are not recorded: a resumed run needs them again.

    Raises:
        ConfigError: the config cannot work; raised before training starts.
        EffbenchError: the run failed; its summary.json has status 'failed'.

    Example:
        train(["model=mlp", "optimizer=lion"]).summary["metrics"]
    """
    from effbench.config.schema import Config

    for name, path in (("folder", folder), ("config_dir", config_dir)):
        if path is not None:
            check_path(name, path)
    check_list("callbacks", callbacks, object, "a list of effbench.Callback objects")
    if not isinstance(config, Config):
        from effbench.config.compose import check_words
        from effbench.config.recipes import quoted
        from effbench.run.launch import composed
        from effbench.run.overrides import lasting

        check_words(config)
        place = [] if folder is None else [f"hydra.run.dir={quoted(expanded(folder))}"]
        raw, config = composed([*config, *place], None if config_dir is None else str(config_dir))
        from effbench.run import session as training  # imports torch: only after the checks

        return training.train(config, Path(str(raw.hydra.run.dir)), lasting(raw.hydra.overrides.task), callbacks)

    if config_dir is not None:
        raise ConfigError("config_dir is for overrides; a Config has been composed already: compose(…, config_dir).")
    if config.resume == "auto":
        raise ConfigError('resume=auto needs the overrides: effbench.train(["resume=auto", …]), not a composed Config.')
    if config.resume and folder is not None and expanded(folder).resolve() != expanded(config.resume).resolve():
        raise ConfigError(f"resume={config.resume} continues in that folder; got folder={folder}. Leave folder out.")
    from effbench.run import session as training

    return training.train(config, folder, callbacks=callbacks)


def bench_run(
    target: str | Path,
    checkpoint: str = "best",
    output: str | Path = "",
    data_overrides: Mapping[str, str] | None = None,
    allow_targets: Sequence[str] = (),
    trust: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Measure the inference of a run, or of an exported file, with each backend; as `effbench bench`.

    Args:
        target: the run folder, or an exported file that has its .json record beside it.
        checkpoint: of a run: 'best', 'last' or the name of a checkpoint.
        output: folder of bench.json, bench.csv and bench.svg; '' is bench/ in the run, or bench/FILE beside the file.
        data_overrides: data keys that replace the run's, as text: {'root': 'DIR'}.
        allow_targets: the user's modules that a _target_ may name.
        trust: run a file that is a program (TorchScript, torch.export, ExecuTorch).
        options: fields of effbench.bench.options.BenchOptions, such as backends=["eager"], threads=2.

    Returns:
        The content of bench.json, with `path` of that file.

    Raises:
        ConfigError: the target or an option is wrong.
        EffbenchError: no backend works.

    Example:
        bench_run(run.folder, backends=["eager", "onnxruntime"])["verdicts"]["single_stream"]["winner"]
    """
    from effbench.bench.bench import bench
    from effbench.bench.options import bench_options

    return bench(target, bench_options(options), checkpoint, output, data_overrides, allow_targets, trust)


def compress_run(
    folder: str | Path,
    method: str,
    checkpoint: str = "best",
    output: str | Path = "",
    data_overrides: Mapping[str, str] | None = None,
    allow_targets: Sequence[str] = (),
    **options: Any,
) -> dict[str, Any]:
    """Make a smaller or faster run of a run, measured beside it; as `effbench compress`.

    Args:
        folder: the run folder, which is never changed.
        method: 'quantize', 'structured' or 'unstructured'.
        checkpoint: 'best', 'last' or the name of a checkpoint.
        output: folder of the result, which must not exist; '' is RUN-<method> beside the run.
        data_overrides: data keys that replace the run's, as text: {'root': 'DIR'}.
        allow_targets: the user's modules that a _target_ may name.
        options: of the method, such as ratio=0.3, and of the measuring: backends, threads, rounds, seconds.

    Returns:
        The content of compression.json, with `path` of the result, which load_run and all others take.

    Raises:
        ConfigError: the folder holds no finished run, the result exists, or an option is wrong.
        EffbenchError: the method failed; nothing was written.

    Example:
        compress_run(run.folder, "structured", ratio=0.3, epochs=5)["path"]
    """
    from effbench.compress.compress import compress
    from effbench.compress.options import compress_options

    chosen = compress_options(method, checkpoint, options)
    return compress(folder, chosen, output, data_overrides, allow_targets)
