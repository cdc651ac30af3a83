"""The model card of an exported file: README.md, for people and for the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from effbench.escaping import markdown_text
from effbench.export.card_words import marked
from effbench.metrics import LOSS, display_in
from effbench.stats import share_interval
from effbench.units import human_bytes, human_count

_SHOWN = 20  # classes that are listed
# (word for a sample, kind of the targets) -> the Hub's name of the task
_PIPELINES = {
    ("images", "class"): "image-classification",
    ("texts", "class"): "text-classification",
    ("windows", "tokens"): "text-generation",
    ("rows", "class"): "tabular-classification",
    ("rows", "values"): "tabular-regression",
}


def model_card(
    facts: Mapping[str, Any], summary: Mapping[str, Any], front_matter: bool, compression: Sequence[str] = ()
) -> str:
    """Return the card in Markdown, with digests of its parts at its end (`card_words.marked`).

    Args:
        facts: the record of the file.
        summary: of its run.
        front_matter: begin with the YAML that the Hub reads.
        compression: sentences on how the run was made of another one.
    """
    made_of = "\n".join(["## Compression\n", *(f"- {markdown_text(each)}" for each in compression), ""])
    parts = [
        *([_front_matter(facts, summary)] if front_matter else []),
        f"# {facts['model']['name']}\n",
        f"`{facts['file']}` ({facts['format']}, {human_bytes(facts['bytes'])}), exported by effbench "
        f"{facts['versions']['effbench']} from checkpoint {facts['checkpoint']['name']} (step "
        f"{facts['checkpoint']['step']}). `{facts['file']}.json` describes input, preprocessing and output.\n",
        "## Intended use\n\nTo be filled in: what the model is for, for whom, and what it must not be used for.\n",
        "\n".join(["## Data\n", *_data(facts), ""]),
        *([made_of] if compression else []),
        "\n".join(["## Metrics\n", *_metrics(facts, summary), ""]),
        "\n".join(["## Check of the file\n", *_check(facts), ""]),
        "\n".join(["## Training\n", *_training(facts, summary), ""]),
        f"## Limits\n\nTo be filled in. Known to effbench: the metrics hold for data like the test split only, and "
        f"{_limit(facts)}.\n",
    ]
    return marked("\n".join(parts))


def _front_matter(facts: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    # JSON is YAML too, and needs no rules for quotes
    kind = _PIPELINES.get((facts["input"]["name"], facts["task"]["targets"]))
    lines = ["library_name: effbench", f"tags: {json.dumps(['effbench', facts['format'], facts['model']['name']])}"]
    if kind:
        lines.append(f"pipeline_tag: {kind}")
        name = facts["data"]["name"] if isinstance(facts["data"].get("name"), str) else "unnamed"
        found = [
            {"type": "accuracy" if metric == "acc" else metric, "name": f"test {metric}", "value": value}
            for metric, value in _values(summary)
        ]
        if found:
            result = {"task": {"type": kind}, "dataset": {"name": name, "type": name}, "metrics": found}
            index = [{"name": facts["model"]["name"], "results": [result]}]
            lines.append(f"model-index: {json.dumps(index, ensure_ascii=False)}")
    return "\n".join(["---", *lines, "---\n"])


def _data(facts: Mapping[str, Any]) -> Iterator[str]:
    data = facts["data"]
    counts = ", ".join(f"{count:,} {split}" for split, count in (data.get("counts") or {}).items())
    yield f"- dataset: {markdown_text(str(data.get('name')))} ({facts['input']['name']}: {counts or 'counts unknown'})"
    yield f"- sha256 of its content: `{markdown_text(data['sha256'])}`"
    classes = facts["classes"]
    more = f" and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else ""
    yield f"- {len(classes)} outputs: {', '.join(map(markdown_text, classes[:_SHOWN]))}{more}"


def _values(summary: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return (metric, value) on the test split, the loss last."""
    found = [
        (column.removeprefix("test/"), value)
        for column, value in (summary.get("metrics") or {}).items()
        if column.startswith("test/") and isinstance(value, int | float)
    ]
    return sorted(found, key=lambda pair: pair[0] == LOSS)


def _metrics(facts: Mapping[str, Any], summary: Mapping[str, Any]) -> Iterator[str]:
    values, data = _values(summary), summary.get("data") or {}
    # of a sample, if the run evaluated one
    count = (data.get("evaluated") or {}).get("test") or (data.get("counts") or {}).get("test")
    if not values:
        yield "The run has no test metrics."
        return
    yield "| test split | value | 95 % interval |"
    yield "| --- | --- | --- |"
    for metric, value in values:
        display = display_in(summary, metric)
        interval = "not known from one run"
        if display.is_share and count and 0 <= value <= 1:
            found = share_interval(value * count, count)
            interval = f"{display.text(found.low)} to {display.text(found.high)} (Wilson, n = {count:,})"
        yield f"| {markdown_text(display.title)} | {display.with_unit(value)} | {interval} |"
    yield ""
    yield "The interval is of the choice of test samples; another training seed gives other values."
    # those of a compressed run that was not trained further are of the result itself
    if facts.get("quantized") or facts["checkpoint"]["step"] == 0:
        return
    # the run's test is of its best checkpoint, or without a validation split of its last
    tested, step = (summary.get("best") or {}).get("checkpoint"), facts["checkpoint"]["step"]
    if tested != f"step-{step:08d}" and (tested or step != summary.get("steps")):
        yield f"They are of checkpoint {tested or 'last'}; this file holds step {step}: measure it with effbench eval."


def _check(facts: Mapping[str, Any]) -> Iterator[str]:
    parity, unit = facts["parity"], facts["input"]["name"]
    which = f"{parity['split']} {unit}" if parity["split"] else "random inputs, which is a weaker check"
    yield (
        f"The file was compared with the model on {parity['samples']} {which}: outputs differ by at most "
        f"{parity['relative']:.2g} of the largest, and {parity['agreeing']} answers are the same."
    )


def _training(facts: Mapping[str, Any], summary: Mapping[str, Any]) -> Iterator[str]:
    config, timing = facts["config"], summary.get("timing") or {}
    precision = markdown_text(str(summary.get("precision")))
    for group in ("model", "optimizer", "scheduler", "loss", "augment"):
        section = dict(config.get(group) or {})
        target = str(section.pop("_target_", "none")).rpartition(".")[2]
        options = ", ".join(f"{key} {json.dumps(value)}" for key, value in section.items() if value is not None)
        yield f"- {group}: {markdown_text(target)}{f' ({markdown_text(options)})' if options else ''}"
    seconds = f", {timing['training_s']:.0f} s" if isinstance(timing.get("training_s"), int | float) else ""
    yield (
        f"- {summary.get('steps')} steps ({summary.get('epochs'):.3g} epochs), batch size "
        f"{config['data'].get('batch_size')}, seed {config.get('seed')}, precision {precision}"
        f"{seconds}"
    )
    macs = facts["model"].get("macs")
    size = f"{human_count(facts['model']['parameters'])} parameters"
    yield f"- {size}{f', {human_count(macs)} multiply-adds a sample' if macs else ''}"


def _limit(facts: Mapping[str, Any]) -> str:
    return (
        "the outputs are not calibrated"
        if facts["task"]["targets"] in ("class", "labels")
        else "nothing is known of its errors on single samples"
    )
