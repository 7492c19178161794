"""A script, not a test: prepare a file of English documents in this process, and print its largest memory in MB.

python -m helpers.corpus_memory FILE BASE WORK
"""

import resource
import sys
from pathlib import Path

from alma_pipeline.job import Input
from alma_pipeline.schema import Cleaning, Source
from helpers.text_files import LANGUAGES, make_job
from stages.corpus.config import Config
from stages.corpus.run import run


def main(file: str, base: str, work: str) -> int:
    text = Source(reader="files", files={"en.txt": "en.txt"})
    languages, cleaning = {"en": LANGUAGES["en"]}, Cleaning(steps=["exact"])
    config = Config(form="documents", text=text, languages=languages, held_out=5, seed=1, cleaning=cleaning)
    run(make_job(Path(work), config, {"en.txt": Path(file)}, base=Input("b", "base", base, {})))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
