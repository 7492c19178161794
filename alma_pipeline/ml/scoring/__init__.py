"""Metrics, guards, neural scorers and tests of significance over finished translations. It decodes nothing."""
