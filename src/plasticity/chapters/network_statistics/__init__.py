"""The page on the statistics of one network."""
