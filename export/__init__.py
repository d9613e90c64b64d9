"""From a checkpoint's weights to the engine of each target, and the proof that they agree."""
