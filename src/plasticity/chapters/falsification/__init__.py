"""No simple statistic of a network explains its plasticity (§5, Figs. 3 and 4)."""
