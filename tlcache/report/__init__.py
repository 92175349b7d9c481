"""One self-contained HTML page of runs or of a benchmark, from plain values and arrays.

The page holds its own style, script and pictures, and its content security policy forbids it to
load anything else. Names of files and classes are hostile text to it. Trains and scores nothing.
"""

from tlcache.report.bench import bench_page as bench_page
from tlcache.report.page import MAX_BYTES as MAX_BYTES
from tlcache.report.page import check_output as check_output
from tlcache.report.page import save_page as save_page
from tlcache.report.records import RunRecord as RunRecord
from tlcache.report.records import read_record as read_record
from tlcache.report.runs import Material as Material
from tlcache.report.runs import map_rows as map_rows
from tlcache.report.runs import runs_page as runs_page
