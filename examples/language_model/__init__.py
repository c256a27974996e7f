"""A small language model on the prose that ships with Python, its rare words amplified: see `__main__.py`."""
