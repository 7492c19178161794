"""Credentials stay inside the process (B42)."""

import json
import subprocess
import sys

import pytest

from alma_pipeline.redact import MASK, is_secret_name, redact, redact_values

CANARY = "canary-3f9d0c"


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "DB_PASSWD", "token", "PGPASSWORD"],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["NUM_MEMORY_TOKENS", "KEYBOARD", "MONKEY", "SECRETARY", "TOKENIZERS_PARALLELISM", ""])
def test_names_that_only_resemble_secrets(name: str) -> None:
    """B42: whole words, so that `num_memory_tokens` is no secret."""
    assert not is_secret_name(name)


def test_the_value_goes_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    assert redact(f"login --token={CANARY};") == f"login --token={MASK};"
    value = {"argv": ["run", CANARY], CANARY: {"nested": (f"x{CANARY}y", 3, None, True)}}
    assert redact_values(value) == {"argv": ["run", MASK], MASK: {"nested": [f"x{MASK}y", 3, None, True]}}


def test_other_variables_and_short_values_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUM_MEMORY_TOKENS", "1234567")
    monkeypatch.setenv("SHORT_KEY", "plain")
    monkeypatch.setenv("EMPTY_TOKEN", "")
    text = "1234567 plain text"
    assert redact(text) == text


def test_escaped_spellings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value is escaped before it reaches a JSON log or a URL; that spelling gives it away as well."""
    secret = 'pä"ss/w\\rd é+1'
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", secret)
    for text in (json.dumps(secret), json.dumps(secret, ensure_ascii=False), "?p=p%C3%A4%22ss%2Fw%5Crd%20%C3%A9%2B1"):
        assert MASK in redact(text)
        assert "ss" not in redact(text)


def test_a_secret_that_holds_another_goes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", CANARY)
    monkeypatch.setenv("B_KEY", f"{CANARY}-and-more")
    assert redact(f"{CANARY}-and-more") == MASK


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://user:pass@host/x", f"https://{MASK}@host/x"),
        ("git+https://token@github.com/a.git and", f"git+https://{MASK}@github.com/a.git and"),
        ("postgresql://u:p@db:5432/mlflow", f"postgresql://{MASK}@db:5432/mlflow"),
        ("https://u:p@ss@host/", f"https://{MASK}@host/"),
        ('{"url": "https://u:p@host"}', f'{{"url": "https://{MASK}@host"}}'),
        ("https://host/path@2 mail@host", "https://host/path@2 mail@host"),
        ("https://host/?to=a@b", "https://host/?to=a@b"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
    ],
)
def test_userinfo_of_urls(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_redacting_twice_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    once = redact(f"{CANARY} https://a:b@host")
    assert redact(once) == once


def test_import_is_light() -> None:
    code = "import sys, alma_pipeline.redact; print([m for m in ('omegaconf', 'mlflow', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
