// Package prommetrics is the OpenTelemetry SDK behind the metrics module: a meter that a Prometheus server scrapes,
// and a tracer that sends spans to an OTLP receiver where one is configured. Only programs import it.
package prommetrics
