"""Phrase templates for every language, built only from Unicode CLDR's patterns, names and numbers.

All words come from CLDR: Babel formats a date, a measure, a price or a list of names with the locale's data. `cldr` makes a
corpus of them.
"""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from babel import Locale, dates, lists, numbers, units

Value = str | int | float
Period = Literal["second", "minute", "hour", "day", "week", "month", "year"]

YEARS = range(2000, 2030)
MONTHS = range(1, 13)
DAYS = range(1, 29)
HOURS = range(24)
MINUTES = (0, 15, 30, 45)
COUNTS = (*range(1, 60), 1.5, 2.5, 4.5, 7.5)
AMOUNTS = (*range(1, 100), 1.5, 2.5, 9.5, 12.5, 120, 150, 250, 400, 500, 750)
TENSES = (-1, 1)
PERIODS: dict[Period, int] = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86400,
    "week": 604800,
    "month": 2592000,
    "year": 31536000,
}
"""Length of each period in seconds, as Babel counts it."""
# fmt: off
UNITS = (
    "duration-minute", "duration-hour", "duration-day", "duration-week",
    "duration-month", "duration-year", "length-kilometer", "length-meter",
    "length-centimeter", "mass-kilogram", "mass-gram", "volume-liter",
    "area-square-meter", "speed-kilometer-per-hour", "digital-megabyte", "temperature-celsius",
    "energy-kilojoule", "electric-volt",
)
CURRENCIES = ("EUR", "USD", "GBP", "JPY", "CHF", "PLN", "CZK", "SEK")
TERRITORIES = (
    "AT", "BE", "BR", "CA", "CH", "CN", "CZ", "DE", "DK", "EG", "ES", "FI", "FR", "GB",
    "GR", "IN", "IT", "JP", "MX", "NL", "NO", "PL", "PT", "RO", "SE", "TR", "UA", "US",
)
LANGUAGES = (
    "ar", "cs", "da", "de", "en", "es", "fr", "hi", "it", "ja", "nl", "pl", "pt", "ru", "sv", "tr", "uk", "zh",
)
# fmt: on


class Untranslated(Exception):
    """The locale has no words for a value, so the phrase does not exist in that language."""


@dataclass(frozen=True)
class Template:
    """A kind of phrase: the range of its values, and how to render one in a locale."""

    name: str
    render: Callable[..., str]
    """(locale, *value) to text; raises Untranslated."""
    parts: tuple[Sequence[Value], ...]
    """The choices for each element of a value."""
    draws: int
    """Number of values drawn; repeats, and values that name the same thing twice, are dropped."""


def date(locale: Locale, year: int, month: int, day: int, form: str = "long") -> str:
    return dates.format_date(datetime.date(year, month, day), form, locale=locale)


def weekday_date(locale: Locale, year: int, month: int, day: int) -> str:
    return date(locale, year, month, day, "full")


def month_of_year(locale: Locale, year: int, month: int) -> str:
    return dates.format_skeleton("yMMMM", datetime.date(year, month, 1), locale=locale)


def time(locale: Locale, hour: int, minute: int) -> str:
    return dates.format_time(datetime.time(hour, minute), "short", locale=locale)


def date_time(locale: Locale, *moment: int) -> str:
    """`moment`: year, month, day, hour, minute."""
    year, month, day, hour, minute = moment
    pattern = str(locale.datetime_formats["medium"]).replace("'", "")
    return pattern.format(time(locale, hour, minute), date(locale, year, month, day))


def distance(locale: Locale, tense: int, count: int, period: Period) -> str:
    """`in 3 days`, `3 days ago`."""
    delta = datetime.timedelta(seconds=tense * count * PERIODS[period])
    text = dates.format_timedelta(delta, granularity=period, threshold=1e9, add_direction=True, locale=locale)
    if text[0] in "+-":  # the root locale's "+3 d", inherited where a locale has no wording
        raise Untranslated(period)
    return text


def measure(locale: Locale, count: float, unit: str) -> str:
    text = units.format_unit(count, unit, "long", locale=locale)
    if unit in text:
        raise Untranslated(unit)
    return text


def price(locale: Locale, amount: float, currency: str) -> str:
    text = numbers.format_currency(amount, currency, format_type="name", currency_digits=False, locale=locale)
    if currency in text:
        raise Untranslated(currency)
    return text


def territory(locale: Locale, code: str) -> str:
    return _name(locale.territories, code)


def language(locale: Locale, code: str) -> str:
    return _name(locale.languages, code)


def territories(locale: Locale, *codes: str) -> str:
    return lists.format_list([territory(locale, code) for code in codes], "standard", locale=locale)


def languages(locale: Locale, *codes: str) -> str:
    return lists.format_list([language(locale, code) for code in codes], "or", locale=locale)


def regional_language(locale: Locale, language_code: str, territory_code: str) -> str:
    """`German (Austria)`."""
    return f"{language(locale, language_code)} ({territory(locale, territory_code)})"


def two_measures(locale: Locale, count: float, unit: str, other_count: float, other_unit: str) -> str:
    both = [measure(locale, count, unit), measure(locale, other_count, other_unit)]
    return lists.format_list(both, "standard", locale=locale)


def territory_price(locale: Locale, code: str, amount: float, currency: str) -> str:
    return f"{territory(locale, code)}: {price(locale, amount, currency)}"


def territory_measure(locale: Locale, code: str, count: float, unit: str) -> str:
    return f"{territory(locale, code)}: {measure(locale, count, unit)}"


def territory_date(locale: Locale, code: str, year: int, month: int, day: int) -> str:
    return f"{territory(locale, code)}, {date(locale, year, month, day)}"


def _name(names: Mapping[str, str], code: str) -> str:
    if code not in names:
        raise Untranslated(code)
    return names[code]


TEMPLATES = (
    Template("date", date, (YEARS, MONTHS, DAYS), 1000),
    Template("weekday_date", weekday_date, (YEARS, MONTHS, DAYS), 600),
    Template("month_of_year", month_of_year, (YEARS, MONTHS), 400),
    Template("date_time", date_time, (YEARS, MONTHS, DAYS, HOURS, MINUTES), 300),
    Template("distance", distance, (TENSES, range(1, 60), tuple(PERIODS)), 1000),
    Template("measure", measure, (COUNTS, UNITS), 1600),
    Template("price", price, (AMOUNTS, CURRENCIES), 1000),
    Template("two_territories", territories, (TERRITORIES, TERRITORIES), 800),
    Template("three_territories", territories, (TERRITORIES, TERRITORIES, TERRITORIES), 400),
    Template("two_languages", languages, (LANGUAGES, LANGUAGES), 500),
    Template("regional_language", regional_language, (LANGUAGES, TERRITORIES), 500),
    Template("two_measures", two_measures, (COUNTS, UNITS, COUNTS, UNITS), 500),
    Template("territory_price", territory_price, (TERRITORIES, AMOUNTS, CURRENCIES), 600),
    Template("territory_measure", territory_measure, (TERRITORIES, COUNTS, UNITS), 600),
    Template("territory_date", territory_date, (TERRITORIES, YEARS, MONTHS, DAYS), 600),
)
