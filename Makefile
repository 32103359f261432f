# The two commands of a newcomer: make demo, make test.
GO ?= go
export CGO_ENABLED ?= 0

.PHONY: build demo test lint fuzz

build:
	$(GO) build -trimpath -o bin/mqlift ./cmd/mqlift

# The whole case on real brokers on loopback, no root. KEEP=1 leaves the lab up; RELEASE=4.9.7 takes
# another release.
demo: tools build
	$(GO) run ./e2e/demo -mqlift bin/mqlift $(if $(KEEP),-keep) $(if $(RELEASE),-release $(RELEASE))

# Unit, command line, and end-to-end tests on real brokers; the last a package alone, so that go shows
# its lines as they come.
test: tools build
	$(GO) vet ./...
	$(GO) test -timeout 10m ./cmd/... ./internal/... ./playbooks/... ./templates/...
	MQLIFT_BINARY=$(CURDIR)/bin/mqlift $(GO) test -timeout 20m -v ./e2e

lint:
	$(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.5.0 run

# Every fuzz target for FUZZTIME each.
FUZZTIME ?= 20s
fuzz:
	@for pkg in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "$$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
	  done; \
	done

# What is missing is installed where that is possible without asking, and named otherwise.
.PHONY: tools
tools:
	@command -v java >/dev/null && command -v mvn >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openjdk-17-jre-headless maven >/dev/null; \
	  else echo "missing: a JDK of 17 or newer and Maven; on Debian: sudo apt-get install openjdk-17-jre-headless maven" >&2; exit 1; fi; }
