"""Text: rows from any source, cleaned, mixed, tokenised and kept as arrays, and the prompts around them. It loads no model."""
