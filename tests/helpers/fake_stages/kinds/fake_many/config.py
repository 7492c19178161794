"""Settings of `fake_many`: as `fake`, over all processes of the hardware."""

from dataclasses import dataclass

from stages.fake.config import Config as FakeConfig


@dataclass(frozen=True, kw_only=True)
class Config(FakeConfig):  # type: ignore[misc]  # mypy does not find it beside the real kinds
    kind: str = "fake_many"

    @property
    def distributed(self) -> bool:
        return True
