"""A config that trains in a second, shared by the tests of the training room."""

import json

from configs import digits_longtail


def tiny(**fields):
    """digits, long-tailed, 2 seeds, 4 epochs of 6 batches; changes by dotted name with "__" for the dot."""
    config = digits_longtail.get_config()
    config.num_seeds, config.train.epochs, config.train.batch_size = 2, 4, 64
    config.model.hidden = (16,)
    config.evaluate.every_epochs = 2
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return config


def read(path):
    """A JSON file."""
    return json.loads(path.read_text())


def read_lines(path):
    """A JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def digests(home, method):
    """{seed: digest} of a finished run."""
    return read(home / "summary.json")["methods"][method]["params_sha256"]
