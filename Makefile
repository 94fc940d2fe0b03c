# Needs Go and nothing else, but for test-clients. `make` lists what there is.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X canopy/shared/config.Version=$(VERSION)
GOBUILD := CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)'

# The race detector needs cgo and a C compiler, which a machine with Go alone does not have.
RACE := $(shell [ "$$(go env CGO_ENABLED)" = 1 ] && command -v "$$(go env CC)" >/dev/null && echo -race)

STATICCHECK_VERSION := v0.8.2
ERRCHECK_VERSION    := v1.30.0
GOVULNCHECK_VERSION := v1.9.0

TOOLS       := $(CURDIR)/bin/tools
STATICCHECK := $(TOOLS)/staticcheck-$(STATICCHECK_VERSION)/staticcheck
ERRCHECK    := $(TOOLS)/errcheck-$(ERRCHECK_VERSION)/errcheck
GOVULNCHECK := $(TOOLS)/govulncheck-$(GOVULNCHECK_VERSION)/govulncheck

# A duration, or a number of inputs as in 4000x. With a duration Go now and then fails with
# "context deadline exceeded" because it was just making an input smaller.
FUZZTIME ?= 10s
FLEET    ?= 1000000
SOURCES  := bench deployments edge ingest shared

.DEFAULT_GOAL := help
.PHONY: help build run test lint vulnerabilities fuzz bench bench-fleet profiles validate smoke test-clients clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

build: ## build bin/canopy-ingest, bin/canopy-edge, bin/canopy-local and bin/canopy-stream
	$(GOBUILD) -o bin/canopy-ingest ./ingest
	$(GOBUILD) -o bin/canopy-edge ./edge
	$(GOBUILD) -o bin/canopy-local ./deployments/local/canopy-local
	$(GOBUILD) -o bin/canopy-stream ./edge/client/canopy-stream

run: build ## run everything in one process on this machine, until Ctrl-C
	@exec bin/canopy-local

test: ## run all tests, with the race detector where there is a C compiler
ifeq ($(RACE),)
	@echo '*** No C compiler found: these tests run WITHOUT the race detector. ***' >&2
endif
	go test $(RACE) -timeout 20m ./...

lint: $(STATICCHECK) $(ERRCHECK) ## check formatting, then run vet, staticcheck, errcheck and govulncheck
	@unformatted=$$(gofmt -l $(SOURCES)); if [ -n "$$unformatted" ]; then \
		echo "gofmt wants to change:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	cd deployments/validate && go vet ./...
	$(STATICCHECK) ./...
	cd deployments/validate && $(STATICCHECK) ./...
	$(ERRCHECK) ./...
	@$(MAKE) --no-print-directory vulnerabilities

vulnerabilities: $(GOVULNCHECK) ## look for known vulnerabilities in what is called
	@$(GOVULNCHECK) ./...; status=$$?; \
	if [ $$status -eq 3 ]; then exit 1; fi; \
	if [ $$status -ne 0 ]; then \
		echo '*** The database of vulnerabilities was not reached: NOT checked. ***' >&2; fi

fuzz: ## run every fuzz target for FUZZTIME (10s)
	@grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' $(SOURCES) | sort | \
	while IFS=: read -r file function; do \
		name=$${function#func }; \
		echo "fuzz $$name in $${file%/*} for $(FUZZTIME)"; \
		go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "./$${file%/*}" </dev/null || exit 1; \
	done

bench: ## measure, side by side with floors and peers, and write bench/RESULTS.md with pictures
	go run ./bench

bench-fleet: ## hold 1,000,000 sockets, or FLEET=20000, and write bench/FLEET.md with a picture
	go run ./bench -rows 11 -fleet $(FLEET) -out bench/FLEET.md

profiles: ## record anew by which profiles images, and the bench, build ingest and edge
	dir=$$(mktemp -d) && for name in ingest edge; do \
		go build -trimpath -pgo=$$name/profile.pgo -o $$dir/$$name ./$$name || exit 1; done && \
	go run ./bench -rows 3,7,8,9 -ingest $$dir/ingest -edge $$dir/edge -profiles $$dir -out $$dir/results.md && \
	for name in ingest edge; do \
		go tool pprof -symbolize=none -proto $$dir/$$name-*.pprof >$$name/profile.pgo || exit 1; done && \
	rm -rf $$dir

validate: build ## check docker-compose.yml and the settings in it, and the profiles, without Docker
	for name in ingest edge; do go tool preprofile -i $$name/profile.pgo -o bin/profile.txt || exit 1; done
	cd deployments/validate && go test ./...
	bin/canopy-local --help | (cd deployments/validate && go run . ../../docker-compose.yml)

smoke: build ## start the built stack, receive an event, stop it
	go run ./deployments/smoke

test-clients: build ## try real clients, which it installs (Node, Python, Rust); CLIENTS=drg,wscat only some
	go run ./deployments/clients -clients '$(CLIENTS)'

clean: ## remove what was built and what benchmarks wrote
	rm -rf bin bench/out

$(STATICCHECK):
	GOBIN=$(@D) go install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK_VERSION)

$(ERRCHECK):
	GOBIN=$(@D) go install github.com/kisielk/errcheck@$(ERRCHECK_VERSION)

$(GOVULNCHECK):
	GOBIN=$(@D) go install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)
