"""effbench explain: short texts whose numbers are computed there and then, with figures.

A topic is a module in `topics/` with a function `explain(request) -> Explanation`, and a line in TOPICS. `page` and
`terminal` show explanations, `documents` writes docs/explain.
"""

from __future__ import annotations

TOPICS = {  # in the order in which they build on each other
    "neuron": "a gradient step of one neuron, by hand and by autograd",
    "convolution": "a kernel on a real image: output, parameters, MACs",
    "depthwise": "depthwise separable against standard convolution: parameters, MACs, time",
    "attention": "softmax(Q K^T / sqrt d) V by hand, and the weights of a trained model on a sentence",
    "optimizers": "the path of each optimizer on a surface, from one start",
    "schedulers": "the learning rate of each schedule over a run",
    "regularisation": "a small model on little data, with and without each method against overfitting",
    "mixed_precision": "gradients that float16 loses without loss scaling, and bfloat16",
    "quantization": "a layer in int8: scale, zero point, error, size",
}
MEASURES = ("depthwise",)  # topics with times, which documents leave out
TAKES_RUN = ("attention",)  # topics with RUN and text=
