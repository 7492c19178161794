"""Turns the settings of a command into one checked configuration: overrides, Hydra's composition, checks, and a diagnosis of
mistakes. It plans nothing and reads no store."""
