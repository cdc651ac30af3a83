"""docs/architectures.md from docs/architectures.json; see benchmarks.export_table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from effbench.units import counted, human_bytes, human_count

CHECKED = ("onnx", "openvino")  # formats, each with columns of its own

HEAD = """\
# Architectures and their exported files

Written by `python -m benchmarks.export_table` from architectures.json: every name of `model=`, exported with the
functions of `effbench export` and compared with the model in torch.

- Weights are untrained. Parameters that are constant at the start (biases, scales, heads of zeros) get noise, and batch
  norms the statistics of random images, so that a file without them would fail. Images are random smooth colours with
  noise at 3 x 32 x 32 (10 classes) and 3 x 224 x 224 (1000 classes); texts and rows are the first of their data.
- A file passes if at batches of 1, 2 and 7 no output differs by more than 1e-4 of the largest one, and all 9 answers
  are the same; for texts of a free length also at 1, 2, half and all tokens. "Difference" is the largest one, as a part
  of the largest output. OpenVINO computes in float32 here.
- Seconds of processor time are for export and comparison, in one process with one thread, the first with the imports of
  the exporter.
"""


def page(kept: Mapping[str, Any]) -> str:
    """docs/architectures.md from the JSON."""
    columns = ["model", "input", "parameters", "MACs"]
    for name in CHECKED:
        columns += [f"{name} file", "difference", "s"]
    lines = [_row(columns), _row(["---"] * len(columns)), *(_line(entry) for entry in kept["entries"].values())]
    parts = [HEAD, "\n".join(lines), "\n".join(_notes(kept)), f"{_machines(kept)}{_versions(kept)}"]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _line(entry: Mapping[str, Any]) -> str:
    counts = [human_count(entry[name]) if name in entry else "" for name in ("parameters", "macs")]
    row = [_name(entry), entry["input"], *counts]
    for name in CHECKED:
        file = entry["formats"].get(name)
        row += ["", "", ""] if file is None else ["none", "", ""] if "reason" in file else cells(file)
    return _row(row)


def cells(file: Mapping[str, Any]) -> list[str]:
    return [human_bytes(file["bytes"]), f"{file['relative']:.1e}", f"{file['processor_s']:.0f}"]


def _name(entry: Mapping[str, Any]) -> str:
    return f"`{' '.join([entry['model'], *entry['options']])}`"


def _notes(kept: Mapping[str, Any]) -> Iterator[str]:
    """Why there is no file, and which files take samples of one length only."""
    for entry in kept["entries"].values():
        for name, file in entry["formats"].items():
            where = f"{_name(entry)}, {entry['input']}"
            if "reason" in file:
                yield f"- {where}, {name}: none, because {file['reason']}"
            elif file["free_length"] is False:
                yield f"- {where}, {name}: the exporter fixes the length, so texts are padded to it."


def _machines(kept: Mapping[str, Any]) -> str:
    """Where the files were made and compared; of several machines each with its files."""
    rows: dict[str, dict[str, list[str]]] = {}
    for entry in kept["entries"].values():
        for name, file in entry["formats"].items():
            machine = file["machine"]
            text = f"{counted(machine['threads'], 'thread')} of {machine['cpu']} ({machine['cpu_capability']})"
            rows.setdefault(text, {}).setdefault(f"{_name(entry)}, {entry['input']}", []).append(name)
    if len(rows) < 2:
        return "".join(f"Machine: {text}. " for text in rows)
    lines = []
    for text, own in rows.items():
        files = "; ".join(f"{row} ({', '.join(formats)})" for row, formats in own.items())
        lines.append(f"- {text}: {files}.\n")
    return f"Machines:\n\n{''.join(lines)}\n"


def _versions(kept: Mapping[str, Any]) -> str:
    """The versions of all files; of a library that was updated in between, each."""
    used: dict[str, set[str]] = {}
    for entry in kept["entries"].values():
        for file in entry["formats"].values():
            for name, text in file["versions"].items():
                used.setdefault(name, set()).add(text)
    return f"Versions: {', '.join(f'{name} {_all_of(used[name])}' for name in sorted(used))}."


def _all_of(texts: Iterable[str]) -> str:
    return " and ".join(sorted(texts))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
