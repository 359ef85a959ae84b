package metrics

// The names of all instruments, as OpenTelemetry has them. The Prometheus exporter turns dots into underscores and
// appends the unit, and "_total" to counters; Series lists what then appears on /metrics.
const (
	nameRequestDuration = "gen_ai.server.request.duration"
	nameFirstToken      = "gen_ai.server.time_to_first_token"
	namePerToken        = "gen_ai.server.time_per_output_token"
	nameTokens          = "gen_ai.client.token.usage"
	nameActive          = "rbee_requests_active"
	nameQueueDepth      = "rbee_queue_depth"
	nameQueueWait       = "rbee_queue_wait"
	nameRejected        = "rbee_admission_rejected"
	nameSchedule        = "rbee_schedule_duration"
	nameHiveUp          = "rbee_hive_up"
	nameVRAM            = "rbee_hive_vram"
	nameWorkers         = "rbee_worker_state"
	nameLoad            = "rbee_model_load"
	nameDownload        = "rbee_model_download"
	nameEvictions       = "rbee_evictions"
	nameRetries         = "rbee_retries"
	nameAborted         = "rbee_stream_aborted"
	nameRescues         = "rbee_stream_rescues"
	nameCached          = "rbee_prefix_cached_tokens"
	nameBuild           = "rbee_build_info"
)

// The attribute keys: those of the semantic conventions, and short ones of our own.
const (
	keyOperation = "gen_ai.operation.name"
	keyModel     = "gen_ai.request.model"
	keyProvider  = "gen_ai.provider.name"
	keyTokenType = "gen_ai.token.type"
	keyError     = "error.type"
	keyStatus    = "status"
	keyCode      = "code"
	keyState     = "state"
	keyPriority  = "priority"
	keyHive      = "hive"
	keyName      = "model" // of our own series, which have no semantic convention
	keyDevice    = "device"
	keyOp        = "op"
	keySide      = "side"
	keyKind      = "kind"
	keyAction    = "action"
)

// The names of the spans of a request.
const (
	SpanRequest   = "request"
	SpanAdmit     = "admit"
	SpanQueue     = "queue"
	SpanSchedule  = "schedule"
	SpanProvision = "provision"
	SpanSpawn     = "spawn"
	SpanRelay     = "relay"
)

// Series lists the names on a Prometheus endpoint, histograms without their suffixes: what dashboards and alert rules
// may use.
func Series() []string {
	return []string{
		"gen_ai_server_request_duration_seconds",
		"gen_ai_server_time_to_first_token_seconds",
		"gen_ai_server_time_per_output_token_seconds",
		"gen_ai_client_token_usage",
		"rbee_requests_active",
		"rbee_queue_depth",
		"rbee_queue_wait_seconds",
		"rbee_admission_rejected_total",
		"rbee_schedule_duration_seconds",
		"rbee_hive_up",
		"rbee_hive_vram_bytes",
		"rbee_worker_state",
		"rbee_model_load_seconds",
		"rbee_model_download_bytes_total",
		"rbee_evictions_total",
		"rbee_retries_total",
		"rbee_stream_aborted_total",
		"rbee_stream_rescues_total",
		"rbee_prefix_cached_tokens_total",
		"rbee_build_info",
	}
}
