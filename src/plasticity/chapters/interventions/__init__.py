"""What preserves plasticity? (§6.2, B.1; Figs. 6, 8 to 18.)"""
