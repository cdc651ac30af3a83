"""predict.py: a program for an ONNX file of an image model that needs no effbench and no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# By the kind of the targets: what becomes of `outputs`, (K,), as in Task.described.
_ANSWERS = {
    "class": """\
    shares = np.exp(outputs - outputs.max())
    return {"class": ABOUT["classes"][shares.argmax()], "probability": round(float(shares.max() / shares.sum()), 6)}""",
    "labels": """\
    shares = {name: round(1 / (1 + float(np.exp(-x))), 6) for name, x in zip(ABOUT["classes"], outputs)}
    return {"labels": [name for name in shares if shares[name] > 0.5], "probabilities": shares}""",
    "values": """\
    return {"values": dict(zip(ABOUT["classes"], outputs.tolist()))}""",
}

# Words of capital letters, but for ABOUT, are replaced by what the record of the file says.
_PROGRAM = '''\
"""Answers for image files, one JSON object a line: python PROGRAM IMAGE ... (needs onnxruntime, numpy and Pillow)"""
import json
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

ABOUT = json.loads(Path(__file__).with_name("MODEL.json").read_text(encoding="utf-8"))  # describes each step
model = onnxruntime.InferenceSession(str(Path(__file__).with_name("MODEL")), providers=["CPUExecutionProvider"])


def answer(path):
    image = Image.open(path, formats=FORMATS)
    image.draft(None, DRAFT)
    image.load()
    with suppress(Exception):  # a damaged EXIF block counts as none
        image = ImageOps.exif_transpose(image)
    if white := {"I": INTEGERS, "F": FLOATS}.get(image.mode[0]):  # integers or floats of more than 8 bits
        if not (np.min(image) >= 0 and WITHIN):  # also NaN
            raise ValueError(f"gray values outside [0, {white:g}]: scale them, or save 8 bits")
        image = Image.fromarray(np.rint(np.asarray(image, np.float64).clip(0, white) * (255 / white)).astype(np.uint8))
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert(COLOURS)
    pixels = np.asarray(ImageOps.fit(image, SIZE, Image.Resampling.BILINEAR), np.float32)  # the square in the centre
    [[outputs]] = model.run(None, {"images": np.atleast_3d(pixels).transpose(2, 0, 1)[None] * np.float32(SCALE)})
ANSWER


problems = []
for path in sys.argv[1:]:
    try:
        print(json.dumps({"file": path, **answer(path)}))
    except Exception as error:  # Pillow has no class of its own for damaged files
        problems.append(f"{path}: {error}")
sys.exit("\\n".join(problems) or 0)
'''


def predict_script(facts: Mapping[str, Any], program: str) -> str | None:
    """Return the program; None for a file that is no ONNX file of an image model, or of another task than effbench's.

    Args:
        facts: the record of the file.
        program: name of the program.
    """
    steps, answer = facts["preprocessing"], _ANSWERS.get(facts["task"]["targets"])
    if facts["format"] != "onnx" or facts["input"]["name"] != "images" or not steps or answer is None:
        return None
    deep = steps["more_than_8_bits"]
    words = {
        # names of files: word characters, dots and dashes
        "PROGRAM": program,
        "MODEL": facts["file"],
        "FORMATS": repr(steps["formats"]),
        "DRAFT": repr(steps["jpeg"]["draft"]),
        "INTEGERS": repr(deep["white"]["integers"]),
        "FLOATS": repr(deep["white"]["floats"]),
        "WITHIN": "np.max(image) <= white" if deep["above_white"] == "refused" else "np.isfinite(np.max(image))",
        "COLOURS": repr(steps["colour_order"]),
        "SIZE": repr(steps["resize"]["size"]),
        "SCALE": repr(steps["then"]["scale"]),
        "ANSWER": answer,
    }
    return re.sub(rf"\b({'|'.join(words)})\b", lambda word: words[word[0]], _PROGRAM)
