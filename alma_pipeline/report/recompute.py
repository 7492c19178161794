"""How a score is computed again from its hypotheses, by the tools that everybody has: sacrebleu and `comet-score`."""

import shlex
from typing import Any

SACREBLEU = {
    "chrf++": "sacrebleu.CHRF(word_order=2)",
    "bleu": 'sacrebleu.BLEU(tokenize="{tok}")',
    "spbleu": 'sacrebleu.BLEU(tokenize="flores200")',
    "ter": "sacrebleu.TER(normalized={norm}, asian_support={asian})",
}
"""How sacrebleu computes a metric again, with the parts of its signature."""
FILES = {"-s": "source", "-t": "hypothesis", "-r": "reference"}
"""Of the folder `$out`, where the page's script puts them."""


def expression(metric: str, signature: str) -> str:
    """Python that makes sacrebleu's metric; empty for one that sacrebleu does not have."""
    parts: dict[str, Any] = {"tok": "13a", "norm": "no", "asian": "no"} | _parts(signature)
    parts |= {name: parts[name] == "yes" for name in ("norm", "asian")}
    return SACREBLEU.get(metric, "").format(**parts)


def comet_score(signature: str) -> str:
    """The shell's words that compute a COMET score again; empty for a signature that is not a COMET model's.

    comet-score knows no revisions, so that `hf` fetches the model; of a file the signature knows the content only. Other
    precisions than comet-score's own are said.
    """
    told, model = _parts(signature), signature.partition("|")[0]
    if "comet" not in told:
        return ""
    name, _, revision = model.rpartition("@")
    fetched = shlex.join(["hf", "download", name, "--revision", revision, "--quiet"])
    words = ["comet-score --model", f'"$({fetched})/checkpoints/model.ckpt"' if name else "MODEL.ckpt"]
    words += [f'{flag} "$out/{part}"' for flag, part in FILES.items() if part != "reference" or told["reference"] == "yes"]
    said = [] if name else [f"MODEL.ckpt: the file with {model}"]
    said += [f"in fp16; the score is of {told['precision']}"] if told["precision"] != "fp16" else []
    return " ".join(words + ([f"# {'; '.join(said)}"] if said else []))


def _parts(signature: str) -> dict[str, str]:
    return dict(part.split(":", 1) for part in signature.split("|") if ":" in part)
