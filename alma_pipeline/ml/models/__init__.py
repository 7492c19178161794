"""Load, merge, quantise, download and save weights and tokenizers. Neither trains nor decodes."""
