"""Sources: what an encoder takes of an item, loaded one by one and stacked to a batch.

`base.py` says what a source is. Those that there are: `pixels.py` (image files), `cached.py` (grids of a feature
cache), `regions.py` (regions of a file) and `sentences.py` (words).
"""
