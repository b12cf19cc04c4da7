"""OpenTelemetry: spans across processes, and the numbers of a process as metrics. Extra `telemetry`."""

from motia_redis._telemetry.switching import disable, enable, observe

__all__ = ["disable", "enable", "observe"]
