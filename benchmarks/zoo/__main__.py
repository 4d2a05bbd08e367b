"""``python -m benchmarks.zoo``."""

from benchmarks.zoo.app import app

app()
