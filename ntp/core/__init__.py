"""Training: model, data, losses, step, checkpoints. Nothing here knows that it is measured."""
