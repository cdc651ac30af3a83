"""config.json and model.safetensors, as a repository of the Hugging Face Hub has them beside a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import nn


def config_json(facts: Mapping[str, Any]) -> str:
    """Return config.json: what a program must know to build the model and to name its outputs.

    facts: the record of the file.
    """
    names = list(facts["classes"])
    shape = facts["data"]["shape"]
    images = {"num_channels": shape[0], "image_size": shape[1:]} if facts["input"]["name"] == "images" else {}
    content = {
        "model_type": "effbench",
        "architectures": [facts["model"]["name"]],
        "num_labels": len(names),
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        **images,
        "dtype": "float32",
        "normalisation": facts["normalisation_inside"],
        "effbench": {"version": facts["versions"]["effbench"], "model": facts["config"]["model"], **_channels(facts)},
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _channels(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the channel plan of a pruned model, whose shapes do not follow from its config."""
    return {"channels": facts["channels"]} if facts.get("channels") else {}


def safetensors(model: nn.Module) -> bytes:
    """Return the weights as a .safetensors file, under the names of `Run.model().state_dict()`."""
    from safetensors.torch import save

    # copies: the format refuses tensors that share memory, and the weights may be channels-last
    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()})
