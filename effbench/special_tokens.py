"""Token numbers that datasets and models agree on."""

PADDING = 0  # fills shorter texts at their end; models ignore it
UNKNOWN = 1  # a token that the vocabulary lacks; tokenizers of bytes have none and use 1 for a byte
