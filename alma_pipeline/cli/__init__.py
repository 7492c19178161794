"""The command line: one module for each verb, and what a terminal shows. Decisions are made in the rooms below; here they are
called and printed."""
