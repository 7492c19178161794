"""A script for COMET's Python, not a test: write tiny random COMET checkpoints.

PYTHON tests/helpers/make_comet_models.py FOLDER [LAYERS WIDTH POSITIONS]

leaves FOLDER/{regression,referenceless,unified,xcomet}/checkpoints/model.ckpt: a BERT with a character vocabulary and a
regressor on top, by default 2 layers, 32 wide and 64 positions long, so that texts are cut soon. Real models of real classes,
whose scores mean nothing.
"""

import string
import sys
from pathlib import Path

import torch
import yaml
from comet.models import ReferencelessRegression, RegressionMetric, UnifiedMetric, XCOMETMetric
from transformers import BertConfig, BertModel, BertTokenizerFast

LETTERS = string.ascii_letters + string.digits + string.punctuation + "äöüßé明天早上去北京。私たちは"
CLASSES = {
    "regression": RegressionMetric,
    "referenceless": ReferencelessRegression,
    "unified": UnifiedMetric,
    "xcomet": XCOMETMetric,
}


def encoder(folder: Path, layers: int, width: int, positions: int) -> Path:
    """A BERT with its tokenizer."""
    folder.mkdir(parents=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *LETTERS, *(f"##{letter}" for letter in LETTERS)]), encoding="utf-8")
    tokenizer = BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), do_lower_case=False)
    tokenizer.save_pretrained(folder)
    shape = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=positions,
        initializer_range=0.5,
    )
    BertModel(shape, add_pooling_layer=False).save_pretrained(folder)
    return folder


def checkpoint(folder: Path, name: str, bert: Path) -> None:
    torch.manual_seed(len(name))
    settings = {
        "encoder_model": "BERT",
        "pretrained_model": str(bert),
        "hidden_sizes": [16],
        "dropout": 0.0,
        "local_files_only": True,
    }
    if name == "unified":
        settings |= {"input_segments": ["mt", "src", "ref"], "word_level_training": False, "sent_layer": "mix"}
    if name == "xcomet":
        settings |= {"sent_layer": "mix", "word_layer": 1}
    model = CLASSES[name](**settings)
    (folder / "checkpoints").mkdir(parents=True)
    hparams = dict(model.hparams)
    state = {
        "state_dict": model.state_dict(),
        "hyper_parameters": hparams,
        "pytorch-lightning_version": "2.0.0",
        "epoch": 0,
        "global_step": 0,
    }
    torch.save(state, folder / "checkpoints" / "model.ckpt")
    (folder / "hparams.yaml").write_text(yaml.safe_dump(hparams), encoding="utf-8")


def main(folder: Path, layers: int = 2, width: int = 32, positions: int = 64) -> None:
    torch.manual_seed(0)
    bert = encoder(folder / "bert", layers, width, positions)
    for name in CLASSES:
        checkpoint(folder / name, name, bert)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
