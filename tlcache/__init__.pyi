"""The public names of tlcache, each with its home: what ``tlcache/__init__.py`` imports lazily."""

from tlcache.cache.contents import list_cache as list_cache
from tlcache.cache.gc import collect_garbage as collect_garbage
from tlcache.cache.verify import verify_cache as verify_cache
from tlcache.core.errors import TlcacheError as TlcacheError
from tlcache.core.progress import progress_bar as progress_bar
from tlcache.data.folders import scan as scan
from tlcache.evaluation.comparison import compare as compare
from tlcache.evaluation.metrics import evaluate as evaluate
from tlcache.export.export import export_model as export_model
from tlcache.features.embed import embed as embed
from tlcache.features.files import write_features as write_features
from tlcache.features.read import open_snapshot as open_snapshot
from tlcache.heads.model import Head as Head
from tlcache.heads.model import Model as Model
from tlcache.heads.model import load_model as load_model
from tlcache.heads.model import save_model as save_model
from tlcache.heads.recipe import Recipe as Recipe
from tlcache.heads.train import train_head as train_head
from tlcache.heads.train import train_heads as train_heads
from tlcache.networks.finetune import finetune as finetune
from tlcache.reports.records import list_runs as list_runs
from tlcache.studies.bench import benchmark as benchmark
from tlcache.studies.check import inspect as inspect
from tlcache.studies.check import near_duplicates as near_duplicates
from tlcache.studies.crossval import cross_validate as cross_validate
from tlcache.studies.fewshot import few_shot_curve as few_shot_curve
from tlcache.studies.knn import knn_accuracy as knn_accuracy
from tlcache.studies.sweep import sweep_heads as sweep_heads
from tlcache.trunks.load import load_trunk as load_trunk

__all__: list[str]
__version__: str
