"""The training loop and its parts: batches, packed rows, objectives, losses, schedule, selection, resume points.

What a stage trains, and on which data, is decided in `stages`.
"""
