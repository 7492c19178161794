"""The graph of nodes that a configuration asks for, and a verdict, a reason and an estimate for each. It runs nothing, writes
nothing and imports no torch."""
