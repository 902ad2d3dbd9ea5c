"""Sources: what an encoder takes of an item, loaded one by one and stacked to a batch (see `captioner.types.Source`).

The source of images as they are is `images.ImageTransform` itself. Beside it there are `augmented.py` (the same with
random changes, for training), `cached.py` (grids of a feature cache), `regions.py` (regions of a file), `base.py` (what
these two share) and `sentences.py` (words).
"""
