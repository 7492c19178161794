"""A value as a person types it reaches Hydra as it was meant; what cannot be read is printed as a line that can be."""

import subprocess
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from alma_pipeline.config import overrides
from alma_pipeline.config.compose import split
from alma_pipeline.config.diagnosis import problems
from alma_pipeline.errors import ConfigError

PARSER = OverridesParser.create()
TEXTS = [
    *("d/数据/x.tsv", "d/a=b.tsv", "d/R&D.tsv", "d/a b (1)/x.tsv", "d/#1.tsv", "it's", "Müller", "~/x", "a!b;c<d>e|f^g`h"),
    *("my[v2].tsv", "a}b", "back\\slash", "ends\\", "it's {lang}", "a'b\"c", "a\\'b", "{lang}-en.tsv", "web/{lang}/it's #1.txt"),
    *("f(x)", "'tis/x.tsv", "日本 (2)/#=&.tsv"),
]


def read(override: str) -> Any:
    parsed = PARSER.parse_override(override)
    assert not parsed.is_sweep_override()
    return parsed.value()


@pytest.mark.parametrize("text", TEXTS)
def test_a_value_with_one_meaning_is_taken(text: str) -> None:
    assert read(overrides.for_single_run(f"data.test.path={text}")) == text


@pytest.mark.parametrize(
    "text", ["d/数据/x.tsv", "d/a=b.tsv", "d/R&D.tsv", "d/a b (1)/x.tsv", "it's", "Müller", "{lang}/it's #1"]
)
def test_a_list_and_a_sweep_take_such_values_one_by_one(text: str) -> None:
    assert read(overrides.for_single_run(f"data.languages=[{text},b]")) == [text, "b"]
    jobs = split([overrides.as_text(f"data.root={text},plain")])
    assert [PARSER.parse_override(job[0]).value() for job in jobs] == [text, "plain"]


@pytest.mark.parametrize(
    "override",
    [
        "a=[1,2]",
        "a={b: 1}",
        "a=choice(1,2)",
        "a=range(1,5)",
        "a=1e-3",
        "a=null",
        "a='q'",
        "a=${b}/c",
        "a=x y",
        "+a=1",
        "~a",
        "a=",
        "a=-1",
    ],
)
def test_what_hydra_reads_stays_as_it_was_typed(override: str) -> None:
    assert overrides.for_single_run(override) == override


def test_a_version_is_no_number() -> None:
    assert read(overrides.for_single_run("model.revision=0.10")) == "0.10"
    assert read(overrides.for_single_run("evaluation.outputs.gpt4=1e3")) == "1e3"
    assert read(overrides.for_single_run("stages.cpo.beta=0.10")) == 0.1


@pytest.mark.parametrize("system", ["gpt-4.1", "Llama-3.1-8B", "v1.2.3"])
def test_the_name_of_a_system_holds_dots(system: str) -> None:
    assert read(overrides.for_single_run(f"evaluation.outputs.{system}=d/it's.txt")) == {system: "d/it's.txt"}
    jobs = split([overrides.as_text(f"stages.preferences.outputs.{system}=a.txt,b#1.txt")])
    assert [PARSER.parse_override(job[0]).value() for job in jobs] == [{system: "a.txt"}, {system: "b#1.txt"}]


@pytest.mark.parametrize("text", ["a,b.tsv", "[ü,ö", "{lang", "{a: it's}", "'q'q'", "[it's \"x"])
def test_a_line_that_is_printed_works_when_it_is_pasted(text: str) -> None:
    """Through a real shell, and then through Hydra's grammar."""
    [message] = problems([overrides.for_single_run(f"data.root={text}")], ValueError("unused"))
    assert "Exception" not in message and "token" not in message
    line = (
        message.split("as a text it is written ")[-1].split("write one text: ")[-1].removesuffix(")" if text == "a,b.tsv" else "")
    )
    word = subprocess.run(["bash", "-c", f"printf %s {line}"], capture_output=True, text=True, check=True).stdout
    typed = overrides.for_single_run(f"data.root={text}").partition("=")[2]
    assert read(overrides.for_single_run(word)) == typed


@pytest.mark.parametrize("name", ["evaluation.outputs.Größe", "evaluation.outputs.a/b", "stages.preferences.outputs.o (1)"])
def test_a_name_that_cannot_be_read_is_not_taken_for_a_value_to_quote(name: str) -> None:
    [message] = problems([overrides.for_single_run(f"{name}=o.txt")], ValueError("unused"))
    assert message.endswith(
        f"{name}=o.txt: not a setting; expected GROUP=OPTION or KEY=VALUE, with the name of a system of letters, digits, -, +, _ "
        "and dots"
    )


def test_the_one_text_that_several_values_may_be_has_no_quotes_of_its_parts() -> None:
    [message] = problems([overrides.for_single_run("data.root=d/R&D=1,it's (2),2.10")], ValueError("unused"))
    assert message.endswith(r"""(or write one text: 'data.root="d/R&D=1,it'"'"'s (2),2.10"')""")


def test_several_values_of_a_list_and_of_a_number() -> None:
    [listed] = problems(["data.languages=de,nl"], ValueError("unused"))
    assert listed.endswith("add -m to run once for each (or write a list: 'data.languages=[de,nl]')")
    [numbers] = problems(["seed=1,2"], ValueError("unused"))
    assert numbers == "seed=1,2: several values; add -m to run once for each"


def test_a_sweep_says_what_it_cannot_read_in_the_same_words() -> None:
    with pytest.raises(ConfigError) as caught:
        split(["seed=1,2", "data.root=[ü,ö", "=3"])
    assert caught.value.problems == [
        "data.root=[ü,ö: [ü,ö is neither a value, a list nor a mapping; as a text it is written 'data.root=\"[ü,ö\"'",
        "=3: not a setting; expected GROUP=OPTION or KEY=VALUE",
    ]
