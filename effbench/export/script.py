"""predict.py: a program for an ONNX file of an image model that needs no effbench and no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# By the kind of the targets: what becomes of `outputs`, (K,), as in Task.described.
_ANSWERS = {
    "class": """\
    shares = np.exp(outputs - outputs.max())
    share = round(float(shares.max() / shares.sum()), 6)
    answer = {"class": ABOUT["classes"][shares.argmax()], "probability": share}""",
    "labels": """\
    shares = {name: round(1 / (1 + float(np.exp(-x))), 6) for name, x in zip(ABOUT["classes"], outputs)}
    answer = {"labels": [name for name in shares if shares[name] > 0.5], "probabilities": shares}""",
    "values": """\
    answer = {"values": dict(zip(ABOUT["classes"], outputs.tolist()))}""",
}

_PROGRAM = '''\
"""Answers of MODEL for image files, one JSON object a line: python PROGRAM IMAGE ...
Needs onnxruntime, numpy and Pillow. MODEL.json beside it describes each step. Made by effbench export."""
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FILE = Path(__file__).with_name("MODEL")
ABOUT = json.loads(FILE.with_name(FILE.name + ".json").read_text(encoding="utf-8"))
STEPS = ABOUT["preprocessing"]


def pixels(path):
    image = Image.open(path)
    image.draft(None, STEPS["jpeg"]["draft"])
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # integers or floats of more than 8 bits
        white = STEPS["more_than_8_bits"]["white"]["floats" if image.mode == "F" else "integers"]
        values = np.clip(np.asarray(image, np.float64), 0, white) * (255 / white)
        image = Image.fromarray(np.rint(values).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGB").convert(STEPS["colour_order"])
    image = ImageOps.fit(image, STEPS["resize"]["size"], Image.Resampling.BILINEAR)  # of the square in the centre
    return np.atleast_3d(np.asarray(image, np.float32)).transpose(2, 0, 1) * np.float32(STEPS["then"]["scale"])


model = onnxruntime.InferenceSession(str(FILE), providers=["CPUExecutionProvider"])
for path in sys.argv[1:]:
    [[outputs]] = model.run(None, {ABOUT["input"]["name"]: pixels(path)[None]})
ANSWER
    print(json.dumps({"file": path, **answer}))
'''


def predict_script(facts: Mapping[str, Any], program: str) -> str | None:
    """Return the program; None for a file that is no ONNX file of an image model, or of another task than effbench's.

    Args:
        facts: the record of the file.
        program: name of the program.
    """
    answer = _ANSWERS.get(facts["task"]["targets"])
    if facts["format"] != "onnx" or facts["input"]["name"] != "images" or not facts["preprocessing"] or answer is None:
        return None
    # names of files: word characters, dots and dashes
    return _PROGRAM.replace("PROGRAM", program).replace("MODEL", facts["file"]).replace("ANSWER", answer)
