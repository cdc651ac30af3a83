"""From overrides to a trained run, with Hydra's record of the job."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.config.compose import compose_raw, parse, plain
from effbench.errors import ConfigError, MissingExtraError
from effbench.gc_pause import uncollected
from effbench.run.lock import claimed
from effbench.run.outcome import report
from effbench.run.overrides import lasting
from effbench.run.resume_words import with_resume

if TYPE_CHECKING:
    from effbench.config.schema import Config
    from effbench.run.run import Run
    from effbench.training.callbacks import Callback


Composed = tuple[Any, "Config"]  # Hydra's composition with its node `hydra`; the checked config


def composed(overrides: Sequence[str], config_dir: str | None = None) -> Composed:
    """Return the config of one run, checked before torch is imported and before any folder is created."""
    overrides = with_resume(overrides, config_dir)
    with uncollected():  # Hydra's import allocates much, and nothing of it is garbage
        raw = compose_raw(overrides, config_dir)
        return raw, parse(plain(raw))


def train_composed(
    whole: Composed, as_json: bool = False, config_dir: str | None = None, callbacks: Sequence[Callback] = ()
) -> int:
    """Train one run in this process.

    Args:
        whole: return value of `composed`.
        as_json: print the result as summary.json, not as a table.
        config_dir: folder with the user's config groups, for the command that resumes the run.
        callbacks: callbacks in addition to the config's; they are not recorded.

    Returns:
        Exit code of the process.
    """
    raw, config = whole
    if raw.hydra.job.chdir:
        raise ConfigError(
            "hydra.job.chdir must stay false: paths such as data.root=DIR are relative to where you call."
        )
    if raw.hydra.output_subdir != ".hydra":
        raise ConfigError(
            "hydra.output_subdir must stay .hydra: resume=RUN reads there what the run was started with; got "
            f"{'null' if raw.hydra.output_subdir is None else raw.hydra.output_subdir}."
        )
    if not str(raw.hydra.run.dir).strip():
        raise ConfigError("hydra.run.dir is empty; for the folder you are in, write hydra.run.dir=.")

    folder = Path(raw.hydra.run.dir)
    with claimed(folder, resumes=config.resume is not None), hydra_job(raw, folder):
        run = _train_recorded(raw, config, folder, callbacks)
    return report(run, as_json, config_dir) if run else 0


def _train_recorded(raw: Any, config: Config, folder: Path, callbacks: Sequence[Callback]) -> Run | None:
    """Train with Hydra's record of the job (.hydra/). Ranks other than 0 write no record and return None."""
    # These import torch: only now is it known that the run may start.
    with uncollected():
        from effbench.run.session import train_claimed
        from effbench.training.distributed import environment_rank

    words = lasting(raw.hydra.overrides.task)
    if environment_rank() > 0:
        train_claimed(config, folder, words, callbacks)
        return None
    if config.resume:  # keep the first session's record until the first checkpoint
        return train_claimed(config, folder, words, callbacks)
    try:
        record_job(raw, folder)
        return train_claimed(config, folder, words, callbacks)
    except (ConfigError, MissingExtraError):
        if not (folder / "summary.json").is_file():  # a refused run leaves no files
            shutil.rmtree(folder / ".hydra", ignore_errors=True)
        raise


@contextmanager
def hydra_job(raw: Any, folder: Path) -> Iterator[None]:
    """Set Hydra's state for the time of a job: HydraConfig, and the environment variables of hydra.job.env_set."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import env_override
    from omegaconf import OmegaConf, open_dict, read_write

    environment: Any = OmegaConf.to_container(raw.hydra.job.env_set, resolve=True)
    state = HydraConfig.instance()
    before = state.cfg
    # Hydra's own launcher fills in the output folder; ${hydra:runtime.output_dir} of a user's config reads it.
    with read_write(raw.hydra.runtime), open_dict(raw.hydra.runtime):
        raw.hydra.runtime.output_dir = str(folder.absolute())
    state.set_config(raw)
    try:
        with env_override(environment):
            yield
    finally:
        state.cfg = before  # a notebook may call from within another Hydra application


def record_job(composed: Any, folder: Path) -> None:
    """Write config.yaml, hydra.yaml and overrides.yaml to .hydra/ as Hydra does, without secrets; within `hydra_job`.

    Args:
        composed: the job's config, with or without its node `hydra`.
        folder: folder of the run.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from effbench.records import write_text
    from effbench.redaction import redact

    # HydraConfig holds the node `hydra` that the launcher completed; the one in `composed` lacks the job's number.
    whole: Any = HydraConfig.instance().cfg
    # Not resolved, as in Hydra's own record: an environment variable may hold a secret.
    own, task = (OmegaConf.to_container(each, resolve=False, enum_to_str=True) for each in (whole, composed))
    assert isinstance(own, dict)
    assert isinstance(task, dict)
    own["hydra"]["output_subdir"] = ".hydra"  # the user's value; a sweep switches Hydra's own record off
    task.pop("hydra", None)
    parts = {"config": task, "hydra": own}
    (folder / ".hydra").mkdir(exist_ok=True)
    for name, content in {**parts, "overrides": own["hydra"]["overrides"]["task"]}.items():
        write_text(folder / ".hydra" / f"{name}.yaml", OmegaConf.to_yaml(OmegaConf.create(redact(content))))
