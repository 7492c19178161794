"""Reports on a finished recipe: an HTML page, tables for papers and terminal tables, built from the records in the store.

It runs no stage and needs no tracking server.
"""
