module github.com/queen-rbee/queen-rbee/cmd/queen-rbee/e2e

go 1.26.0

require github.com/openai/openai-go/v3 v3.96.0

require (
	github.com/coder/websocket v1.8.15 // indirect
	github.com/santhosh-tekuri/jsonschema/v6 v6.0.3 // indirect
	github.com/tidwall/gjson v1.20.0 // indirect
	github.com/tidwall/match v1.1.1 // indirect
	github.com/tidwall/pretty v1.2.1 // indirect
	github.com/tidwall/sjson v1.2.5 // indirect
	golang.org/x/text v0.42.0 // indirect
)

require github.com/queen-rbee/queen-rbee/httpserver/clients v0.1.0

replace (
	github.com/queen-rbee/queen-rbee/httpserver => ../../../httpserver
	github.com/queen-rbee/queen-rbee/httpserver/batches => ../../../httpserver/batches
	github.com/queen-rbee/queen-rbee/httpserver/clients => ../../../httpserver/clients
)
