"""Which parameters are matrices of hidden layers: those that Muon orthogonalizes.

Muon's authors use AdamW for embeddings, output layers, biases, norms and the first convolution, and Muon for "all the
convolutional filters except the first one" and other matrices (github.com/KellerJordan/Muon; for the input and output
layers also kellerjordan.github.io/posts/muon). Here a parameter is a hidden matrix if all of these hold:
1. It has two dimensions, or it is the kernel of a convolution with groups=1. A kernel (out, in, k, k) counts as the
   matrix out x (in * k * k), as in the authors' code and in timm.optim.Muon. A grouped kernel is no matrix between
   all its channels, and a depthwise one is a filter for each channel.
2. As a matrix it has at least two rows and two columns.
3. It is not in the first layer: the first convolution, linear layer or embedding that the model registers.
4. It is not in an output layer, a norm or an embedding, nor a token, a position table or a scale
   (effbench/optimizers/groups.py).
"""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from effbench.optimizers.groups import exempt_names

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (nn.Linear, *_EMBEDDINGS, *_CONVOLUTIONS)


def hidden_matrices(model: nn.Module, heads: Collection[str]) -> list[nn.Parameter]:
    """Return the hidden matrices by the rules at the top of this file, frozen ones included.

    Args:
        model: the model.
        heads: names of its output layers.
    """
    # the first that is registered: the order of the forward pass is not known here
    first = next((name for name, module in model.named_modules() if isinstance(module, _LAYERS)), None)
    exempt = exempt_names(model)
    matrices: dict[int, nn.Parameter] = {}
    others: set[int] = set()
    for path, module in model.named_modules():
        # with the dot: the head layers.1 is not layers.10, and a head may be a module with layers inside
        outer = path == first or any(f"{path}.".startswith(f"{head}.") for head in heads)
        for name, parameter in module.named_parameters(path, recurse=False):
            if outer or name in exempt or not _is_matrix(module, parameter):
                others.add(id(parameter))
            else:
                matrices[id(parameter)] = parameter
    # A parameter that two layers share, such as an embedding tied to the head, keeps its role outside.
    return [parameter for key, parameter in matrices.items() if key not in others]


def _is_matrix(module: nn.Module, parameter: nn.Parameter) -> bool:
    if isinstance(module, _CONVOLUTIONS):
        fits = parameter.ndim > 2 and module.groups == 1
    else:
        fits = parameter.ndim == 2 and not isinstance(module, _EMBEDDINGS)
    return fits and 1 < len(parameter) < parameter.numel()  # at least two rows and two columns
