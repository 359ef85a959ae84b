# queen-rbee: everything a developer runs. Modules are found with `go list -m`: a new one needs no edit here.
SHELL      := /bin/bash
MODULES     = $(shell go list -m -f '{{.Dir}}')
BIN        := $(CURDIR)/bin
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS    := -s -w -X main.version=$(VERSION)
FUZZTIME   ?= 60s
# Under RBEE_CI a module's test binaries run one after another less often: two cores, real servers.
TESTFLAGS  ?= -count=1 -timeout 15m

.PHONY: help build bundle release run test test-long test-race deps bench bench-queue bench-scheduler consumer-test lint fuzz tidy clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

build: ## Build queen-rbee, rbee-hive and rbee into bin/
	@mkdir -p $(BIN)
	go build -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/queen-rbee ./cmd/rbee-hive ./cmd/rbee

bundle: ## Cross-compile rbee-hive for other machines into bin/bundle
	@.ci/bundle $(BIN)/bundle '$(LDFLAGS)'

run: build ## Start everything on this machine and show one streamed answer
	@.ci/demo

release: ## Pack this platform's release into dist/: archive, checksums, install.sh
	@.ci/release dist '$(LDFLAGS)'

test: ## Every module's tests; says what was skipped and why
	@.ci/test $(TESTFLAGS)

test-race: ## The libraries under the race detector (the programs are tested as processes: it would not see into them)
	@RBEE_EXCEPT='^cmd/queen-rbee|^cmd/rbee$$|/clients$$' .ci/test -race $(TESTFLAGS)

test-long: ## The long fault rows (kill loops, power cuts, fuzz slices), one line per row
	@RBEE_LONG=1 .ci/test -count=1 -timeout 60m -v -run 'TestFault|TestLong'

deps: ## Install what the optional tests need (Debian, npm)
	@.ci/deps

bench: bench-queue bench-scheduler ## Every benchmark with its anchors
bench-queue: ## Queue figures beside goqite and River
	@queue/bench/run.sh
bench-scheduler: ## Scheduler tables over the traces
	@scheduler/bench.sh

consumer-test: ## An outside program per module, through a file:// module proxy
	@cd .ci/consumertest && GOWORK=off GOFLAGS= go run . -root $(CURDIR)

lint: ## gofmt, vet, tidy, star check, staticcheck
	@.ci/lint

fuzz: ## Every fuzz target for FUZZTIME each
	@.ci/fuzz $(FUZZTIME)

tidy: ## go mod tidy in every module
	@for d in $(MODULES); do (cd $$d && GOWORK=off go mod tidy) || exit 1; done; go work sync

clean: ## Remove build output
	rm -rf $(BIN) dist
