"""From images to arrays of cached features: embed what is missing, read what is there.

Where the cache and the trunks meet. Trains no head and scores nothing. Read ``embed`` first, then
``read``.
"""
