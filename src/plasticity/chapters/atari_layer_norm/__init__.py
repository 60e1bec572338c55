"""Layer normalisation in double DQN on Atari games (§6.3, A.3; Figs. 7, 19 to 22)."""
