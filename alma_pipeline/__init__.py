"""Plan, run and record the ALMA, ALMA-R and X-ALMA recipes for LLM translators."""

__version__ = "0.1.0"
