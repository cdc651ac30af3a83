"""Keras 3 on torch: the module in TorchModuleWrapper, and fit on arrays."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras

from benchmarks.frameworks import task


def train(seed, epochs):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.layers.TorchModuleWrapper(task.Net())])
    model.compile(
        optimizer=keras.optimizers.AdamW(
            task.LR, weight_decay=task.WEIGHT_DECAY, epsilon=1e-8
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    images, labels = task.tensors("train")
    model.fit(
        images,
        labels,
        batch_size=task.BATCH,
        epochs=epochs,
        validation_data=task.tensors("val"),
        validation_batch_size=task.EVAL_BATCH,
        verbose=0,
    )
    images, labels = task.tensors("test")
    return model.evaluate(
        images, labels, batch_size=task.EVAL_BATCH, verbose=0, return_dict=True
    )["accuracy"]
