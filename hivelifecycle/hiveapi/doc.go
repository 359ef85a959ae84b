// Package hiveapi holds what a queen and a hive say to each other: the wire types of the hive's HTTP API and a client
// for it. The server side lives in cmd/rbee-hive and uses the same types. The package imports the standard library
// only, so that a monitor, a script or another scheduler can watch a hive without pulling in anything else.
package hiveapi

// The paths of the API. Everything but PathHealth needs the hive's bearer token.
const (
	PathHealth         = "/v1/health"
	PathStatus         = "/v1/status"
	PathWatch          = "/v1/watch"
	PathSpawn          = "/v1/workers/spawn"
	PathWorkers        = "/v1/workers/list"
	PathWorkerReady    = "/v1/workers/ready"
	PathWorkerShutdown = "/v1/workers/shutdown"
	PathProvision      = "/v1/models/provision"
	PathModels         = "/v1/models/list"
	PathEvict          = "/v1/models/evict"
	PathEngines        = "/v1/engines"
	PathEngineInstall  = "/v1/engines/install"
	PathEngineUse      = "/v1/engines/use"
	PathEngineBundle   = "/v1/engines/bundle/" // + NAME
	PathEngineRemove   = "/v1/engines/remove"
	PathLogs           = "/v1/logs"
	PathMetrics        = "/v1/metrics"
	PathShutdown       = "/v1/admin/shutdown"
	PathLogLevel       = "/v1/admin/log-level"
	PathFiles          = "/v1/files/"
)
