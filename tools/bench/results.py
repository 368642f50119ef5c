"""The results of a run, kept as JSON below target/."""

import json

from . import settings

# A run of a part does not replace the results of the whole.
PART = "part-" if settings.ONLY else ""
BENCHMARK = settings.BASE / f"{PART}results.json"
GROWTH = settings.BASE / f"{PART}growth.json"


def save(path, **values):
    """Writes the values of a run."""
    path.write_text(json.dumps(values, indent=1))


def load(path):
    return json.loads(path.read_text())


def joined(samples):
    """Returns samples with the keys as JSON has them."""
    return {" ".join(key): value for key, value in samples.items()}
