"""The parts of the update benchmark: documents, contenders, worst cases, goals, report."""
