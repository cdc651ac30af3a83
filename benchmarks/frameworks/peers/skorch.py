"""skorch: a scikit-learn estimator."""

import torch
from skorch import NeuralNetClassifier
from skorch.helper import predefined_split

from benchmarks.frameworks import task


def train(seed, epochs):
    torch.manual_seed(seed)
    net = NeuralNetClassifier(
        task.Net,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=task.WEIGHT_DECAY,
        optimizer__fused=True,
        lr=task.LR,
        max_epochs=epochs,
        iterator_train__batch_size=task.BATCH,
        iterator_train__shuffle=True,
        iterator_train__collate_fn=task.as_is,
        iterator_valid__batch_size=task.EVAL_BATCH,
        iterator_valid__collate_fn=task.as_is,
        train_split=predefined_split(task.dataset("val")),
        callbacks__print_log=None,
    )
    net.fit(task.dataset("train"), y=None)
    _, labels = task.tensors("test")
    return net.score(task.dataset("test"), labels)
