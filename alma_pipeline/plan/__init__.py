"""The graph of nodes that a configuration requests, with a verdict, a reason and an estimate for each. Runs nothing and imports
no torch."""
