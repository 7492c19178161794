"""The model card of an exported checkpoint, as a hub page shows it. It exports nothing and computes no score."""
