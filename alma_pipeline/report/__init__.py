"""Reports on a finished recipe as an HTML page, tables for papers and terminal tables, built from the records in the store."""
