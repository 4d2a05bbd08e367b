"""Every model of the model zoos: is it traced, is the group sound, how large is it, what is missing.

    python -m benchmarks.zoo run --source torchvision      results go to docs/zoo/results/torchvision.jsonl
    python -m benchmarks.zoo tables                        and from there to docs/zoo/*.md

Each model runs in a process of its own with a time and a memory limit. A run that is stopped goes on where it was.
Packages beside the environment's own (diffusers) are looked for in the folder ``$ZOO_PACKAGES`` or /tmp/zoo-packages.
"""
