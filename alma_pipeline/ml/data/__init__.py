"""Text: reads rows from any source, cleans, mixes and tokenises them into arrays, and renders prompts. Loads no model."""
