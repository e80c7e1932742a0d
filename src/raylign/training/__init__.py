"""Training of learned methods: recipes, a loop that can be broken off, checkpoints, curves."""
