"""Every architecture of model=, exported and checked: docs/architectures.json, and docs/architectures.md from it.

    python -m benchmarks.export_table                              # what is missing at these versions; hours
    python -m benchmarks.export_table --formats onnx resnet18 swin # one format of two models
    python -m benchmarks.export_table --page                       # the .md alone

Images at 32 px (10 classes) and 224 px (1000 classes), texts and rows as their data are. An entry is written as soon as
it is measured, so that a run that was ended goes on where it was.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.alternate import ROOT
from benchmarks.export_page import CHECKED, cells, page
from effbench import build
from effbench.config.compose import compose
from effbench.config.schema import Config
from effbench.config.static_compose import group_options
from effbench.data.images.modality import Images
from effbench.data.modality import Modality
from effbench.data.splits import representative_sample
from effbench.errors import ConfigError, EffbenchError, ThresholdError, first_line
from effbench.export.formats import FORMATS, export_bytes, load_exported, require_libraries
from effbench.export.interface import unfit_reason
from effbench.export.parity import Parity, compare, require
from effbench.export.portable import Portable, portable
from effbench.models import accounting
from effbench.records import write_text
from effbench.report.environment import environment
from effbench.tasks.task import Task

DATA = ROOT / "docs" / "architectures.json"
PAGE = ROOT / "docs" / "architectures.md"
SIZES = {32: 10, 224: 1000}  # pixels: classes
# The data of models that take no images; every other model of conf/model gets images.
ON_DATA = {
    "deberta_v3": "language_id", "gpt": "kjv", "local_attention": "language_id", "lstm_attention": "language_id",
    "neuron": "breast_cancer", "ngrams": "language_id", "rnn": "language_id", "text_cnn": "language_id",
    "transformer": "language_id",
}  # fmt: skip
# What else the models' files name: the same builder, other networks.
VARIANTS = {
    "mobilenet": (("arch=mobilenet_v3_large",), ("arch=mobilenet_v2",)),
    "torchvision": (("arch=convnext_tiny",), ("arch=densenet121",), ("arch=vgg16_bn",), ("arch=regnet_y_400mf",)),
    "rnn": (("cell=gru",), ("cell=lstm",)),
    "gpt": (("positions=rotary",),),
    "ngrams": (("hidden=0",),),
}  # fmt: skip
LARGE = ("resnet152", "swin", "vit_b", "vit_l")  # measured after the others, in this order
TOLERANCE = 1e-4  # of the largest logit, as in `effbench export`
SAMPLES, BATCH = 9, 7  # compared as batches of 7 and 2, and one alone
LEAST_SPREAD = 1e-2  # of the largest logit: below, a file that answers the same to everything would pass
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Case:
    """One architecture at one size. pixels: None: the data decide. options: of the model, such as arch=vgg16_bn."""

    model: str
    pixels: int | None
    options: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        own = [f"model={self.model}", *(f"model.{option}" for option in self.options)]
        return [*own, f"data={ON_DATA[self.model]}" if self.pixels is None else "data=synthetic"]

    @property
    def key(self) -> str:
        return " ".join([self.model, *self.options, "" if self.pixels is None else f"{self.pixels} px"]).strip()


def cases(models: Sequence[str] = ()) -> list[Case]:
    """Those of the models, or all, in the order in which they are measured."""
    found = []
    for model in models or group_options()["model"]:
        for options in ((), *VARIANTS.get(model, ())):
            found += [Case(model, pixels, options) for pixels in ([None] if model in ON_DATA else SIZES)]
    return sorted(found, key=_order)


def _order(case: Case) -> tuple[bool, int, int]:
    """The models as their files are come first, the large ones after the others."""
    return bool(case.options), LARGE.index(case.model) + 1 if case.model in LARGE else 0, case.pixels or 0


@dataclass(frozen=True)
class Built:
    """An untrained model with its samples. samples: as an exported file takes them."""

    config: Config
    model: nn.Module
    modality: Modality
    task: Task
    samples: Tensor
    classes: int

    @property
    def whole(self) -> Portable:
        return portable(self.model, self.modality.normaliser(), self.task.rescaler())

    def answers(self, samples: Tensor) -> Tensor:
        normalised = self.modality.normalise(samples.clone())  # images are normalised in place
        outputs: Tensor = self.task.rescaler()(self.model(normalised))
        return outputs


def built(case: Case) -> Built:
    config = compose([*case.words, "device=cpu"])
    if case.pixels is None:
        data = build.splits(config)
        modality, classes, facts = build.modality(config, data, torch.device("cpu")), len(data.classes), data.facts
        rows = representative_sample(data.train.labels, SAMPLES) if data.train.labels.dim() == 1 else range(SAMPLES)
        samples = modality.portable(data.train.inputs[torch.as_tensor(list(rows))])
    else:
        shape, classes, facts = (3, case.pixels, case.pixels), SIZES[case.pixels], {}
        recorded = {"shape": shape, "mean": MEAN, "std": STD}
        modality, samples = Images.restored(recorded, build.settings(config)), images(SAMPLES, case.pixels)
    task = build.task_of(config, classes, facts=modality.task_facts(facts))
    torch.manual_seed(0)
    model = build.model(config, classes, modality)
    make_typical(
        model, modality, samples if case.pixels is None else images(64 if case.pixels == 32 else 8, case.pixels)
    )
    return Built(config, model.eval(), modality, task, samples, classes)


def images(count: int, pixels: int) -> Tensor:
    """Random smooth colours with noise, in [0, 1]: of pure noise the mean of many patches is always the same."""
    generator = torch.Generator().manual_seed(count)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(pixels, pixels), mode="bilinear")
    return 0.8 * smooth + 0.2 * torch.rand(count, 3, pixels, pixels, generator=generator)


@torch.no_grad()
def make_typical(model: nn.Module, modality: Modality, samples: Tensor) -> None:
    """Give an untrained model what training gives it, where a file could be wrong unnoticed without.

    Constant parameters (biases, scales, heads and tables of zeros) get noise, and batch norms the statistics of
    `samples`: with a mean of 0 and a variance of 1 nothing would show that they are not applied.
    """
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if bool((parameter == parameter.reshape(-1)[0]).all()):
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            module.weight[module.padding_idx] = 0
    norms = [each for each in model.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    if norms:
        model.eval()  # no dropout
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # statistics of all batches
            norm.train()
        model(modality.normalise(samples.clone()))
        model.eval()


def checked(found: Built, format_name: str) -> dict[str, Any]:
    """The facts of one file, or the reason why there is none."""
    if reason := unfit_reason(format_name, found.model):
        return {"reason": reason}
    begun = time.process_time()  # other work on the processor does not count
    try:
        facts = _freest(found, format_name)
    except EffbenchError as error:
        return {"reason": first_line(error)}
    except MemoryError:
        return {"reason": "it does not fit into the memory of this machine"}
    return {**facts, "processor_s": round(time.process_time() - begun, 1)}


def _freest(found: Built, format_name: str) -> dict[str, Any]:
    """As `effbench export` does: for samples of any length, or if that fails for those of one."""
    free = found.modality.free_length if found.modality.shape[0] > 1 else None
    if free is None:
        return _file(found, format_name, None)
    try:
        return _file(found, format_name, free)
    except EffbenchError as error:
        if type(error) not in (EffbenchError, ThresholdError):
            raise
    return _file(found, format_name, None)


def _file(found: Built, format_name: str, free: str | None) -> dict[str, Any]:
    name = found.modality.export_facts()["input"]["name"]
    most = found.samples.shape[1]
    lengths = sorted({1, 2, -(-most // 2), most}) if free else ()
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"model{FORMATS[format_name].suffix}"
        path.write_bytes(export_bytes(format_name, found.whole, found.modality.portable_example(), name, free))
        exported = load_exported(format_name, path)
        parity = compare(found.answers, exported, found.samples, BATCH, found.task.same_answer, lengths)
        require(parity, TOLERANCE, f"format={format_name}", found.modality.unit)
        size = path.stat().st_size
    return {"bytes": size, **_parity(parity), "free_length": bool(free) if found.modality.free_length else None}


def _parity(parity: Parity) -> dict[str, Any]:
    names = ("relative", "max_difference", "largest_logit", "samples", "agreeing", "batch_sizes", "lengths")
    facts = parity.facts()
    return {name: list(facts[name]) if isinstance(facts[name], tuple) else facts[name] for name in names}


def spread(found: Built) -> float:
    """How far the answers differ from sample to sample: deviation over the largest logit."""
    with torch.inference_mode():
        outputs = torch.cat([found.answers(chunk) for chunk in found.samples.split(BATCH)])
    value = float(outputs.std(0).max() / outputs.abs().max())
    if not value >= LEAST_SPREAD:
        raise RuntimeError(f"{found.config.model.label}: all samples get nearly the same answer ({value:.2g})")
    return value


def entry_of(case: Case, found: Built) -> dict[str, Any]:
    modality = found.modality
    return {
        "model": case.model,
        "options": list(case.options),
        "input": modality.size_text(modality.shape),
        "data": None if case.pixels else ON_DATA[case.model],
        "classes": found.classes,
        "parameters": accounting.parameters(found.model).total,
        "macs": accounting.macs(found.model, modality.example()).macs,
        "spread": round(spread(found), 3),
        "date": date.today().isoformat(),
        "formats": {},
    }


def versions(format_name: str) -> dict[str, str]:
    """Of all libraries that decide what a file is."""
    return {name: version(name) for name in sorted({"effbench", "torchvision", *FORMATS[format_name].libraries})}


def is_done(kept: Mapping[str, Any], case: Case, format_name: str) -> bool:
    """Whether the table has the file at these versions; one that failed is tried again."""
    file = kept.get("entries", {}).get(case.key, {}).get("formats", {}).get(format_name, {})
    return "processor_s" in file and file["versions"] == versions(format_name)


def read() -> dict[str, Any]:
    """The table; a file of before 2026-12 has one machine for all rows, which is then that of each."""
    kept: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8")) if DATA.is_file() else {"entries": {}}
    machine = kept.pop("machine", None)
    for entry in kept["entries"].values():
        for file in entry["formats"].values():
            file.setdefault("machine", machine)
    return kept


def measure(case: Case, formats: Sequence[str]) -> None:
    """Measure what is missing of a case, and write it."""
    kept = read()
    missing = [name for name in formats if not is_done(kept, case, name)]
    if not missing:
        return
    print(f"{case.key}: {', '.join(missing)}", file=sys.stderr, flush=True)
    try:
        found = built(case)
        entry = entry_of(case, found)
        files = {name: checked(found, name) for name in missing}
    except ConfigError as error:  # an architecture that does not take this size
        entry = {"model": case.model, "options": list(case.options), "input": f"{case.pixels} px"}
        files = {name: {"reason": first_line(error)} for name in missing}
    entry["formats"] = kept.get("entries", {}).get(case.key, {}).get("formats", {})
    for name, file in files.items():
        entry["formats"][name] = {"versions": versions(name), "machine": _machine(), **file}
        print(f"  {name}: {file.get('reason') or cells(file)}", file=sys.stderr, flush=True)
    kept = read()  # another process may have measured another case meanwhile
    entries = {**kept.get("entries", {}), case.key: entry}
    order = [each.key for each in sorted(cases(), key=lambda each: (each.model, each.options, each.pixels or 0))]
    kept = {"entries": {key: entries[key] for key in order if key in entries}}
    write_text(DATA, json.dumps(kept, indent=1) + "\n")
    write_text(PAGE, page(kept))


def _machine() -> dict[str, Any]:
    found = environment()
    return {name: found[name] for name in ("cpu", "cpu_capability", "threads")}


def main() -> None:
    known = group_options()["model"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"one of {', '.join(known)}")
    parser.add_argument("--formats", default=",".join(CHECKED), help="with commas between; %(default)s without")
    parser.add_argument("--page", action="store_true", help="write the .md from the .json, and measure nothing")
    arguments = parser.parse_args()
    formats = arguments.formats.split(",")
    if unknown := [name for name in arguments.models if name not in known]:
        parser.error(f"there is no model {', '.join(unknown)}; there are {', '.join(known)}")
    if unknown := [name for name in formats if name not in CHECKED]:
        parser.error(f"there is no column for {', '.join(unknown)}; there are {', '.join(CHECKED)}")
    if arguments.page:
        write_text(PAGE, page(read()))
        return
    torch.set_num_threads(1)
    for name in formats:
        require_libraries(name)
    for case in cases(arguments.models):
        measure(case, formats)
        gc.collect()


if __name__ == "__main__":
    main()
