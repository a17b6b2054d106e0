"""Real data that ships in packages, as tensors, with fixed splits; ``path`` points a loader at the user's own."""
