"""What the documents say of the code is so."""

import ast
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


TREE = re.compile(r"^ +(?:(?P<room>[\w/]+)/|(?P<file>\w+\.py)) {2,}(?P<phrase>\S.*)$")


def tree() -> dict[str, str]:
    """Path and phrase of every file in the README's tree of `alma_pipeline/`."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n    alma_pipeline/")[2].partition("\n    tests/")[0]
    found: dict[str, str] = {}
    room = ""
    for line in text.splitlines()[1:]:
        entry = TREE.match(line)
        assert entry, f"neither a room nor a file with a phrase: {line!r}"
        room = f"{entry['room']}/" if entry["room"] else room
        if entry["file"]:
            path = room + entry["file"]
            assert path not in found, f"{path} is there twice"
            found[path] = entry["phrase"]
    return found


def test_the_readme_has_a_phrase_for_every_file() -> None:
    package = ROOT / "alma_pipeline"
    files = {str(path.relative_to(package)) for path in package.rglob("*.py") if path.name != "__init__.py"}
    assert set(tree()) == files
    assert all(len(phrase) <= 80 for phrase in tree().values())


def test_every_room_says_what_is_in_it_and_what_is_not() -> None:
    for path in (ROOT / "alma_pipeline").rglob("__init__.py"):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        sentences = re.findall(r"[^.!?]{20,}?[.](?:\s|$)", text)
        assert len(sentences) >= 2 or path.parent.name == "alma_pipeline", f"{path}: {text}"
