"""Reads another system's outputs from files and matches them to sentences: plain lines by number, rows by their source."""

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
        self._read: dict[str, dict[str, Any]] = test.result.get("counts", {}).get("cleaning", {}) if test else {}
        """What the test set read of each direction; empty for one that was made before this was recorded."""
        self.unused: Counter[str] = Counter()
        """Outputs for sentences that are not in the test set, by direction."""
        self._text = TextReader(source, languages, job.files, _refuse, job.codes)

    def has(self, direction: str) -> bool:
        """Whether a file may have outputs in this direction."""
        return self._is_there(direction) or self._is_there("all")

    def _is_there(self, part: str) -> bool:
        return any(name.split(".")[0] == part for name in self._text.source.files)

    def aligned(self, direction: str, sources: Sequence[str], ids: Sequence[str]) -> list[str]:
        """One output per sentence of a test set; [] if the system has none in this direction.

        Plain lines are those of the test set's sentences, or of all rows of its file, in order. `ids`: the sentences' ids, which
        end in the row's number (`de-en:12`). Raises UserError if a sentence has no output.
        """
        rows = list(self._text.outputs(direction)) if self.has(direction) else []
        if rows and rows[0][0] is None:
            return self._in_order([output for _, output in rows], direction, ids)
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

    def _in_order(self, lines: list[str], direction: str, ids: Sequence[str]) -> list[str]:
        """The line of each sentence: its own, or that of its row. Raises UserError if the lines are neither."""
        numbers = _row_numbers(ids)
        without = sorted(set(range(1, numbers[-1] + 1)) - set(numbers)) if numbers else []
        # As many lines as sentences are theirs, unless they are empty just where the file is: then they are those of its rows.
        empty = [number for number in without if number <= len(lines) and not lines[number - 1].strip()]
        if len(lines) == len(ids) and not (empty and empty == [number for number in without if number <= len(lines)]):
            return lines
        total = self._read.get(direction, {}).get("read")
        if numbers and len(lines) in (total, numbers[-1]):
            return [lines[number - 1] for number in numbers]
        raise UserError(self._count_problem(len(lines), direction, len(ids), numbers, without, total))

    def _count_problem(
        self, found: int, direction: str, sentences: int, numbers: list[int], without: list[int], total: int | None
    ) -> str:
        text = f"{self.system}, {direction}: {found:,} lines; expected {sentences:,}, one for each sentence of the test set"
        if total and total != sentences:
            text += f", or {total:,}, one for each row of its file"
        if without:
            shown = ", ".join(map(str, without[:5])) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
            text += f" ({'row' if len(without) == 1 else 'rows'} {shown} of the file without text for it, not scored)"
        if fewer := [number for number in numbers if number <= found]:
            if len(fewer) < sentences:
                text += f". To score the first {len(fewer):,} sentences alone, set budget.text.test={len(fewer)}"
        elif found > sentences:
            text += ". Use the whole test set (budget.text.test=null)"
        return f"{text}, or give rows with 'source' and 'hypothesis', which are matched by their source"

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


def _row_numbers(ids: Sequence[str]) -> list[int]:
    """The number, from 1, of each sentence's row in the file of the test set; [] for generated text, which has no rows."""
    found = [name.rpartition(":")[2] for name in ids]
    return [int(number) for number in found] if all(number.isdigit() for number in found) else []


def _refuse(where: str, problem: str, raw: Any) -> None:
    raise UserError(f"{where}: {problem}")


def _normal_spaces(text: str) -> str:
    """Normalise white space, which tools trim and double."""
    return " ".join(text.split())
