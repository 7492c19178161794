"""Reads the translation units of a TMX file, one at a time: a unit that is broken costs itself alone. No other XML format."""

import codecs
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

from babel.core import get_global

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.readers.lines import BOM, UNPACK_ERRORS, damaged_file, open_bytes
from alma_pipeline.ml.data.readers.raw_rows import SURROGATE, BadRow, RawRow, unreadable
from alma_pipeline.schema import Language

XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
NO_TEXT = {"bpt", "ept", "ph", "it", "ut", "sub"}
"""Elements that enclose code of another format, such as HTML, and a text of its own inside such code."""
TOKEN = re.compile(r"<!--|-->|<!\[CDATA\[|\]\]>|<tu(?=[\s>])|</tu\s*>|</tmx\s*>")
CLOSES = {"<!--": "-->", "<![CDATA[": "]]>"}
"""What ends a comment, and text in which no element begins."""
MARGIN = 64
"""Characters at the end of a piece that may begin a token which the next piece ends."""
LONGEST_UNIT = 2**26
"""Characters; what is longer was not closed."""
NAMESPACE = re.compile(r"""\sxmlns:[\w.-]+\s*=\s*(?:"[^"<&]*"|'[^'<&]*')""")
ENCODING = re.compile(rb"""<\?xml[^>]*\sencoding\s*=\s*["']([\w.:-]+)["']""")
STARTS = {BOM: "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be", b"<\0": "utf-16-le", b"\0<": "utf-16-be"}
"""First bytes that show the encoding."""
PIECE = 2**20
"""Bytes to read at once."""


def tmx_rows(path: Path, columns: Mapping[str, str], languages: Mapping[str, Language]) -> Iterator[RawRow]:
    """Translation units as {language: text}, for these languages and any other; `columns` may name variants, as in {en: en-GB}.

    `de-DE` counts as de. Of several variants of a language the one in its script counts, and of those the first. Markup, and
    the code that it encloses, is left out. Raises UserError if the file is no TMX, or is not complete.
    """
    codes = {language.locale.split("_")[0]: code for code, language in languages.items()} | {code: code for code in languages}
    asked = {name.lower().replace("_", "-"): name for name in columns.values()}
    try:
        with open_bytes(path) as file:
            for number, (line, unit) in enumerate(_units(path, file), start=1):
                where = f"{path}:{line}, unit {number}"
                try:
                    row, several = _row(_variants(unit), asked, codes, languages)
                    yield RawRow(where, row, _itself, ("variants",) if several else ())
                except BadRow as error:
                    yield unreadable(where, unit, str(error))
    except UNPACK_ERRORS as error:
        raise damaged_file(path, error) from error
    except UnicodeError as error:
        raise UserError(
            f"{path} cannot be decoded to its end ({error}); expected UTF-8, or the encoding that it declares"
        ) from None


def _itself(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return row


def _row(
    variants: list[tuple[str, str]], asked: Mapping[str, str], codes: Mapping[str, str], languages: Mapping[str, Language]
) -> tuple[dict[str, str], bool]:
    """One text per language, and per variant that is asked for; whether one of the languages had several."""
    found: dict[str, list[tuple[str, str]]] = {}
    row: dict[str, str] = {}
    for tag, text in variants:
        base = tag.split("-")[0]
        found.setdefault(codes.get(base, base), []).append((tag, text))
        if tag in asked and asked[tag] not in row:
            row[asked[tag]] = text
    for code, texts in found.items():
        row.setdefault(code, _best(texts, languages.get(code)))
    return row, any(len(texts) > 1 for code, texts in found.items() if code in languages)


def _best(texts: list[tuple[str, str]], language: Language | None) -> str:
    """The first text in the language's script; without one, the first."""
    if len(texts) > 1 and language:
        return next((text for tag, text in texts if _script(tag) == language.nllb[-4:]), texts[0][1])
    return texts[0][1]


def _script(tag: str) -> str:
    """The script of a language tag, stated or usual there: `Hant` for zh-hant and zh-tw."""
    code, *rest = tag.split("-")
    stated = next((part.title() for part in rest if len(part) == 4), "")
    likely = get_global("likely_subtags")
    places = [f"{code}_{part.upper()}" for part in rest if len(part) in (2, 3)]
    usual: str = next((likely[name] for name in (*places, code) if name in likely), "")
    return stated or next((part for part in usual.split("_")[1:] if len(part) == 4), "")


def _variants(unit: str) -> list[tuple[str, str]]:
    """(language tag in lower case, text) of a unit. Raises BadRow."""
    if found := SURROGATE.search(unit):
        raise BadRow(f"not in the file's encoding: byte 0x{ord(found[0]) & 0xFF:02x}; convert the file, as with iconv -t utf-8")
    try:
        root = ElementTree.fromstring(unit)
        return [
            ((item.get(XML_LANG) or item.get("lang") or "").lower().replace("_", "-"), _text(item.find("seg")))
            for item in root.iter("tuv")
        ]
    except ElementTree.ParseError as error:
        raise BadRow(
            f"invalid XML ({str(error).partition(':')[0]}); expected a complete unit, & as &amp; and < as &lt;"
        ) from None
    except RecursionError:
        raise BadRow("elements nested too deep; expected text and markup") from None


def _text(element: "ElementTree.Element | None") -> str:
    """The text of a segment without the code between it."""
    if element is None:
        return ""
    parts = [element.text or ""]
    for child in element:
        parts += ["" if child.tag in NO_TEXT else _text(child), child.tail or ""]
    return "".join(parts)


def _units(path: Path, file: BinaryIO) -> Iterator[tuple[int, str]]:
    """(line, XML) of each unit, in a root with the file's prefixes. Raises UserError if the file's own root is not closed."""
    line, begun, size, number, complete, awaited = 1, 1, 0, 0, False, ""
    unit: list[str] | None = None
    prefixes = ""
    for before, token in _tokens(_decoded(path, file)):
        line += before.count("\n")
        if not number:
            prefixes += "".join(NAMESPACE.findall(before))
        if unit is not None:
            unit += (before, token)
            size += len(before)
        if awaited:  # in a comment
            awaited = "" if token == awaited else awaited
        elif token in CLOSES:
            awaited = CLOSES[token]
        elif token == "<tu":
            if unit is not None:
                yield begun, "".join(unit[:-1])  # the unit before was not closed
            unit, begun, size, number = [token], line, 0, number + 1
        elif token.startswith("</tmx"):
            complete = True
        if unit is not None and not awaited and (token.startswith("</tu") or size > LONGEST_UNIT):
            yield begun, f"<tmx{prefixes}>{''.join(unit)}</tmx>"
            unit = None
        line += token.count("\n")
    if not complete:
        raise UserError(f"{path}:{line}: invalid XML from here on: no </tmx> follows; expected a complete TMX file")
    if unit is not None:
        yield begun, "".join(unit)


def _tokens(pieces: Iterator[str]) -> Iterator[tuple[str, str]]:
    """The text before each token, and the token; it is empty where more text follows."""
    text = ""
    for piece in itertools.chain(filter(None, pieces), [""]):
        text, at, last = text + piece, 0, not piece
        while match := TOKEN.search(text, at):
            if not last and match.end() > len(text) - MARGIN:
                break
            yield text[at : match.start()], match[0]
            at = match.end()
        keep = len(text) if last else match.start() if match else max(at, len(text) - MARGIN)
        yield text[at:keep], ""
        text = text[keep:]


def _decoded(path: Path, file: BinaryIO) -> Iterator[str]:
    """The text of the file, piece by piece; surrogates for bytes that are no text. Raises UserError for an unknown encoding."""
    head = file.read(PIECE)
    mark = next((mark for mark in STARTS if head.startswith(mark)), b"")
    stated = ENCODING.search(head[: MARGIN * 4])
    encoding = STARTS.get(mark) or (stated[1].decode() if stated else "utf-8")
    try:
        b"<<".decode(encoding)
    except (LookupError, UnicodeError):
        raise UserError(f"{path}: encoding {encoding} is unknown; expected UTF-8, UTF-16 or another that Python knows") from None
    errors = "surrogatepass" if encoding.startswith("utf-16") else "surrogateescape"
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    yield decoder.decode(head).removeprefix("\ufeff")
    while piece := file.read(PIECE):
        yield decoder.decode(piece)
    yield decoder.decode(b"", final=True)
