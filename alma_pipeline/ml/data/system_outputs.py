"""Reads another system's outputs from files and matches them to sentences: plain lines by position, rows by their source."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from alma_pipeline.errors import UserError
from alma_pipeline.job import Job
from alma_pipeline.ml.data.readers.text import TextReader
from alma_pipeline.schema import Language, Source


class SystemOutputs:
    """The outputs of one system. An unreadable row raises UserError with file and line."""

    def __init__(self, system: str, source: Source, languages: dict[str, Language], job: Job) -> None:
        self.system = system
        test = job.inputs.get("test")
        self._left_out: dict[str, int] = test.result.get("dropped", {}) if test else {}
        """Rows of its text that the test set dropped, by reason."""
        self.unused: Counter[str] = Counter()
        """Outputs for sentences that are not in the test set, by direction."""
        self._text = TextReader(source, languages, job.files, _refuse, job.codes)

    def has(self, direction: str) -> bool:
        """Whether a file may have outputs in this direction."""
        return self._is_there(direction) or self._is_there("all")

    def _is_there(self, part: str) -> bool:
        return any(name.split(".")[0] == part for name in self._text.source.files)

    def aligned(self, direction: str, sources: Sequence[str]) -> list[str]:
        """One output per sentence of a test set; [] if the system has none in this direction.

        Plain lines must be in the order of the test set. Raises UserError if a sentence has no output.
        """
        rows = list(self._text.outputs(direction)) if self.has(direction) else []
        if rows and rows[0][0] is None:
            return self._in_order([output for _, output in rows], direction, len(sources))
        if not rows and not self._is_there(direction):
            return []
        # Rows with sources may be in any order, but must cover the test set.
        found = self._by_source(rows, direction, sources)
        lacking = [source for source, outputs in zip(sources, found, strict=True) if not outputs]
        if lacking:
            raise UserError(
                f"{self.system}, {direction}: {len(lacking)} of {len(sources)} sentences have no output; the first is "
                f"{lacking[0]!r}. Expected a row for each source of the test set, with the same spelling"
            )
        return [outputs[0] for outputs in found]

    def candidates(self, direction: str, sources: Sequence[str]) -> list[list[str]]:
        """All distinct outputs of each sentence; none if the system did not translate it. Raises UserError for plain lines."""
        rows = list(self._text.outputs(direction))
        if rows and rows[0][0] is None:
            raise UserError(
                f"{self.system}, {direction}: its file has plain lines, which do not name their sentences; expected rows with "
                "'source' and 'hypothesis', as JSON lines or TSV"
            )
        found = self._by_source(rows, direction, sources)
        return [list(dict.fromkeys(outputs)) for outputs in found]

    def _in_order(self, lines: list[str], direction: str, count: int) -> list[str]:
        if len(lines) != count:
            left_out = {name: number for name, number in self._left_out.items() if number}
            reasons = ", ".join(f"{name} {number}" for name, number in left_out.items())
            raise UserError(
                f"{self.system}, {direction}: {len(lines):,} lines, and the test set has {count:,} sentences"
                + (f", after lines that cannot be scored were dropped ({reasons})" if reasons else "")
                + "; plain lines are matched by position. Use the whole test set (budget.text.test=null), or rows with "
                "'source' and 'hypothesis'"
            )
        return lines

    def _by_source(self, rows: list[tuple[str | None, str]], direction: str, sources: Sequence[str]) -> list[list[str]]:
        """The outputs of each sentence. The n-th occurrence of a repeated sentence gets the n-th row of that source first."""
        found: dict[str, list[str]] = {}
        for source, output in rows:
            found.setdefault(_normal_spaces(source or ""), []).append(output)
        # Repeated sources take their rows in turn; without enough rows, the last one is used again.
        turns: Counter[str] = Counter()
        result = []
        for source in map(_normal_spaces, sources):
            own = found.get(source, [])
            turn = min(turns[source], len(own) - 1)
            result.append(own[turn:] + own[: max(0, turn)])
            turns[source] += 1
        self.unused[direction] = sum(len(outputs) for source, outputs in found.items() if source not in turns)
        return result


def _refuse(where: str, problem: str, raw: Any) -> None:
    raise UserError(f"{where}: {problem}")


def _normal_spaces(text: str) -> str:
    """Normalise white space, which tools trim and double."""
    return " ".join(text.split())
