"""OpenTelemetry: spans and metrics of this process. Imported only when telemetry is switched on."""
