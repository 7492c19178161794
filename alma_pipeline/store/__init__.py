"""Artifacts on disk: their keys, records and locks, and how to find them.

It knows nothing of models, stages or Hydra.
"""
