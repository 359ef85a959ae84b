package httpserver

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/gorilla/mux"
)

// route is one endpoint. The table of routes is what both the mux and the API document are made from.
type route struct {
	method, path string
	summary      string
	run          func(*call) error
	query        string // names of query parameters
	body, answer any    // for the document: a value of the type, or the name of a schema, or nil
	status       int    // of success, 0 = 200
	stream       bool   // may answer with an event stream
	engines      bool   // whatever engines have, not an endpoint of its own
}

// methods are those that the route answers.
func (rt *route) methods() []string {
	if rt.method == http.MethodGet {
		return []string{http.MethodGet, http.MethodHead}
	}
	return []string{rt.method}
}

// ServeHTTP makes a route a mux handler. The server calls run itself, with what it knows about the request.
func (rt *route) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "served through httpserver.Server only", http.StatusInternalServerError)
}

// shown is the path without the mux's patterns.
func (rt *route) shown() string {
	p := rt.path
	for {
		i := strings.IndexByte(p, ':')
		if i < 0 {
			return p
		}
		p = p[:i] + p[i+strings.IndexByte(p[i:], '}'):]
	}
}

// table lists the endpoints, the most used first: the mux tries them in this order.
func (s *Server) table() []*route {
	var all []*route
	all = append(all, jobRoutes()...)
	all = append(all, ollamaRoutes()...)
	all = append(all, fleetRoutes()...)
	all = append(all, engineRoutes()...)
	all = append(all, adminRoutes()...)
	all = append(all, serverRoutes()...)
	all = append(all, batchRoutes()...)
	return append(all, &route{method: "POST", path: "/v1/{rest:.+}", summary: "Any other endpoint of an engine whose JSON or multipart body names a model",
		run: (*call).passThrough, body: "object", answer: "object", stream: true, engines: true})
}

// index asks the mux once for each path that has no pattern: it goes through its routes one by one, and most requests are for
// the first ones. What is not found here is asked of the mux itself.
func (s *Server) index() map[string]map[string]*route {
	found := make(map[string]map[string]*route)
	for _, r := range s.routes {
		for _, method := range r.methods() {
			var m mux.RouteMatch
			if strings.ContainsAny(r.path, "{%") || !s.mux.Match(&http.Request{Method: method, URL: &url.URL{Path: r.path}}, &m) || m.MatchErr != nil || len(m.Vars) > 0 {
				continue
			}
			if rt, ok := m.Handler.(*route); ok {
				if found[method] == nil {
					found[method] = make(map[string]*route)
				}
				found[method][r.path] = rt
			}
		}
	}
	return found
}

// exact finds the route of a path without a pattern; nil says nothing. An encoded path is the mux's.
func (s *Server) exact(r *http.Request) *route {
	if r.URL.RawPath != "" {
		return nil
	}
	return s.plain[r.Method][r.URL.Path]
}

func jobRoutes() []*route {
	return []*route{
		{method: "POST", path: "/v1/chat/completions", summary: "Answer a chat, streaming or not", run: (*call).chat,
			body: "ChatRequest", answer: "ChatCompletion", stream: true},
		{method: "POST", path: "/v1/completions", summary: "Continue a prompt, streaming or not", run: (*call).completions,
			body: "CompletionRequest", answer: "Completion", stream: true},
		{method: "POST", path: "/v1/embeddings", summary: "Embed text", run: (*call).embeddings, body: "EmbeddingRequest", answer: "EmbeddingList"},
		{method: "POST", path: "/v2/tasks", summary: "Run a job: 202, or its event stream with Accept: text/event-stream",
			run: (*call).newTask, body: "Task", answer: accepted{}, status: http.StatusAccepted, stream: true},
		{method: "GET", path: "/v2/tasks/{job_id}/events", summary: "A job's events after Last-Event-ID, live or later",
			run: (*call).taskEvents, query: "format", stream: true},
		{method: "GET", path: "/v2/tasks/{job_id}", summary: "One job", run: (*call).getTask, query: "explain", answer: JobRecord{}},
		{method: "DELETE", path: "/v2/tasks/{job_id}", summary: "Cancel a job", run: (*call).cancelTask, answer: cancelled{}, status: http.StatusAccepted},
		{method: "GET", path: "/v2/tasks", summary: "List jobs", run: (*call).listTasks, query: "state,model,priority,tenant,limit,cursor", answer: jobList{}},
		{method: "GET", path: "/v1/models", summary: "List models", run: (*call).models, answer: openaiModels{}},
		{method: "GET", path: "/v1/models/{id:.+}", summary: "One model", run: (*call).model, answer: openaiModel{}},
	}
}

func ollamaRoutes() []*route {
	return []*route{
		{method: "POST", path: "/api/chat", summary: "Ollama: chat", run: (*call).ollamaChat, body: ollamaRequest{}, answer: "object", stream: true},
		{method: "POST", path: "/api/generate", summary: "Ollama: generate", run: (*call).ollamaGenerate, body: ollamaRequest{}, answer: "object", stream: true},
		{method: "POST", path: "/api/embed", summary: "Ollama: embed", run: (*call).ollamaEmbed, body: "object", answer: "object"},
		{method: "POST", path: "/api/embeddings", summary: "Ollama: embed one prompt", run: (*call).ollamaEmbeddings, body: "object", answer: "object"},
		{method: "GET", path: "/api/tags", summary: "Ollama: list models", run: (*call).ollamaTags, answer: "object"},
		{method: "GET", path: "/api/ps", summary: "Ollama: list loaded models", run: (*call).ollamaPs, answer: "object"},
		{method: "POST", path: "/api/show", summary: "Ollama: show a model", run: (*call).ollamaShow, body: "object", answer: "object"},
		{method: "POST", path: "/api/pull", summary: "Ollama: download a model", run: (*call).ollamaPull, body: "object", answer: "object", stream: true},
		{method: "GET", path: "/api/version", summary: "Ollama: the API's version", run: (*call).ollamaVersion, answer: "object"},
	}
}

func fleetRoutes() []*route {
	return []*route{
		{method: "GET", path: "/v2/workers/list", summary: "List workers", run: (*call).listWorkers, query: "node", answer: workerList{}},
		{method: "GET", path: "/v2/workers/health", summary: "The workers' health", run: (*call).workersHealth, query: "node", answer: healthList{}},
		{method: "POST", path: "/v2/workers/spawn", summary: "Start a worker", run: (*call).spawn, body: SpawnRequest{}, answer: Spawned{}, status: http.StatusAccepted},
		{method: "POST", path: "/v2/workers/shutdown", summary: "Stop a worker, after its jobs unless drain is false", run: (*call).shutdownWorker,
			body: shutdownWorker{}, answer: "object", status: http.StatusAccepted},
		{method: "POST", path: "/v2/workers/register", summary: "Report a worker that the queen did not start", run: (*call).registerWorker, body: Worker{}, answer: "object"},
		{method: "GET", path: "/v2/registry/beehives/list", summary: "List hives", run: (*call).listHives, answer: nodeList{}},
		{method: "POST", path: "/v2/registry/beehives/add", summary: "Add a hive after testing the connection to it", run: (*call).addHive,
			body: NewHive{}, answer: Hive{}, status: http.StatusCreated},
		{method: "POST", path: "/v2/registry/beehives/remove", summary: "Remove a hive", run: (*call).removeHive, body: nodeName{}, answer: "object"},
		{method: "POST", path: "/v2/hives/{node}/start", summary: "Start a hive", run: (*call).startHive, answer: started{}, status: http.StatusAccepted},
		{method: "POST", path: "/v2/hives/{node}/stop", summary: "Stop a hive", run: (*call).stopHive, answer: started{}, status: http.StatusAccepted},
		{method: "POST", path: "/v2/hives/{node}/drain", summary: "Send nothing new to a hive and wait for what runs there", run: (*call).drainHive, answer: started{}, status: http.StatusAccepted},
		{method: "POST", path: "/v2/hives/{node}/upgrade", summary: "Replace a hive's program in place", run: (*call).upgradeHive, answer: started{}, status: http.StatusAccepted},
		{method: "POST", path: "/v2/hives/{node}/heartbeat", summary: "A report of a hive that the queen did not start", run: (*call).heartbeat, body: "object", answer: "object"},
		{method: "GET", path: "/v2/models/list", summary: "Models per hive", run: (*call).modelsOnHives, query: "node", answer: modelList{}},
		{method: "GET", path: "/v2/models/catalog", summary: "All models", run: (*call).catalog, answer: modelList{}},
		{method: "POST", path: "/v2/models/download", summary: "Download a model to a hive", run: (*call).download, body: modelOnNode{}, answer: downloading{}, status: http.StatusAccepted},
		{method: "DELETE", path: "/v2/models", summary: "Drop a model's files from a hive", run: (*call).evictModel, body: modelOnNode{}, answer: "object"},
		{method: "PUT", path: "/v2/models/{name}", summary: "Add or change a model entry", run: (*call).putModel, body: "object", answer: Model{}},
		{method: "DELETE", path: "/v2/models/{name}", summary: "Remove a model entry that was added at run time", run: (*call).deleteModel, answer: "object"},
		{method: "GET", path: "/v2/operations/{id}/events", summary: "Progress of a download, a start or a stop", run: (*call).operationEvents, stream: true},
		{method: "DELETE", path: "/v2/operations/{id}", summary: "Cancel a download; what was fetched stays for the next time", run: (*call).cancelOperation, answer: "object", status: http.StatusAccepted},
	}
}

func adminRoutes() []*route {
	return []*route{
		{method: "GET", path: "/v2/logs", summary: "Logs of hives and workers, as text or as events", run: (*call).logs, query: "node,worker_id,follow,tail", answer: "text", stream: true},
		{method: "GET", path: "/v2/events", summary: "Everything that changes in the fleet", run: (*call).events, stream: true},
		{method: "GET", path: "/v2/scheduler/policy", summary: "The scheduling policy", run: (*call).getPolicy, answer: Policy{}},
		{method: "PUT", path: "/v2/scheduler/policy", summary: "Change the scheduling policy", run: (*call).putPolicy, body: newPolicy{}, answer: Policy{}},
		{method: "POST", path: "/v2/scheduler/dry-run", summary: "Decide sample jobs without running them", run: (*call).dryRun, body: "DryRun", answer: decisionList{}},
		{method: "POST", path: "/v2/scheduler/replay", summary: "Decide recorded decisions again with another policy", run: (*call).replay, body: "object", answer: "object"},
		{method: "GET", path: "/v2/tenants", summary: "Tenants with limits and usage", run: (*call).listTenants, answer: tenantList{}},
		{method: "PUT", path: "/v2/tenants/{id}", summary: "Set a tenant's limits", run: (*call).putTenant, body: newTenant{}, answer: Tenant{}},
		{method: "POST", path: "/v2/keys", summary: "Make a key; it is shown once", run: (*call).createKey, body: NewKey{}, answer: Key{}, status: http.StatusCreated},
		{method: "GET", path: "/v2/keys", summary: "List keys", run: (*call).listKeys, answer: keyList{}},
		{method: "DELETE", path: "/v2/keys/{id}", summary: "Revoke a key", run: (*call).revokeKey, answer: "object"},
		{method: "GET", path: "/v2/doctor", summary: "Checks of the installation, each with a remedy", run: (*call).doctor, answer: checkList{}},
		{method: "POST", path: "/v2/admin/shutdown", summary: "Drain and end", run: (*call).shutdown, body: "Shutdown", answer: "object", status: http.StatusAccepted},
	}
}

func serverRoutes() []*route {
	return []*route{
		{method: "GET", path: "/health", summary: "Alive", run: (*call).health, answer: "object"},
		{method: "GET", path: "/ready", summary: "Ready for requests", run: (*call).ready, answer: "object"},
		{method: "GET", path: "/metrics", summary: "Prometheus metrics", run: (*call).metrics, answer: "text"},
		{method: "GET", path: "/metrics/engines", summary: "Relayed engine metrics", run: (*call).engineMetrics, answer: "text"},
		{method: "GET", path: "/metrics/targets", summary: "Prometheus http_sd targets", run: (*call).targets, answer: []Target{}},
		{method: "GET", path: "/openapi.json", summary: "This document", run: (*call).openapi, answer: "object"},
		{method: "GET", path: "/docs", summary: "The API as a page", run: (*call).docs, answer: "html"},
		{method: "GET", path: "/", summary: "A line for programs; browsers go to /ui/", run: (*call).root, answer: "text"},
		{method: "GET", path: "/ui", summary: "To the console", run: (*call).toUI, status: http.StatusFound},
		{method: "GET", path: "/ui/{rest:.*}", summary: "The console", run: (*call).ui, answer: "html"},
	}
}

func batchRoutes() []*route {
	return []*route{
		{method: "POST", path: "/v1/files", summary: "Upload a file for a batch", run: (*call).batches, body: "form", answer: "object"},
		{method: "GET", path: "/v1/files", summary: "List files", run: (*call).batches, query: "purpose,limit,after,order", answer: "object"},
		{method: "GET", path: "/v1/files/{file_id}", summary: "One file", run: (*call).batches, answer: "object"},
		{method: "GET", path: "/v1/files/{file_id}/content", summary: "A file's content", run: (*call).batches, answer: "text"},
		{method: "DELETE", path: "/v1/files/{file_id}", summary: "Delete a file", run: (*call).batches, answer: "object"},
		{method: "POST", path: "/v1/batches", summary: "Begin a batch", run: (*call).batches, body: "object", answer: "object"},
		{method: "GET", path: "/v1/batches", summary: "List batches", run: (*call).batches, query: "limit,after", answer: "object"},
		{method: "GET", path: "/v1/batches/{batch_id}", summary: "One batch", run: (*call).batches, answer: "object"},
		{method: "POST", path: "/v1/batches/{batch_id}/cancel", summary: "Cancel a batch", run: (*call).batches, answer: "object"},
	}
}

// batches hands /v1/files and /v1/batches to the module that keeps them.
func (c *call) batches() error { return c.handOver(c.s.o.Batches, "files and batches") }
