"""Frozen networks: which there are, their weights and digests, and the engines that run them.

From a network's name to (n, D) features of a batch, and the pass that runs over many images. Keeps
no row (``cache``) and trains nothing. Read ``load`` first, then ``engines`` and ``forward_pass``.
"""
