"""Ours against the textbook, on the machine at hand, in one run. Not part of the package.

    python benchmarks/run.py                              everything; JSON to benchmarks/results/
    python benchmarks/run.py --quick                      small sizes, a minute: to see that it runs
    python benchmarks/run.py --cases decoder_step memory  some of it
    python benchmarks/run.py --device cuda                on a GPU
    python benchmarks/run.py --markdown results.json      the table of a run that was made before

`pip install -e .` is all it needs. What is measured, and what bounds it: docs/performance.md.
"""
