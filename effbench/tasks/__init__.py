"""What is minimised and what a model's outputs mean, by kind of target."""
