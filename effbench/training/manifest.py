"""What the manifest of a checkpoint says of its weights. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effbench.disk import followed
from effbench.errors import ConfigError
from effbench.guarded import read_bytes


def weights_digest(manifest: Mapping[str, Any]) -> str:
    """Return the sha256 of the weights that a checkpoint answers with: the averaged ones, where there are some."""
    digests = manifest["sha256"]
    return str(digests.get("ema.safetensors") or digests["model.safetensors"])


def stated_digest(run: Path, checkpoint: object) -> str | None:
    """Return the sha256 of the weights of a run's checkpoint as its manifest states it; None if there is none.

    The files are not read: that takes seconds for a large model.

    Args:
        run: folder of the run.
        checkpoint: 'best', 'last' or the name of a checkpoint; it may be from a record that a stranger wrote.
    """
    # a path could lead out of the folder
    if not isinstance(checkpoint, str) or Path(checkpoint).name != checkpoint:
        return None
    folder = run / "checkpoints"
    # as Run.checkpoint: without validation, best means last
    places = [followed(folder / name) for name in dict.fromkeys([checkpoint, *["last"] * (checkpoint == "best")])]
    try:
        saved = next(place for place in places if place.is_dir())
        return weights_digest(json.loads(read_bytes(saved / "manifest.json")))
    except (ConfigError, OSError, StopIteration, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def has_other_weights(run: Path, checkpoint: object, digest: object) -> bool:
    """Return True if a run's checkpoint is there with other weights than a record was made of.

    Args:
        run: folder of the run.
        checkpoint: its name in the record, which a stranger may have written.
        digest: sha256 of the weights in the record; None: an older record, which does not say.
    """
    return digest is not None and stated_digest(run, checkpoint) not in (None, digest)
