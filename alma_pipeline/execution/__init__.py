"""A plan carried out: launchers, the worker, its attempts, and the checks before anything starts. It knows nothing of models or
of what a stage does."""
