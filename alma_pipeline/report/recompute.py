"""How a score is computed again from its hypotheses, by the tools that everybody has: sacrebleu and `comet-score`."""

import shlex

from alma_pipeline.schema.metrics import METRICS, signature_parts, tokenizer

COMET_FILES = {"-s": "source", "-t": "hypothesis", "-r": "reference"}
"""Of the folder `$out`, where the page's script puts them."""


def rescore_command(metric: str, signature: str) -> str:
    """The shell command that computes a score again from the files; empty where neither tool computes the metric."""
    if metric in METRICS:
        return f'sacrebleu "$out/reference" -i "$out/hypothesis" {METRICS[metric].command(tokenizer(signature))}'
    return _comet_score(signature)


def _comet_score(signature: str) -> str:
    """comet-score's command line; empty for a signature that is not a COMET model's.

    comet-score knows no revisions, so that `hf` fetches the model; of a file the signature knows the content only. Other
    precisions than comet-score's own are said.
    """
    told, model = signature_parts(signature), signature.partition("|")[0]
    if "comet" not in told:
        return ""
    name, _, revision = model.rpartition("@")
    fetched = shlex.join(["hf", "download", name, "--revision", revision, "--quiet"])
    words = ["comet-score --model", f'"$({fetched})/checkpoints/model.ckpt"' if name else "MODEL.ckpt"]
    words += [f'{flag} "$out/{part}"' for flag, part in COMET_FILES.items() if part != "reference" or told["reference"] == "yes"]
    said = [] if name else [f"MODEL.ckpt: the file with {model}"]
    said += [f"in fp16; the score is of {told['precision']}"] if told["precision"] != "fp16" else []
    return " ".join(words + ([f"# {'; '.join(said)}"] if said else []))
