"""What a finished recipe has to show, from the store's records alone: as a page, as tables for a paper, in a terminal."""
