"""OpenTelemetry's protocol (OTLP over HTTP): requests into spans and log records, and the answers it asks for."""
