"""What the documents say of the code is so."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_pitfall_that_is_cited_is_explained_and_every_one_explained_is_cited() -> None:
    files = [path for folder in ("alma_pipeline", "stages", "tests") for path in (ROOT / folder).rglob("*.py")]
    texts = "\n".join(path.read_text(encoding="utf-8") for path in files if path != Path(__file__))
    cited = set(re.findall(r"\bB[1-9]\d?\b", texts))
    # "B48 to B51" and "B32–B34" cite what is between, too.
    for first, last in re.findall(r"\bB(\d+)(?: to |–)B(\d+)\b", texts):
        cited |= {f"B{number}" for number in range(int(first), int(last) + 1)}
    rows = re.findall(r"^\| (B\d+) \|", (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len(set(rows)) > 50
    assert cited == set(rows)
