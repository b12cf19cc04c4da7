"""Differential fuzzing of `StateManager.update` against an independent model, on a real redis-server.

    python -m tests.fuzzing --seconds 60 --seed 7 --save failing

`tests/store/test_fuzz.py` runs a limited number of cases. Each module imports only from the modules above it:

    values        reads, copies and compares JSON values, with the exact text of each number
    times         spells and reads the time at which a stored text expires
    model         computes the expected result of an update, independent of the library
    documents     draws random documents
    noncanonical  writes JSON as other programs do, and damages it
    operations    draws random operations on a document
    cases         draws, saves and loads cases: a stored text and an update of it
    runner        runs the updates in Redis, many cases for each round trip
    comparison    compares the value, stored text, event and revision with the model
    failures      shrinks and saves failing cases
    loop          runs batches of cases and counts the results
    __main__      the command line
"""

from tests.fuzzing.cases import Case, expect
from tests.fuzzing.comparison import find_mismatch, kept, old_text
from tests.fuzzing.documents import draw_value
from tests.fuzzing.failures import shrink, try_case
from tests.fuzzing.loop import fuzz
from tests.fuzzing.model import Model, pointer, resolve
from tests.fuzzing.noncanonical import BROKEN, encode_noncanonical
from tests.fuzzing.operations import draw_existing, is_wanted
from tests.fuzzing.runner import BATCH, Runner
from tests.fuzzing.values import load

__all__ = [
    "BATCH",
    "BROKEN",
    "Case",
    "Model",
    "Runner",
    "draw_existing",
    "draw_value",
    "encode_noncanonical",
    "expect",
    "find_mismatch",
    "fuzz",
    "is_wanted",
    "kept",
    "load",
    "old_text",
    "pointer",
    "resolve",
    "shrink",
    "try_case",
]
