"""Weights and tokenizers: load, merge, quantise, download, save. It trains and decodes nothing."""
