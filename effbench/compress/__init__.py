"""Makes a trained run smaller or faster and measures what that cost: quantization, pruning, before and after."""
