"""The parts of `growth`: filling, the series that are measured, the processes of the workers, the report."""
