"""Rows out of what people bring: files of any format, folders of the hub, hub data sets. It cleans and tokenises nothing."""
