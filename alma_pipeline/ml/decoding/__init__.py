"""From prompts to hypotheses: beam search, sampling, prefix-sharing caches, vLLM, and reranking.

Scoring of test sets is in `scoring`.
"""
