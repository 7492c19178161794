"""Runs a plan: launchers, workers and their attempts, and the checks before anything starts.

Independent of models and of what a stage does.
"""
