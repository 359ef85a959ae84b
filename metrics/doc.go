// Package metrics holds the instruments of the system, over the OpenTelemetry API only: request durations and token
// counts by the gen_ai semantic conventions, queue, scheduling, fleet and stream figures under rbee_ names, and the
// spans of a request. All names stand in names.go, labels are bounded, and attribute sets are built once. The SDK
// with its exporters is in the nested module prommetrics, for programs; a library or a test passes no-op providers.
package metrics
