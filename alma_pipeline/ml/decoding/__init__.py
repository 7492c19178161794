"""From prompts to hypotheses: search, sampling, the trees that share a prompt, vLLM, and the choice among hypotheses. It scores
no test set."""
