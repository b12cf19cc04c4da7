"""Differential fuzzing of `StateManager.update` against an independent model, on a real redis-server.

    python -m tests.fuzzing --seconds 60 --seed 7 --save failing

`tests/store/test_fuzz.py` runs a bounded slice. The modules, each of which imports only from those above it:

    values        JSON values to the last digit: read, copied, compared
    model         what must come out of an update; none of our code
    documents     random documents
    noncanonical  JSON as other programs write it, and what is JSON no more
    operations    random operations on a document
    cases         a stored text and an update of it: drawn, saved, loaded
    runner        does the same in Redis, many cases per round trip
    verdict       compares value, stored text, event and revision, or that a refused call changed nothing
    failures      makes a failing case small and saves it
    campaign      batch after batch, and the tally
    __main__      the command
"""

from tests.fuzzing.campaign import fuzz
from tests.fuzzing.cases import Case, expect
from tests.fuzzing.documents import draw_value
from tests.fuzzing.failures import shrink, try_case
from tests.fuzzing.model import Model, pointer, resolve
from tests.fuzzing.noncanonical import BROKEN, encode_noncanonical
from tests.fuzzing.operations import draw_existing, is_wanted
from tests.fuzzing.runner import BATCH, Runner
from tests.fuzzing.values import load
from tests.fuzzing.verdict import judge, kept, old_text

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
    "fuzz",
    "is_wanted",
    "judge",
    "kept",
    "load",
    "old_text",
    "pointer",
    "resolve",
    "shrink",
    "try_case",
]
