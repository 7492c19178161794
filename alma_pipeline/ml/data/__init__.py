"""Text: reads rows from any source, cleans, mixes and tokenises them into arrays, and renders prompts.

It loads no model and knows nothing of training.
"""
