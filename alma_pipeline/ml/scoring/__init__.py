"""Scoring of translations: metrics, guards, paired tests and preference candidates.

It decodes nothing, and only the COMET worker loads a model.
"""
