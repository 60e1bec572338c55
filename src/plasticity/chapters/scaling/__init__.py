"""Does a wider network keep its plasticity? (§6.1, Fig. 5.)"""
