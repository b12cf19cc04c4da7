"""placeholder until helper edges' module is merged"""
from __future__ import annotations
import traceback
from typing import NamedTuple

class Fault(NamedTuple):
    type: str
    text: str
    traceback: str

def describe(error: BaseException) -> Fault:
    return Fault(type(error).__name__, str(error)[:4000], "".join(traceback.format_exception(error)))
