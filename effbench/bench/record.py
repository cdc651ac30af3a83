"""bench.json, bench.csv and bench.svg of a measurement; each is complete or absent."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from effbench.bench.figure import latency_sheet
from effbench.escaping import csv_cell
from effbench.records import check_replaceable, replacing
from effbench.redaction import redact, redact_environment
from effbench.report.deployment import BENCH_BYTES
from effbench.run.lock import holding
from effbench.strict_json import json_text
from effbench.units import human_bytes

log = logging.getLogger(__name__)

ELSEWHERE = "output=FOLDER"
NAMES = ("bench.csv", "bench.svg", "bench.json")  # in the order in which they are written


@contextmanager
def taken(folder: Path | None, names: Sequence[str]) -> Iterator[None]:
    """Hold the folder of a result during its measurement, so that one that cannot be written is refused before it.

    A folder that is made for it is removed again if it stays empty.

    Args:
        folder: of the result; None: nothing is written.
        names: of the files that will be replaced in it.

    Raises:
        ConfigError: the folder or a file cannot be written, or another process measures for the same folder.
    """
    if folder is None:
        yield
        return
    check_replaceable((folder / name for name in names), ELSEWHERE)
    with holding(folder, ELSEWHERE):
        yield


def write_record(folder: Path, record: Mapping[str, Any]) -> list[Path]:
    """Write the files and return their paths; bench.json, which others read, comes last.

    Raises:
        EffbenchError: the folder cannot be written.
    """
    csv_text, figure, record_text = _csv(record), latency_sheet(record), _json(record)
    return write_files(folder, dict(zip(NAMES, (csv_text, figure, record_text), strict=True)))


def _json(record: Mapping[str, Any]) -> str:
    """Return the text of bench.json, which `effbench report` reads: of very many processes without theirs."""
    text = json_text(redact(record))
    if len(redact_environment(text).encode(errors="backslashreplace")) < BENCH_BYTES:
        return text
    most = human_bytes(BENCH_BYTES)
    log.info(f"note: bench.json has no numbers of single processes, with which it would exceed {most}")
    return json_text(redact({**record, "processes": {}}))


def write_files(folder: Path, texts: Mapping[str, str | None]) -> list[Path]:
    """Write the files of a measurement, each completely or not at all, and return their paths.

    Args:
        folder: created if missing.
        texts: name -> content without the last line break. None: there is no such file, and one of an earlier
            measurement is removed.

    Raises:
        EffbenchError: the folder cannot be written.
    """
    with holding(folder, ELSEWHERE):
        for name, text in texts.items():
            if text is None:
                (folder / name).unlink(missing_ok=True)
                continue
            with replacing(folder / name, elsewhere=ELSEWHERE) as stream:
                stream.write(redact_environment(text + "\n").encode("utf-8", errors="backslashreplace"))
    return [folder / name for name, text in texts.items() if text is not None]


def csv_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one flat row a backend and batch size; a backend that failed has one row with its reason."""
    rows = []
    for arm in record["arms"]:
        own = {"backend": arm["backend"], "status": arm["status"], "reason": arm["reason"], "bytes": arm.get("bytes")}
        own |= {f"val_{name}": value for name, value in (arm.get("metrics") or {}).items()}
        if lost := arm.get("lost"):
            own |= {"lost_points": lost["estimate"], "lost_low": lost["low"], "lost_high": lost["high"]}
        if parity := arm.get("parity"):
            own |= {"max_difference": parity["max_difference"], "agreement": parity["agreement"]}
        batches = arm.get("batches") or {}
        rows += [{**own, "batch_size": int(size), **_flat(found)} for size, found in batches.items()] or [own]
    return rows


def _flat(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a batch size; those with an interval have columns _low and _high."""
    flat = dict[str, Any]()
    named = {f"{name}_s": value for name, value in found["latency_s"].items()}
    named |= {key: found[key] for key in ("samples_per_s", "latency_over_reference")}
    for name, value in named.items():
        for end, suffix in (("estimate", ""), ("low", "_low"), ("high", "_high")):
            flat[name + suffix] = None if value is None else value[end]
    rest = ("rounds", "calls", "processor_share", "involuntary_switches_per_s", "others_seen", "import_s", "load_s")
    return {**flat, **{key: found[key] for key in (*rest, "first_s", "peak_bytes")}}


def _csv(record: Mapping[str, Any]) -> str:
    rows = csv_rows(record)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue().rstrip("\n")


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.8g}" if isinstance(value, float) else csv_cell(value)
