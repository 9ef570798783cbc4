"""Loaders of data that others publish: each gives overrides of `envs.make`, or a folder that a scenario can name."""
