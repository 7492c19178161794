"""From the words of a command to one checked configuration: overrides, Hydra's composition, checks, and the diagnosis of what is
wrong. It plans nothing and reads no store."""
