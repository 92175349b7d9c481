"""The ground that every wing stands on: errors, files, downloads, HDF5, progress, the machine.

Knows no image, no network and no cache. A module belongs here only if two wings need it and it
would make sense in another program. Read ``errors`` first: how a fault is told to its user.
"""
