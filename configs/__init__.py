"""One file per family of experiments; `default.py` holds every field."""
