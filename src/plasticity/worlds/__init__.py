"""Problems to learn: images, classification MDPs, Atari games."""
