"""Every optimizer of PAPERS, built from its YAML's own keys, takes its paper's steps."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from tests import reference

torch.set_num_threads(1)

CONF = Path(__file__).parents[2] / "conf" / "optimizer"
OURS = {"defaults", "_target_", "no_decay", "group_lr"}
ONLY_TORCH = {"fused", "variant", "foreach", "ns_dtype"}  # options that must not change the mathematics


def load(name):
    merged = OmegaConf.merge(OmegaConf.load(CONF / "_base.yaml"), OmegaConf.load(CONF / f"{name}.yaml"))
    config = OmegaConf.to_container(merged, resolve=True)
    return config["_target_"], {key: value for key, value in config.items() if key not in OURS}


def built(name, **overrides):
    """(maker of the optimizer, options for its paper's reference) of one YAML."""
    target, options = load(name)
    if name == "schedule_free":
        pytest.importorskip("schedulefree")
    module, _, cls = target.rpartition(".")
    options |= overrides
    kind = getattr(importlib.import_module(module), cls)
    return lambda ps: kind(ps, **options), {k: v for k, v in options.items() if k not in ONLY_TORCH}


def adamw(theta, gradients, **options):
    return reference.adam(theta, gradients, decoupled=True, **options)


PAPERS = {
    "sgd": reference.sgd,
    "rmsprop": reference.rmsprop,
    "adam": reference.adam,
    "adamw": adamw,
    "lion": reference.lion,
    "adan": reference.adan,
    "nadamw": reference.nadam,
    "muon": reference.muon,
    "schedule_free": reference.schedule_free,
}
EXACT = {"muon": {"ns_dtype": "float64"}}  # the iteration in bfloat16 is compared with torch's, in test_muon.py


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        *((name, {}) for name in PAPERS),
        *((name, {"weight_decay": 0.1}) for name in PAPERS),
        ("sgd", {"nesterov": False}),
        ("sgd", {"momentum": 0.0, "nesterov": False}),
        ("rmsprop", {"momentum": 0.9, "centered": True}),
        ("adam", {"betas": [0.5, 0.9], "eps": 1e-3}),
        ("adan", {"betas": [0.9, 0.8, 0.95], "eps": 1e-3}),
        ("lion", {"betas": [0.95, 0.98]}),
        ("nadamw", {"momentum_decay": 0.05, "decoupled_weight_decay": False}),
        ("muon", {"nesterov": False, "momentum": 0.8, "ns_steps": 3}),
        ("schedule_free", {"betas": [0.8, 0.99], "r": 1.0, "weight_lr_power": 0.0}),
    ],
)
def test_100_steps_in_float32_follow_the_paper_in_float64(name, overrides):
    theta, gradients = reference.random_problem()
    overrides = {
        "lr": 0.03,
        **EXACT.get(name, {}),
        **overrides,
    }  # far enough from theta_0 for its own rounding not to matter
    make, options = built(name, **overrides)
    expected = PAPERS[name](theta, gradients, **options)
    assert reference.relative_error(reference.torch_path(make, theta, gradients), expected, theta) < 2e-5


@pytest.mark.parametrize("name", PAPERS)
def test_100_steps_in_float64_follow_the_paper_to_rounding(name):
    theta, gradients = reference.random_problem(seed=1)
    make, options = built(name, **EXACT.get(name, {}))
    expected = PAPERS[name](theta, gradients, **options)
    path = reference.torch_path(make, theta, gradients, torch.float64)
    # torch takes a few of its scalars through float32, hence not 1e-12
    assert reference.relative_error(path, expected, theta) < 1e-7


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_fused_and_unfused_differ_by_rounding_alone(name):
    theta, gradients = reference.random_problem(seed=2)
    assert load(name)[1]["fused"] is True
    fused = reference.torch_path(built(name)[0], theta, gradients)
    plain = reference.torch_path(built(name, fused=False)[0], theta, gradients)
    assert reference.relative_error(fused, plain, theta) < 2e-5
