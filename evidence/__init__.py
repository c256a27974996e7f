"""Which methods are compared on which problems, and how: the plan behind `results/`. See `evidence/__main__.py`."""
