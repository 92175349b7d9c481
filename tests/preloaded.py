"""What the processes of ``isolated`` have loaded when they begin, once for all of them.

Mostly numba: it takes a second to import itself and to load a kernel that it compiled before.
"""

from __future__ import annotations

import gc

import pytest  # noqa: F401
import torchvision  # noqa: F401
from PIL import Image

import tlcache.features.embed
import tlcache.trunks.engines
import tlcache.trunks.load  # noqa: F401
from tlcache.data.resampling import can_resample

Image.preinit()
can_resample((9, 9), (8, 8), "bilinear")
gc.freeze()  # else each process would soon look through all of it for garbage, and so copy it
