"""Tasks: the loss, the targets, the metrics and the meaning of a model's outputs, for each kind of target."""
