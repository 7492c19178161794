"""Whether the kernel has killed a process for memory, how much memory there is, and the settings that lower a node's need.

Reads the kernel's own counters, of version 1 and 2 of control groups; knows nothing of workers.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from alma_pipeline.schema import Decoding, Hardware, NodeConfig, Training, WithScorers

PROC, MOUNT = Path("/proc"), Path("/sys/fs/cgroup")
COUNTERS = ("memory.events", "memory.oom_control")
LIMITS = ("memory.max", "memory.limit_in_bytes")
"""Names of version 2 and of version 1."""
IN_PROCESS = re.compile(r"OutOfMemoryError|MemoryError|can't allocate memory|std::bad_alloc|ended with signal 9")
"""Last lines of a process that noticed by itself, or whose child was killed."""


def kill_count(proc: Path = PROC, mount: Path = MOUNT) -> int:
    """How many processes the kernel has killed for memory in this control group; on the whole machine if there is none."""
    counters = [folder / name for folder in _groups(proc, mount)[:1] for name in COUNTERS]
    for path in (*counters, proc / "vmstat"):
        if path.is_file() and (found := re.search(r"^oom_kill (\d+)$", path.read_text(encoding="ascii"), re.MULTILINE)):
            return int(found[1])
    return 0


def available_bytes(proc: Path = PROC, mount: Path = MOUNT) -> int:
    """Memory that this process may use with all others of its control group: the machine's, or a lower limit."""
    [total] = re.findall(r"^MemTotal: +(\d+) kB$", (proc / "meminfo").read_text(encoding="ascii"), re.MULTILINE)
    files = [folder / name for folder in _groups(proc, mount) for name in LIMITS]
    limits = [text for path in files if path.is_file() and (text := path.read_text(encoding="ascii").strip()).isdigit()]
    return min([int(total) * 1024, *map(int, limits)])


def _groups(proc: Path, mount: Path) -> list[Path]:
    """Folders of this process's control group for memory and of those around it, innermost first."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for number, controllers, group in (line.split(":", 2) for line in lines):
        if number != "0" and "memory" not in controllers.split(","):
            continue
        root = mount / "memory" if number != "0" else mount
        # Inside a container the path may be the host's, and the mount shows this group as its root.
        folders = [root / path.relative_to("/") for path in (Path(group), *Path(group).parents)]
        if found := [folder for folder in folders if any((folder / name).is_file() for name in (*COUNTERS, *LIMITS))]:
            return found
    return []


def lower_settings(config: NodeConfig, hardware: Hardware) -> Iterator[str]:
    """Settings that lower the memory of a node; none of them changes its result."""
    if hardware.max_parallel_nodes > 1:
        yield "hardware.max_parallel_nodes=1"
    if isinstance(config, Training):
        yield _half("hardware.micro_batch_tokens", hardware.micro_batch_tokens)
        if not hardware.gradient_checkpointing:
            yield "hardware.gradient_checkpointing=true"
    if isinstance(config, Decoding):
        tokens = hardware.decode_tokens
        yield _half("hardware.decode_tokens", tokens) if tokens else "hardware.decode_tokens=8192 (now what is free)"
    if isinstance(config, WithScorers) and config.scorers:
        yield _half("evaluation.comet.batch", hardware.comet_batch)


def _half(name: str, value: int) -> str:
    return f"{name}={max(1, value // 2)} (now {value})"
