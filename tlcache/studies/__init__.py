"""Many heads, or many images, from one cache: sweeps, folds, few-shot curves, neighbours, bench.

Each study takes features and gives a result with its intervals; pages and pictures of it are
``reports``' and ``figures``'. Read ``sweep`` first.
"""
