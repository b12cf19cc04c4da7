"""The comparison of two builds of this package: where they lie, what they do in turn, and what is made of the figures."""
