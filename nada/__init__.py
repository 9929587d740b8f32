"""StyleGAN-NADA: move a generator to a new domain by two texts, without an image of it."""
