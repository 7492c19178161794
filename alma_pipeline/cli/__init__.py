"""The command line: one module per verb, and terminal output. Rooms below make the decisions; this one calls them and prints."""
