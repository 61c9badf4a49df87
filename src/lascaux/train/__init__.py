"""Training: one loop, and recipes that say what a step is."""
