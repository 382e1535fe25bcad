# Odin's house-keeping. `make` alone lists the targets.

SHELL       := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS   := -s -w -X main.version=$(VERSION)
BIN       := bin/odin
TOOLS     := $(CURDIR)/.tools
# What is built depends on the source, VERSION and the toolchain, and on nothing
# else (make repro): not on where it lies, nor on whether git is there.
BUILD     := env -u GOFLAGS go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
ARGS      ?=
FUZZTIME  ?= 20s
BENCHTIME ?= 1s

# Tools are pinned; `make tools` builds them into .tools through the Go module proxy.
GOLANGCI_VERSION    := v2.15.0
GOVULNCHECK_VERSION := v1.9.0
CYCLONEDX_VERSION   := v1.10.0
GORELEASER_VERSION  := v2.14.3

# Modules of their own, so that what they need is in nobody's binary.
BENCH_MODULES := bench/peers bench/plot
TOOL_MODULES  := tools/licences tools/manifests

# Everything is built without cgo, as the binary is shipped. Only the race
# detector needs it, so a C compiler and its headers; without them the tests run
# all the same.
export CGO_ENABLED := 0
CAN_RACE = printf '\043include <stdlib.h>\n' | $$(go env CC) -E -x c - >/dev/null 2>&1

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/odin, one static binary
	$(BUILD) -o $(BIN) ./cmd/odin

.PHONY: run
run: build ## Build and run a gateway with a demo market (ARGS='…' for more flags)
	@echo "odin, below, is ./$(BIN) here. Ctrl-C stops it."
	@$(BIN) serve --demo $(ARGS)

.PHONY: test
test: ## Run every Go test, shuffled; under the race detector all but e2e, whose clients must keep pace, and tools, which have one goroutine
	@if $(CAN_RACE); then export CGO_ENABLED=1; race=-race; \
	else race=; echo 'note: no C compiler here: testing without the race detector'; fi; \
	go test $$race -shuffle=on -timeout 12m $$(go list ./... | grep -v /e2e$$); \
	go test -shuffle=on -timeout 12m ./e2e; \
	(cd clients/go && go test $$race -shuffle=on -timeout 3m ./...); \
	(cd e2e/faults && go test $$race -shuffle=on ./...); \
	for m in $(TOOL_MODULES); do (cd $$m && go test -shuffle=on ./...); done
	@$(MAKE) --no-print-directory e2e-missing

.PHONY: check
check: tidy-diff fmt vet lint imports licences-check repro e2e-deps test test-debug clients-js page-check vuln ## Everything CI checks (.ci/run) but for fuzzing
	@echo 'check: all passed'

.PHONY: tidy-diff
tidy-diff: ## Fail if go.mod or go.sum is not tidy
	go mod tidy -diff
	cd clients/go && go mod tidy -diff
	cd e2e/faults && go mod tidy -diff
	@for m in $(BENCH_MODULES) $(TOOL_MODULES); do (cd $$m && go mod tidy -diff); done

.PHONY: fmt
fmt: ## Fail if a Go file is not gofmt-ed
	@bad=$$(gofmt -l $$(find . -name '*.go' -not -path './.tools/*' -not -path '*/node_modules/*')); \
	if [ -n "$$bad" ]; then echo "not gofmt-ed:"; echo "$$bad"; exit 1; fi

.PHONY: vet
vet: ## Run go vet, with and without the debug build tag
	go vet ./...
	go vet -tags bufpooldebug ./bufpool
	GOARCH=arm64 go vet ./netpoll/... ./capacity ./internal/tlsrec ./gateway/secure ./bufpool
	cd clients/go && go vet ./...
	cd e2e/faults && go vet ./...
	@for m in $(BENCH_MODULES) $(TOOL_MODULES); do (cd $$m && go vet ./...); done

.PHONY: lint
lint: ## Run golangci-lint where it is installed (make tools)
	@if [ -x $(TOOLS)/golangci-lint ]; then lint=$(TOOLS)/golangci-lint; \
	elif command -v golangci-lint >/dev/null; then lint=golangci-lint; \
	else lint=; fi; \
	if [ -n "$$lint" ]; then $$lint run && (cd clients/go && $$lint run) && (cd e2e/faults && $$lint run) && for m in $(TOOL_MODULES); do (cd $$m && $$lint run) || exit 1; done; \
	else echo 'note: golangci-lint is not installed: not linted (make tools)'; fi

.PHONY: imports
imports: ## Check the directions of imports
	go test ./internal/archtest

.PHONY: test-debug
test-debug: ## Run the tests with pooled buffers poisoned and double puts caught
	go test -tags bufpooldebug -timeout 5m ./bufpool ./gateway ./gateway/wire

.PHONY: metrics-check
metrics-check: ## Check alerts, their tests, dashboard and runbook against the metrics (promtool, prometheus)
	go test -count=1 -run '^(TestAlerts|TestDashboard|TestPromtool|TestMetrics.*)$$' ./gateway
	go test -count=1 -run '^TestPrometheus$$' ./e2e
	@$(MAKE) --no-print-directory e2e-missing

.PHONY: vuln
vuln: ## Run govulncheck where its database can be reached
	@if [ -x $(TOOLS)/govulncheck ]; then vuln=$(TOOLS)/govulncheck; \
	elif command -v govulncheck >/dev/null; then vuln=govulncheck; \
	else echo 'note: govulncheck is not installed: not checked for known vulnerabilities (make tools)'; exit 0; fi; \
	out=$$($$vuln ./... 2>&1) && { echo 'govulncheck: nothing known'; exit 0; }; \
	if grep -q 'fetching vulnerabilities' <<<"$$out"; then \
	  echo 'note: the vulnerability database cannot be reached from here: not checked for known vulnerabilities'; \
	else echo "$$out"; exit 1; fi

# What the binary and the Go client are built from.
LICENSED := ../..:./cmd/odin ../../clients/go:.

.PHONY: licences
licences: ## List the licences of what is built in (docs/licences.md); fail on one that is not allowed
	go run -C tools/licences . -out $(CURDIR)/docs/licences.md $(LICENSED)

.PHONY: licences-check
licences-check: ## Fail if docs/licences.md is out of date or a licence is not allowed
	@go run -C tools/licences . -check -out $(CURDIR)/docs/licences.md $(LICENSED)

.PHONY: repro
repro: build ## Fail unless a build elsewhere, with an empty cache and without git, gives the same binary
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; src=$$dir/elsewhere/src; mkdir -p $$src; \
	git ls-files -z --cached --others --exclude-standard | tar -c --null --ignore-failed-read -T - 2>/dev/null | tar -x -C $$src; \
	export GOPATH=$$(go env GOPATH) GOMODCACHE=$$(go env GOMODCACHE) GOPROXY=$$(go env GOPROXY); \
	(cd $$src && umask 077 && TZ=Asia/Tokyo HOME=$$dir GOCACHE=$$dir/cache $(BUILD) -o $$dir/odin ./cmd/odin); \
	cmp $(BIN) $$dir/odin || { echo 'make repro: the two builds differ (go version -m, diffoscope)'; exit 1; }; \
	echo "repro: both are $$(sha256sum <$(BIN) | cut -c1-64), $$(go env GOVERSION)"

.PHONY: sbom
sbom: build sbom-tool ## Write bin/odin.cdx.json, a CycloneDX list of what the binary is made of
	@$(TOOLS)/cyclonedx-gomod bin -json -std -noserial -notimestamp -version $(VERSION) -output bin/odin.cdx.json $(BIN)
	@has=$$(go version -m $(BIN) | awk '$$1 == "dep" {print $$2 "@" $$3}'); \
	for m in $$has; do grep -qF "\"bom-ref\": \"pkg:golang/$$m" bin/odin.cdx.json || { echo "sbom: $$m is missing"; exit 1; }; done; \
	echo "sbom: bin/odin.cdx.json, $$(wc -w <<<"$$has") modules and Go's standard library"

.PHONY: sbom-tool
sbom-tool: ## Build the pinned cyclonedx-gomod into .tools
	@[ "$$(go version -m $(TOOLS)/cyclonedx-gomod 2>/dev/null | awk '$$1 == "mod" {print $$3}')" = $(CYCLONEDX_VERSION) ] || \
	  GOBIN=$(TOOLS) go install github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@$(CYCLONEDX_VERSION)

# A release (.goreleaser.yaml). goreleaser is large, and built for this alone.
GORELEASER := $(TOOLS)/goreleaser

.PHONY: goreleaser
goreleaser: ## Build the pinned goreleaser into .tools (some minutes)
	@[ "$$(go version -m $(GORELEASER) 2>/dev/null | awk '$$1 == "mod" {print $$3}')" = $(GORELEASER_VERSION) ] || \
	  GOBIN=$(TOOLS) go install github.com/goreleaser/goreleaser/v2@$(GORELEASER_VERSION)

# What goes into the archives and packages beside the binary.
.PHONY: release-files
release-files: build ## Write bin/release: what goes into archives and packages beside the binary
	@mkdir -p bin/release/completions
	@$(BIN) completion bash >bin/release/completions/odin.bash
	@$(BIN) completion zsh >bin/release/completions/_odin
	@$(BIN) completion fish >bin/release/completions/odin.fish
	@$(BIN) config print --defaults >bin/release/odin.yaml
	@go run -C tools/licences . -texts $(CURDIR)/bin/release/LICENCES.txt ../..:./cmd/odin

.PHONY: release
release: goreleaser sbom-tool ## Release the tag that is checked out (GITHUB_TOKEN; see .github/workflows/release.yml)
	PATH=$(TOOLS):$$PATH $(GORELEASER) release --clean

.PHONY: release-snapshot
release-snapshot: goreleaser sbom-tool ## Make the files of a release in dist/, without image, and publish nothing (10 min the first time)
	$(GORELEASER) check
	PATH=$(TOOLS):$$PATH $(GORELEASER) release --snapshot --clean --skip=publish,docker

.PHONY: tools
tools: ## Build the pinned linter and govulncheck into .tools
	@mkdir -p $(TOOLS)
	@have() { go version -m $(TOOLS)/$$1 2>/dev/null | awk '$$1 == "mod" {print $$3}'; }; \
	[ "$$(have golangci-lint)" = $(GOLANGCI_VERSION) ] || \
	  GOBIN=$(TOOLS) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION); \
	[ "$$(have govulncheck)" = $(GOVULNCHECK_VERSION) ] || \
	  GOBIN=$(TOOLS) go install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)

.PHONY: e2e-deps
e2e-deps: ## Install the npm client the tests talk to (needs Node.js)
	@if ! command -v npm >/dev/null; then echo 'note: npm is not installed: the npm client will not be tested'; \
	elif [ e2e/js/node_modules/.package-lock.json -nt e2e/js/package-lock.json ]; then :; \
	else cd e2e/js && npm ci --loglevel=error --no-audit --no-fund && touch node_modules/.package-lock.json; fi

.PHONY: e2e-missing
e2e-missing: ## Name what the tests would need here, and skip without
	@[ -d e2e/js/node_modules/ws ] || echo 'note: the npm client was not tested: e2e/js/node_modules is missing (make e2e-deps)'
	@command -v npm >/dev/null || echo 'note: the TypeScript client was not tested: npm is not installed'
	@[ -x /usr/sbin/haproxy ] || command -v haproxy >/dev/null || echo 'note: the rolling restart was not tested: no HAProxy here (Debian: apt-get install haproxy)'
	@command -v buildah >/dev/null && command -v runc crun >/dev/null || echo 'note: the container image was not tested: no buildah or OCI runtime here (Debian: apt-get install buildah runc busybox-static iproute2)'
	@unshare -n true 2>/dev/null || unshare -rn true 2>/dev/null || echo 'note: the commands of the documents were not typed: no network namespace can be made here (root, or user namespaces)'
	@command -v prometheus promtool >/dev/null || echo 'note: alerts and dashboard were not tested: no Prometheus here (Debian: apt-get install prometheus)'
	@command -v chromium chromium-browser google-chrome >/dev/null || echo 'note: the browser was not tested: no Chromium here (Debian: apt-get install chromium)'

.PHONY: clients
clients: clients-go clients-js ## Build and test the client libraries, Go and TypeScript

.PHONY: clients-go
clients-go: build ## Build and test the client for Go, against a fake server and the binary
	@if $(CAN_RACE); then export CGO_ENABLED=1; race=-race; else race=; fi; \
	cd clients/go && go vet ./... && ODIN_BIN=$(CURDIR)/$(BIN) go test $$race -count=1 -shuffle=on -timeout 3m ./...

.PHONY: clients-js-deps
clients-js-deps: ## Install what the TypeScript client is built and tested with (npm)
	@if ! command -v npm >/dev/null; then \
	  if [ -n "$${ODIN_REQUIRE_JS:-}" ]; then echo 'npm is not installed'; exit 1; fi; \
	  echo 'note: npm is not installed: the TypeScript client is not tested'; \
	elif [ clients/js/node_modules/.package-lock.json -nt clients/js/package-lock.json ]; then :; \
	else cd clients/js && npm ci --loglevel=error --no-audit --no-fund && touch node_modules/.package-lock.json; fi

.PHONY: clients-js
clients-js: clients-js-deps build ## The same for TypeScript (Node.js 20)
	@if command -v npm >/dev/null; then \
	  cd clients/js && npm run --silent build && log=$$(mktemp); trap "rm -f $$log" EXIT; \
	  ODIN_BIN=$(CURDIR)/$(BIN) npm test --silent >$$log 2>&1 && grep -E "^ℹ (tests|pass|skipped)" $$log || { cat $$log; exit 1; }; fi

.PHONY: page-deps
page-deps: ## Install what the status page is built and tested with (npm)
	@if ! command -v npm >/dev/null; then \
	  if [ -n "$${ODIN_REQUIRE_JS:-}" ]; then echo 'npm is not installed'; exit 1; fi; \
	  echo 'note: npm is not installed: the status page is neither compared with its source nor tested'; \
	elif [ web/node_modules/.package-lock.json -nt web/package-lock.json ]; then :; \
	else cd web && npm ci --loglevel=error --no-audit --no-fund && touch node_modules/.package-lock.json; fi

.PHONY: page
page: page-deps ## Build the status page, web/src to web/dist, which is committed
	cd web && npm run --silent build

.PHONY: page-check
page-check: page-deps build ## Fail if web/dist differs from a fresh build; test the page in Chromium
	@if ! command -v npm >/dev/null; then :; \
	elif ! node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || a == 20 && b >= 19 ? 0 : 1)'; then \
	  echo "note: the page's source needs Node.js 20.19, here is $$(node --version): web/dist is not compared with it, nor tested"; \
	else \
	  dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; cd web; \
	  npm run --silent build -- --logLevel warn --emptyOutDir --outDir "$$dir/dist"; \
	  diff -r dist "$$dir/dist" >/dev/null || { echo 'web/dist is not what web/src builds to: make page, and commit it'; diff -rq dist "$$dir/dist"; exit 1; }; \
	  ODIN_BIN=$(CURDIR)/$(BIN) npm test --silent >"$$dir/log" 2>&1 && grep -E "^ℹ (tests|pass|skipped)" "$$dir/log" || { cat "$$dir/log"; exit 1; }; fi

.PHONY: e2e-clients
e2e-clients: e2e-deps ## Test with independent clients: two in Go, npm ws, headless Chromium
	go test -count=1 -v -run '^TestClient' ./e2e
	@$(MAKE) --no-print-directory e2e-missing

.PHONY: autobahn
autobahn: build ## Run the Autobahn suite's cases against --echo: by our runner, and by wstest or its image if there (1 to 5 min)
	go run ./e2e/autobahn --odin $(BIN) --out docs/results/autobahn.md $(ARGS)

.PHONY: e2e-replay
e2e-replay: ## Replay both full recordings in real time to 110 clients, every byte checked (2 min)
	ODIN_LONG=1 go test -count=1 -v -timeout 15m -run '^TestReplay' ./e2e

.PHONY: e2e-density
e2e-density: ## 10 000 connections: goroutines, memory and CPU of each
	go test -count=1 -v -timeout 10m -run '^TestTenThousand' ./e2e

CONNECTIONS ?= 10000
DURATION    ?= 240

.PHONY: stress
stress: build ## Load a running gateway (CONNECTIONS=10000 DURATION=240 ARGS='--check --publish-rate 50')
	@$(BIN) stress --connections $(CONNECTIONS) --duration $(DURATION)s $(ARGS)

.PHONY: e2e-oom
e2e-oom: build ## Prove the formula in a cgroup: all clients stall (v1, root, 5 min)
	go build -trimpath -o bin/oom ./e2e/oom
	bin/oom v1 --odin $(BIN) --out docs/results/e2e-oom.md

.PHONY: e2e-vm
e2e-vm: build ## The same under cgroup v2's OOM killer, in an emulated machine (root, qemu)
	go build -trimpath -o bin/oom ./e2e/oom
	bin/oom vm --odin $(BIN) --out docs/results/e2e-vm.md

.PHONY: e2e-ktls
e2e-ktls: build ## TLS by the kernel, in an emulated machine: its tests, what it costs beside plain (root, qemu, 10 min)
	go build -trimpath -o bin/oom ./e2e/oom
	go test -c -trimpath -o bin/tlsrec.test ./internal/tlsrec; go test -c -trimpath -o bin/gateway.test ./gateway
	bin/oom ktls --odin $(BIN) --out docs/results/e2e-ktls.md

.PHONY: e2e-image
e2e-image: build ## Build the container image and run it in 512 MiB: read-only root, no capabilities (root, buildah, runc; 1 min)
	go build -trimpath -o bin/image ./e2e/image
	bin/image --odin $(BIN) --out docs/results/e2e-image.md $(ARGS)

.PHONY: e2e-faults
e2e-faults: build faults-bin ## Break what is around it: kills, partitions, full disks, drains (root, haproxy, 25 min; ARGS='--only NAME')
	bin/faults --odin $(BIN) --out docs/results/e2e-faults.md $(ARGS)

.PHONY: e2e-hostile
e2e-hostile: build faults-bin ## Let clients break it: half frames, floods, storms, failing system calls (root, strace, 15 min; ARGS='--only NAME')
	bin/faults --hostile --odin $(BIN) --out docs/results/e2e-hostile.md $(ARGS)

.PHONY: faults-bin
faults-bin: ## Build bin/faults and bin/nats-server, for e2e-faults and e2e-hostile
	go build -trimpath -o bin/nats-server github.com/nats-io/nats-server/v2
	go build -C e2e/faults -trimpath -o $(CURDIR)/bin/faults .

.PHONY: fuzz
fuzz: ## Fuzz every fuzz target for FUZZTIME (20s) each (ARGS='-parallel 1')
	@for dir in $$(grep -rl --include='*_test.go' --exclude-dir=.tools --exclude-dir=node_modules '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
	  for f in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$dir/*_test.go); do \
	    echo "$$dir $$f"; go -C $$dir test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x $(ARGS) .; \
	  done; \
	done

# What servers cost, measured in turn (odin bench --help). RIVAL='name=command' adds
# one; uWebSockets is, once it has been built.
RESULTS := docs/results
RIVAL   ?= $(if $(wildcard bin/uws),uws=bin/uws {port} {control_port} {size})
RIVALS  := $(if $(RIVAL),--rival '$(RIVAL)')

.PHONY: bench
bench: build ## Measure against the baseline, the raw loop and libraries: 2 rounds, rivals 1 (under 10 min)
	$(BIN) bench --rounds 2 --library-rounds 1 --for 2s --settle 500ms $(RIVALS) --out $(RESULTS)/bench-quick $(ARGS)
	cd bench/plot && go run . $(CURDIR)/$(RESULTS)/bench-quick.json

.PHONY: bench-full
bench-full: build ## The same for the record: 5 rounds, on a machine that does nothing else (30 min)
	@[ -n '$(RIVAL)' ] || echo 'note: without bin/uws (make bench-uws) the rows T4 and T5s are not measured'
	$(BIN) bench --rounds 5 --library-rounds 1 --for 2s --settle 500ms --rate 10,100,250 $(RIVALS) --out $(RESULTS)/bench-full $(ARGS)
	cd bench/plot && go run . $(CURDIR)/$(RESULTS)/bench-full.json

.PHONY: bench-uws
bench-uws: ## Build uWebSockets (git, gcc, g++); bin/uws is then measured beside the others
	@mkdir -p bin
	bench/peers/uws/build $(CURDIR)/bin/uws

.PHONY: bench-go
bench-go: ## Go benchmarks of every package; compare two runs with benchstat
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

.PHONY: clean
clean: ## Remove what was built and the installed test clients and tools
	rm -rf bin dist .tools e2e/js/node_modules clients/js/node_modules clients/js/dist web/node_modules
