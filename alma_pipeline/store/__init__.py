"""Artifacts on disk: their keys, records and locks, and how to find them. Independent of models, stages and Hydra."""
