"""What the verb `translate` reads, runs and writes. Composes no configuration and plans nothing."""
