"""What a choice of a config group needs beside it, derived from its class: for tests that walk conf/."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from effbench import build
from effbench.config.compose import compose
from effbench.config.static_compose import group_options, member
from effbench.target_allowlist import resolve

NEEDS = {"timm": "timm", "schedule_free": "schedulefree", "deberta_v3": "transformers"}  # choice -> optional library
IMAGES = frozenset({"in_channels", "image_size"})  # what a model's constructor is told about images


def words_beside(choice: str) -> list[str]:
    """The words that `choice` ('group=name') needs beside it; none if it fits the defaults and any model of images."""
    group, _, name = choice.partition("=")
    if group == "loss":
        targets = targets_of(name)
        return [] if "class" in targets else [f"task={task_for(targets[0])}", *_data_with(targets[0])]
    if group == "task" and (kind := kind_of(name)) != "class":
        if data := next((data for data in group_options()["data"] if kind_of_data(data) == kind), None):
            return [f"data={data}", *(word for word in words_beside(f"data={data}") if word != choice)]
        return [f"loss={loss_for(kind)}", *_data_with(kind)]
    if group == "data" and (facts := facts_of(name)) != IMAGES:
        plain = (model for model in group_options()["model"] if model not in NEEDS)
        return [f"model={next(model for model in plain if takes(model, facts))}", *_task_of(name)]
    if group == "model" and not takes(name, IMAGES):
        data = next(data for data in group_options()["data"] if takes(name, facts_of(data)))
        return [f"data={data}", *_task_of(data)]
    return []


def _task_of(data: str) -> list[str]:
    kind = kind_of_data(data)
    return [] if kind is None else [f"task={task_for(kind)}"]


@cache
def kind_of_data(data: str) -> str | None:
    """The kind of targets that all samples of data=NAME have, if its modality has one."""
    preview = build.preview(compose([f"data={data}"]))
    return None if preview is None else preview.target_kind


def takes(model: str, facts: frozenset[str]) -> bool:
    """Whether a model's constructor can be called with these facts of the data, and takes one of them."""
    words = inspect.signature(resolve("model", member("model", model)["_target_"])).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    required = {key for key, word in words.items() if word.default is word.empty and word.kind in named}
    is_open = any(word.kind is word.VAR_KEYWORD for word in words.values())
    return required <= {"num_classes", *facts, *member("model", model)} and (is_open or bool(facts & words.keys()))


@cache
def facts_of(data: str) -> frozenset[str]:
    """What the samples of data=NAME tell a model's constructor; those of images if only its files can tell."""
    preview = build.preview(compose([f"data={data}"]))
    return IMAGES if preview is None else frozenset(preview.facts)


@cache
def targets_of(loss: str) -> tuple[str, ...]:
    return build.loss(compose([f"loss={loss}"])).targets


def kind_of(task: str) -> str:
    kind: Any = resolve("task", member("task", task)["_target_"])
    return str(kind.kind)


def task_for(kind: str) -> str:
    return next(name for name in group_options()["task"] if kind_of(name) == kind)


def loss_for(kind: str) -> str:
    return next(name for name in group_options()["loss"] if targets_of(name) == (kind,))


def _data_with(kind: str) -> list[str]:
    return ["data=synthetic", f"data.targets={kind}"]
