"""Resume points: what a killed training run continues from, written while it trains. When one is due is the loop's affair."""
