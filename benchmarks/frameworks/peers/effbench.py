"""effbench, with the module through a YAML file: conf/model/given.yaml."""

import tempfile
from pathlib import Path

import effbench
from benchmarks.frameworks import task


def train(seed, epochs):
    words = [
        "model=given",
        "allow_targets=[benchmarks.frameworks.task]",
        "data=fashion_mnist",
        "augment=none",
        f"data.batch_size={task.BATCH}",
        f"data.eval_batch_size={task.EVAL_BATCH}",
        f"optimizer.lr={task.LR}",
        f"optimizer.weight_decay={task.WEIGHT_DECAY}",
        "optimizer.no_decay=false",
        "scheduler=constant",
        f"trainer.max_epochs={epochs}",
        "trainer.gradient_clip_val=null",
        "early_stopping=off",
        "checkpoint.save_top_k=0",
        "checkpoint.save_last=false",
        "device.threads=1",
        f"seed={seed}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        run = effbench.train(
            words, f"{folder}/run", config_dir=Path(__file__).parent / "conf"
        )
        return run.summary["metrics"]["test/acc"]
