"""What a node takes, estimated from its settings and the hardware before it runs. Whether it runs is decided elsewhere."""
