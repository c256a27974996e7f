"""The training room: a config and a directory in, trained states and run files out.

    states = lpg_jax.training.run(config, "runs/mine")              # {method: TrainState}; resumes if cut short
    predict, params, config = lpg_jax.training.load("runs/mine", "lpg")

| file | what it does |
|---|---|
| runner | `run`: checks, data, methods one after the other, summary.json |
| settings, workdir | the config as a whole; the files of a work directory |
| recipe, methods | config -> model, optimizer, loss and logit-gradient transformation |
| state, step, batches | `TrainState`, the pure training step, the order of the examples |
| parallel | compiled programs; the only place that knows of seeds as an axis, and of devices |
| loop, checkpoint, metrics, records, progress | from step to step, with what is saved, measured and shown on the way |
| predict | `load`: a finished run as a function |
"""

from lpg_jax.training.predict import load
from lpg_jax.training.runner import run
from lpg_jax.training.settings import ConfigError, closest_field, digest, field_names
from lpg_jax.training.state import TrainState

__all__ = ["ConfigError", "TrainState", "closest_field", "digest", "field_names", "load", "run"]
