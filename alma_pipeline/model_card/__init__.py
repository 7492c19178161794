"""The model card of an exported checkpoint, in the format of the Hugging Face hub. Exports nothing and computes no scores."""
