"""Settings of `fake_many`: as `fake`, over all processes of the hardware."""

from dataclasses import dataclass
from typing import ClassVar

from stages.fake.config import Config as FakeConfig


@dataclass(frozen=True, kw_only=True)
class Config(FakeConfig):
    distributed: ClassVar[bool] = True
    kind: str = "fake_many"
