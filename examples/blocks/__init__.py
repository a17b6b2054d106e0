"""Networks that examples train, in the layouts of their usual checkpoints."""
