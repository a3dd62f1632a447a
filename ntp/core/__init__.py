"""The training itself: model, data, losses, step, checkpoints. It knows nothing of measuring."""
