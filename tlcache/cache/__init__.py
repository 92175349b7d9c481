"""The cache on the disk: identities, shards of rows, snapshots of data sets, and their care.

Makes no feature (``features``) and needs no network: all of it works on a cache whose images are
gone. Read ``identity`` first, then ``shards`` and ``store``.
"""
