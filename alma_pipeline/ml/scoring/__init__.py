"""Scoring of translations: metrics, guards, paired tests and preference candidates. Decodes nothing."""
