"""The sessions of a run: the overrides that each was started with, and its steps.

The manifest of a checkpoint lists the sessions that trained its weights; the last of them has no end. It also holds
the settings of the last session. summary.json lists the sessions with their ends. A resumed session changes
config.yaml and .hydra/overrides.yaml only when its first checkpoint is written: until then the newest weights belong to
the earlier session.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from effbench.config.compare import config_digest, differing
from effbench.config.schema import Config
from effbench.config.versions import stamped
from effbench.config.yaml_text import parse_yaml, write_yaml
from effbench.guarded import read_text
from effbench.records import read_summary, write_summary, write_text
from effbench.redaction import redact
from effbench.run.overrides import is_ephemeral
from effbench.training.checkpoint import Checkpoints
from effbench.training.checkpoint_files import committed, read_manifest
from effbench.training.state import TrainState

LIBRARIES = ("effbench", "torch", "torchvision", "numpy")
# An entry of `sessions` in summary.json and in manifests. It stays a dictionary: other versions may add keys.
SessionRecord = dict[str, Any]


class SessionHistory:
    """The current session of a run and the earlier ones.

    Args:
        config: config of the current session.
        folder: folder of the run.
        words: overrides that `config` was composed from; None if it was made in Python.
        begun: start time.
    """

    def __init__(self, config: Config, folder: Path, words: Sequence[str] | None, begun: datetime):
        self.folder = folder
        # Secrets never reach a record.
        self.settings: dict[str, Any] = redact(config.to_dict())
        self.versions = {name: version(name) for name in LIBRARIES}
        # allow_targets and hydra.* are left out: a resumed run must not get them from its folder.
        self._words = None if words is None else redact([word for word in words if not is_ephemeral(word)])
        self._resumed = False
        self.earlier: list[SessionRecord] = []
        self.current: SessionRecord = {
            "started": begun.astimezone().isoformat(timespec="milliseconds"),
            "ended": None,
            "status": "running",
            "stop_reason": None,
            "from_step": 0,
            "to_step": None,
            "overrides": self._words,
            "argv": redact(list(sys.argv)),
            "changed": {},
            "log_every_n_steps": config.trainer.log_every_n_steps,
            "config": config_digest(self.settings),
            "versions": self.versions,
        }

    def settle(self, config: Config) -> None:
        """Record the config after `auto` values were replaced, which depends on the data."""
        self.settings = redact(config.to_dict())
        self.current["config"] = config_digest(self.settings)

    def follow(self, checkpoint: Path, before: Mapping[str, Any]) -> None:
        """Continue from `checkpoint`, which was written under the config `before`."""
        manifest = read_manifest(checkpoint)
        self._resumed, self.earlier = True, earlier_sessions(self.folder, manifest)
        self.current["from_step"] = manifest["step"]
        self.current["changed"] = {key: [old, new] for key, old, new in differing(redact(before), self.settings)}

    def begin(self, checkpoints: Checkpoints | None) -> None:
        """Prepare the records before the first step. An existing summary counts as interrupted until the end."""
        if checkpoints is not None:
            # What each manifest says about the session that wrote it; `current` is filled in when the session ends.
            checkpoints.identity |= {
                "config": self.current["config"],
                "settings": stamped(self.settings),
                "versions": self.versions,
                "sessions": [*self.earlier, self.current],
            }
        if not self._resumed:
            self._write_config()
            return
        # Until this session saves, the newest weights are those of the earlier one: config.yaml stays theirs.
        if checkpoints is not None:
            checkpoints.first_saved = self._write_settings
        if (self.folder / "summary.json").is_file():
            why = f"the session that resumed at step {self.current['from_step']} has not ended"
            self.write_summary({**read_summary(self.folder), "status": "interrupted", "stop_reason": why})

    def end(self, state: TrainState, outcome: Mapping[str, Any]) -> None:
        """Write the summary."""
        self.current |= {"status": state.status, "stop_reason": state.stop_reason}
        self.current |= {"to_step": state.step, "ended": _now()}
        self.write_summary(outcome)

    def fail(self, status: str, outcome: dict[str, Any]) -> None:
        """Write the summary of a session that failed; entries of earlier sessions are kept."""
        # The steps since the newest checkpoint are lost.
        saved = [int(path.name.removeprefix("step-")) for path in committed(self.folder / "checkpoints")]
        self.current |= {"status": status, "stop_reason": outcome["error"]}
        self.current |= {"to_step": max(saved, default=0), "ended": _now()}
        if self._resumed and (self.folder / "summary.json").is_file():
            # What failed after a resume has no new results: keep those of the earlier sessions.
            found = {key: value for key, value in outcome.items() if value}
            outcome = {**read_summary(self.folder), "stop_reason": None, **found}
        self.write_summary(outcome)

    def write_summary(self, content: Mapping[str, Any]) -> None:
        write_summary(self.folder, {**content, "sessions": [*self.earlier, self.current]})

    def _write_settings(self) -> None:
        """Update config.yaml and .hydra/overrides.yaml if they differ from the current settings."""
        path = self.folder / ".hydra" / "overrides.yaml"
        changed = self._write_config()
        if self._words is None:
            if changed:
                path.unlink(missing_ok=True)  # a later resume then reads config.yaml instead
            return
        if path.is_file():
            recorded = parse_yaml(read_text(path), str(path), recorded=True) or []
            # The record of the first session also holds words such as hydra.run.dir: they are no difference.
            if [str(word) for word in recorded if not is_ephemeral(str(word))] == self._words:
                return
        path.parent.mkdir(exist_ok=True)
        write_text(path, write_yaml(self._words))

    def _write_config(self) -> bool:
        """Write config.yaml; return False if it holds these settings already."""
        text = write_yaml(stamped(self.settings))
        path = self.folder / "config.yaml"
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return False
        write_text(path, text)
        return True


def earlier_sessions(folder: Path, manifest: Mapping[str, Any]) -> list[SessionRecord]:
    """Return the sessions before a checkpoint with their ends, and later sessions that saved nothing."""
    step = manifest["step"]
    summary = read_summary(folder) if (folder / "summary.json").is_file() else {}
    listed = _sound(summary.get("sessions"))
    if not listed and "sessions" not in manifest:
        # effbench 0.1 listed no sessions: the whole run counts as one.
        summary = summary or {"status": "killed", "steps": step}
        listed = [
            {
                "started": (summary.get("timing") or {}).get("started"),
                "ended": None,
                "status": summary["status"],
                "stop_reason": summary.get("stop_reason"),
                "from_step": 0,
                "to_step": summary.get("steps", 0),
                "overrides": None,
                "argv": summary.get("argv", []),
                "changed": {},
                "config": None,
                "versions": {},
            }
        ]

    # The summary knows how a session ended, the manifest only that it began.
    ended = {session["started"]: session for session in listed}
    found = [ended.get(session["started"], session) for session in _sound(manifest.get("sessions"))]
    known = {session["started"] for session in found}
    found += [session for session in listed if session["started"] not in known]
    # A session without a recorded end was killed; its last checkpoint tells its steps.
    return [
        {**session, "status": "killed", "to_step": max(step, session["from_step"])}
        if session["status"] == "running"
        else session
        for session in found
    ]


def _sound(sessions: Any) -> list[SessionRecord]:
    """Return the valid entries: the folder may come from an untrusted source."""
    found = [session for session in sessions or [] if isinstance(session, dict)] if isinstance(sessions, list) else []
    steps = [(session, session.get("from_step"), session.get("to_step")) for session in found]
    return [
        session
        for session, begun, ended in steps
        if isinstance(begun, int) and isinstance(ended, int | None) and isinstance(session.get("started"), str | None)
        and isinstance(session.get("status"), str)
    ]  # fmt: skip


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")
