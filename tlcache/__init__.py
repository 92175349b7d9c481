"""Embed images once with a frozen network, then train heads on the cached features.

Names are imported when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlcache.benchmarking import benchmark
    from tlcache.comparison import compare
    from tlcache.crossval import cross_validate
    from tlcache.embedding import embed
    from tlcache.errors import TlcacheError
    from tlcache.evaluation import evaluate
    from tlcache.exporting import export_model
    from tlcache.feature_files import write_features
    from tlcache.features import open_snapshot
    from tlcache.fewshot import few_shot_curve
    from tlcache.finetuning import finetune
    from tlcache.garbage import collect_garbage
    from tlcache.head_training import train_head, train_heads
    from tlcache.heads import Head, Model, load_model, save_model
    from tlcache.inspection import inspect
    from tlcache.inventory import list_cache
    from tlcache.knn import knn_accuracy
    from tlcache.leakage import near_duplicates
    from tlcache.progress import progress_bar
    from tlcache.recipe import Recipe
    from tlcache.run_list import list_runs
    from tlcache.samples import scan
    from tlcache.sweep import sweep_heads
    from tlcache.trunk import load_trunk
    from tlcache.verification import verify_cache

__version__ = importlib.metadata.version("tlcache")
__all__ = [
    "Head",
    "Model",
    "Recipe",
    "TlcacheError",
    "benchmark",
    "collect_garbage",
    "compare",
    "cross_validate",
    "embed",
    "evaluate",
    "export_model",
    "few_shot_curve",
    "finetune",
    "inspect",
    "knn_accuracy",
    "list_cache",
    "list_runs",
    "load_model",
    "load_trunk",
    "near_duplicates",
    "open_snapshot",
    "progress_bar",
    "save_model",
    "scan",
    "sweep_heads",
    "train_head",
    "train_heads",
    "verify_cache",
    "write_features",
]

_HOMES = {
    "benchmarking": ("benchmark",),
    "comparison": ("compare",),
    "crossval": ("cross_validate",),
    "embedding": ("embed",),
    "errors": ("TlcacheError",),
    "evaluation": ("evaluate",),
    "exporting": ("export_model",),
    "feature_files": ("write_features",),
    "features": ("open_snapshot",),
    "fewshot": ("few_shot_curve",),
    "finetuning": ("finetune",),
    "garbage": ("collect_garbage",),
    "head_training": ("train_head", "train_heads"),
    "heads": ("Head", "Model", "load_model", "save_model"),
    "inspection": ("inspect",),
    "inventory": ("list_cache",),
    "knn": ("knn_accuracy",),
    "leakage": ("near_duplicates",),
    "progress": ("progress_bar",),
    "recipe": ("Recipe",),
    "run_list": ("list_runs",),
    "samples": ("scan",),
    "sweep": ("sweep_heads",),
    "trunk": ("load_trunk",),
    "verification": ("verify_cache",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"tlcache.{module}"), name)
    raise AttributeError(f"module 'tlcache' has no attribute '{name}'")
