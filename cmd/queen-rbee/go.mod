module github.com/queen-rbee/queen-rbee/cmd/queen-rbee

go 1.26.0

require (
	github.com/gliderlabs/ssh v0.3.8
	github.com/goccy/go-yaml v1.19.2
	github.com/mattn/go-sqlite3 v1.14.53
	github.com/queen-rbee/queen-rbee/admission v0.1.0
	github.com/queen-rbee/queen-rbee/admission/sqladmission v0.1.0
	github.com/queen-rbee/queen-rbee/auth v0.1.0
	github.com/queen-rbee/queen-rbee/auth/sqlauth v0.1.0
	github.com/queen-rbee/queen-rbee/eviction v0.1.0
	github.com/queen-rbee/queen-rbee/hivelifecycle v0.1.0
	github.com/queen-rbee/queen-rbee/hivelifecycle/engine v0.1.0
	github.com/queen-rbee/queen-rbee/httpserver v0.1.0
	github.com/queen-rbee/queen-rbee/httpserver/batches v0.1.0
	github.com/queen-rbee/queen-rbee/metrics v0.1.0
	github.com/queen-rbee/queen-rbee/metrics/prommetrics v0.1.0
	github.com/queen-rbee/queen-rbee/monitor v0.1.0
	github.com/queen-rbee/queen-rbee/provisioner v0.1.0
	github.com/queen-rbee/queen-rbee/provisioner/sqlprovisioner v0.1.0
	github.com/queen-rbee/queen-rbee/queue v0.1.0
	github.com/queen-rbee/queen-rbee/queue/sqlitequeue v0.1.0
	github.com/queen-rbee/queen-rbee/registry v0.1.0
	github.com/queen-rbee/queen-rbee/registry/sqliteregistry v0.1.0
	github.com/queen-rbee/queen-rbee/remote v0.1.0
	github.com/queen-rbee/queen-rbee/retry v0.1.0
	github.com/queen-rbee/queen-rbee/router v0.1.0
	github.com/queen-rbee/queen-rbee/scheduler v0.1.0
	github.com/queen-rbee/queen-rbee/scheduler/schedsim v0.1.0
	github.com/queen-rbee/queen-rbee/scheduler/scriptsched v0.1.0
	github.com/queen-rbee/queen-rbee/sserelay v0.1.0
	go.uber.org/goleak v1.3.0
)

require (
	github.com/anmitsu/go-shlex v0.0.0-20200514113438-38f4b401e2be // indirect
	github.com/gpustack/gguf-parser-go v0.28.1 // indirect
	github.com/henvic/httpretty v0.1.4 // indirect
	github.com/json-iterator/go v1.1.12 // indirect
	github.com/modern-go/concurrent v0.0.0-20180306012644-bacd9c7ef1dd // indirect
	github.com/modern-go/reflect2 v1.0.2 // indirect
	github.com/smallnest/ringbuffer v0.0.0-20241116012123-461381446e3d // indirect
	golang.org/x/exp v0.0.0-20241108190413-2d47ceb2692f // indirect
	golang.org/x/mod v0.41.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/time v0.16.0 // indirect
	golang.org/x/tools v0.51.0 // indirect
	gonum.org/v1/gonum v0.17.0 // indirect
)

require (
	al.essio.dev/pkg/shellescape v1.6.1 // indirect
	github.com/beorn7/perks v1.0.1 // indirect
	github.com/cenkalti/backoff/v5 v5.0.3 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/go-logr/logr v1.4.4 // indirect
	github.com/go-logr/stdr v1.2.2 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/gorilla/mux v1.8.1 // indirect
	github.com/grpc-ecosystem/grpc-gateway/v2 v2.30.0 // indirect
	github.com/kevinburke/ssh_config v1.6.0 // indirect
	github.com/kr/fs v0.1.0 // indirect
	github.com/munnerz/goautoneg v0.0.0-20191010083416-a7dc8b61c822 // indirect
	github.com/pkg/sftp v1.13.12 // indirect
	github.com/prometheus/client_golang v1.25.0 // indirect
	github.com/prometheus/client_model v0.6.3 // indirect
	github.com/prometheus/common v0.72.0 // indirect
	github.com/prometheus/otlptranslator v1.0.0 // indirect
	github.com/prometheus/procfs v0.22.0 // indirect
	github.com/queen-rbee/queen-rbee/provisioner/gguf v0.1.0
	github.com/skeema/knownhosts v1.3.3 // indirect
	go.opentelemetry.io/auto/sdk v1.2.1 // indirect
	go.opentelemetry.io/otel v1.47.0 // indirect
	go.opentelemetry.io/otel/exporters/otlp/otlptrace v1.47.0 // indirect
	go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp v1.47.0 // indirect
	go.opentelemetry.io/otel/exporters/prometheus v0.69.0 // indirect
	go.opentelemetry.io/otel/log v1.47.0 // indirect
	go.opentelemetry.io/otel/metric v1.47.0 // indirect
	go.opentelemetry.io/otel/sdk v1.47.0 // indirect
	go.opentelemetry.io/otel/sdk/metric v1.47.0 // indirect
	go.opentelemetry.io/otel/trace v1.47.0 // indirect
	go.opentelemetry.io/proto/otlp v1.11.0 // indirect
	go.starlark.net v0.0.0-20260908191801-89a6a09411d5 // indirect
	golang.org/x/crypto v0.58.0
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	google.golang.org/genproto/googleapis/api v0.0.0-20260928230214-8a89bd6388cc // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260928230214-8a89bd6388cc // indirect
	google.golang.org/grpc v1.83.2 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace (
	github.com/queen-rbee/queen-rbee/admission => ../../admission
	github.com/queen-rbee/queen-rbee/admission/sqladmission => ../../admission/sqladmission
	github.com/queen-rbee/queen-rbee/auth => ../../auth
	github.com/queen-rbee/queen-rbee/auth/sqlauth => ../../auth/sqlauth
	github.com/queen-rbee/queen-rbee/eviction => ../../eviction
	github.com/queen-rbee/queen-rbee/hivelifecycle => ../../hivelifecycle
	github.com/queen-rbee/queen-rbee/hivelifecycle/engine => ../../hivelifecycle/engine
	github.com/queen-rbee/queen-rbee/httpserver => ../../httpserver
	github.com/queen-rbee/queen-rbee/httpserver/batches => ../../httpserver/batches
	github.com/queen-rbee/queen-rbee/metrics => ../../metrics
	github.com/queen-rbee/queen-rbee/metrics/prommetrics => ../../metrics/prommetrics
	github.com/queen-rbee/queen-rbee/monitor => ../../monitor
	github.com/queen-rbee/queen-rbee/provisioner => ../../provisioner
	github.com/queen-rbee/queen-rbee/provisioner/sqlprovisioner => ../../provisioner/sqlprovisioner
	github.com/queen-rbee/queen-rbee/queue => ../../queue
	github.com/queen-rbee/queen-rbee/queue/sqlitequeue => ../../queue/sqlitequeue
	github.com/queen-rbee/queen-rbee/registry => ../../registry
	github.com/queen-rbee/queen-rbee/registry/sqliteregistry => ../../registry/sqliteregistry
	github.com/queen-rbee/queen-rbee/remote => ../../remote
	github.com/queen-rbee/queen-rbee/retry => ../../retry
	github.com/queen-rbee/queen-rbee/router => ../../router
	github.com/queen-rbee/queen-rbee/scheduler => ../../scheduler
	github.com/queen-rbee/queen-rbee/scheduler/schedsim => ../../scheduler/schedsim
	github.com/queen-rbee/queen-rbee/scheduler/scriptsched => ../../scheduler/scriptsched
	github.com/queen-rbee/queen-rbee/sserelay => ../../sserelay
)

replace github.com/queen-rbee/queen-rbee/provisioner/gguf => ../../provisioner/gguf
