"""Features that were computed before training: caches of a frozen encoder's grids, and files of regions.

`identity.py` says what features were made with. Of caches: `index.py` checks, `cache.py` reads, `build_cache.py`
fills. Of regions: `regions.py` reads, `write_regions.py` writes, `find_regions.py` runs a detector, `tsv.py` converts
features of others.
"""
