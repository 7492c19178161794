"""Keys: stable, refusing what is not, and the same as in earlier versions of this project.

A changed key in tests/golden/keys.json means that every user's artifact of the kind is made again; docs/extending.md has the
command that writes the file.
"""

import dataclasses
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.plan.graph import build
from alma_pipeline.schema import Architecture, Hardware, Language, Lora, NodeConfig, Source, Tracking, kinds
from alma_pipeline.schema.kinds import kind_config
from alma_pipeline.store.identity import ABSENT, canonical_json, differences, flatten, key_of, key_settings, payload
from helpers.plans import loaded

GOLDEN = Path(__file__).parents[1] / "golden" / "keys.json"
LANGUAGES = {
    "en": Language(name="English", locale="en", nllb="eng_Latn"),
    "de": Language(name="German", locale="de", nllb="deu_Latn"),
}
SHAPE = Architecture(hidden_size=8, intermediate_size=16, layers=2, heads=2, kv_heads=1, vocab_size=64)
TRAINED: dict[str, Any] = {"steps": 10, "seed": 1}
SAMPLES: dict[str, dict[str, Any]] = {
    "base": {"architecture": SHAPE, "languages": LANGUAGES, "seed": 1},
    "corpus": {"form": "pairs", "languages": LANGUAGES, "train": 10, "seed": 1},
    "mono": TRAINED,
    "parallel": TRAINED | {"adapter": "new", "lora": Lora(rank=8)},
    "group_adapter": TRAINED,
    "preferences": {"languages": LANGUAGES, "seed": 1},
    "cpo": TRAINED | {"languages": LANGUAGES},
    "arpo": TRAINED | {"languages": LANGUAGES},
    "translate": {"languages": LANGUAGES},
    "system_outputs": {"languages": LANGUAGES, "system_outputs": {"gpt4": Source(reader="files", files={"de-en.txt": "3" * 64})}},
    "score": {"languages": LANGUAGES},
    "translate_text": {"languages": LANGUAGES},
    "merge": {},
    "released": {"repo": "someone/model"},
}
INPUTS = {"init": "1" * 64, "corpus": "2" * 64}


def golden() -> dict[str, str]:
    return {kind: key_of(payload(kind_config(kind)(**values), INPUTS)) for kind, values in SAMPLES.items()}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [1, 2.5, None, True, "x"]}, '{"a":[1,2.5,null,true,"x"],"b":1}'),
        ({"x": 1.0}, '{"x":1}'),
        ({"x": -0.0}, '{"x":0}'),
        ({"x": 2e-5}, '{"x":2e-05}'),
        ({"x": (1, 2)}, '{"x":[1,2]}'),
        ({"x": "a/b"}, '{"x":"a/b"}'),
        ({"x": "ß 中 🎈"}, '{"x":"ß 中 🎈"}'),
        ({"x": {}}, '{"x":{}}'),
        ({}, "{}"),
    ],
)
def test_canonical_json(value: Any, text: str) -> None:
    assert canonical_json(value) == text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"x": True}, {"x": 1}),
        ({"x": "1"}, {"x": 1}),
        ({"x": None}, {}),
        ({"x": "de/en"}, {"x": "deen"}),
        ({"x": "é"}, {"x": "e\u0301"}),
        ({"x": [1, 2]}, {"x": [2, 1]}),
    ],
)
def test_values_are_never_normalised(one: Any, other: Any) -> None:
    assert key_of(one) != key_of(other)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"a": {"b": math.nan}}, "payload.a.b is nan"),
        ({"a": [1, math.inf]}, r"payload.a\[1\] is inf"),
        ({"a": {1, 2}}, "payload.a is a set"),
        ({"a": len}, "payload.a is a builtin_function_or_method"),
        ({"a": Path("x")}, "payload.a is a PosixPath"),
        ({"a": {1: 2}}, "payload.a has the key 1"),
        ({"a": b"x"}, "payload.a is a bytes"),
        ({"a": Lora()}, "payload.a is a Lora"),
        ({"a": "\ud800"}, "payload.a is .*lone surrogate"),
    ],
)
def test_what_has_no_stable_text_is_refused_with_its_place(value: Any, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        key_of(value)


def test_equal_in_every_process() -> None:
    """String hashing differs from process to process; a key must not."""
    under_test = os.pathsep.join(sys.path)  # this checkout, which need not be the one that is installed
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": under_test}
        done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, check=True)
        assert json.loads(done.stdout) == golden()


def test_golden_keys(pytestconfig: pytest.Config) -> None:
    """B64: an upgrade of this project makes nothing again unless a kind's version says so."""
    if pytestconfig.getoption("--golden"):
        GOLDEN.write_text(json.dumps(golden(), indent=1) + "\n")
    assert golden() == json.loads(GOLDEN.read_text())


def test_golden_keys_cover_every_kind() -> None:
    assert sorted(SAMPLES) == kinds.kinds()


@dataclass(frozen=True, kw_only=True)
class Old(NodeConfig):
    kind: str = "old"
    rate: float = 0.5
    lora: Lora = field(default_factory=Lora)


@dataclass(frozen=True, kw_only=True)
class NewLora(Lora):
    scaled: bool = field(default=False, metadata={"as_before": False})


@dataclass(frozen=True, kw_only=True)
class New(Old):
    lora: Lora = field(default_factory=NewLora)
    noise: float = field(default=0.1, metadata={"as_before": 0.0})


def test_a_field_added_later_leaves_a_key_unchanged_at_its_old_meaning() -> None:
    old = key_of(payload(Old(), {}))
    assert key_of(payload(New(noise=0.0), {})) == old
    assert key_of(payload(New(), {})) != old, "the default is another thing than the value that means as before"
    assert key_of(payload(New(noise=0.0, lora=NewLora(scaled=True)), {})) != old, "nested fields count too"


def test_roles_matter() -> None:
    """Swapping the model and what it is compared with is another experiment."""
    config = Old()
    keys = {key_of(payload(config, inputs)) for inputs in ({"a": "1", "b": "2"}, {"a": "2", "b": "1"}, {"b": "2", "a": "1"})}
    assert len(keys) == 2, "swapped roles differ, another order of the same roles does not"


@pytest.mark.parametrize("change", [{"rate": 0.25}, {"lora": Lora(rank=17)}, {"kind": "other"}])
def test_every_setting_counts(change: dict[str, Any]) -> None:
    assert key_of(payload(dataclasses.replace(Old(), **change), {})) != key_of(payload(Old(), {}))


@pytest.mark.parametrize("change", [{"inputs": {"init": "elsewhere"}}, {"per_group": True}])
def test_the_place_in_the_graph_does_not(change: dict[str, Any]) -> None:
    assert key_of(payload(dataclasses.replace(Old(), **change), {})) == key_of(payload(Old(), {}))


def test_version_counts() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Bumped(Old):
        version = 2

    assert key_of(payload(Bumped(), {})) != key_of(payload(Old(), {}))


def test_a_changed_rule_gives_a_new_key_where_it_is_used_and_nowhere_else() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Reading(NodeConfig):
        formats: tuple[str, ...] = ()

        def rules(self) -> dict[str, int]:
            return {"tmx": 2} if "tmx" in self.formats else {}

    assert payload(Reading(formats=("tmx",)), {})["rules"] == {"tmx": 2}
    assert "rules" not in payload(Reading(formats=("tsv",)), {})


def test_execution_settings_never_enter_a_payload() -> None:
    """By structure: no node holds a hardware or tracking setting, whatever the nodes are called."""
    outside = {item.name for schema in (Hardware, Tracking) for item in dataclasses.fields(schema)} - {"name"}
    nodes = build(loaded("stage=all"))
    assert len(nodes) > 40
    for node in nodes:
        assert not outside & set(key_settings(node.config)), node.name


def test_keys_do_not_depend_on_hardware_or_tracking() -> None:
    plain = build(loaded("stage=cpo"))
    other = build(loaded("stage=cpo", "hardware=cpu2", "tracking=none", "hardware.micro_batch_tokens=128"))
    assert [key_settings(node.config) for node in plain] == [key_settings(node.config) for node in other]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, {}),
        ({"a": 1}, {"a": 1}),
        ({"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}}, {"a.b.c": 1, "a.d": [1, {"e": 2}]}),
        ({"a": {}}, {"a": {}}),
        ({"a": None}, {"a": None}),
    ],
)
def test_flatten(value: Any, expected: dict[str, Any]) -> None:
    assert flatten(value) == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {}, []),
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}, [("b.c", 2, 3)]),
        ({"a": 1}, {"b": 2}, [("b", ABSENT, 2), ("a", 1, ABSENT)]),
        ({}, {"a": None}, [("a", ABSENT, None)]),
        ({"a": {"b": 1}}, {"a": None}, [("a", ABSENT, None), ("a.b", 1, ABSENT)]),
    ],
)
def test_differences(old: Any, new: Any, expected: list[tuple[str, Any, Any]]) -> None:
    assert differences(old, new) == expected


if __name__ == "__main__":
    print(json.dumps(golden(), indent=1))
