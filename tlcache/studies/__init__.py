"""Many heads, or many images, from one cache: sweeps, folds, few-shot curves, neighbours, bench.

Each study takes features and gives a result with its intervals, and says what it asks of a data set
before that is embedded (``check_dataset``). ``check`` judges the data itself, ``demo`` shows all of
it on few images. Pages and pictures are ``reports``' and ``figures``'. Read ``sweep`` first.
"""
