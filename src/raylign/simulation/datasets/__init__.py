"""Labelled exposures by recipe: streams for training, files for everything else."""
