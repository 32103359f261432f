# The two commands of a newcomer: make demo, make test.
GO ?= go
export CGO_ENABLED ?= 0

.PHONY: build always demo test faults bench scale lint fuzz

# bin/mqlift, and beside it those for hosts of another kind than this machine, where it looks for them. They
# are copied to every host, and without their symbols half as large.
BIN ?= bin
BUILD = $(GO) build -trimpath -ldflags='-s -w' -o $@ ./cmd/mqlift
THIS := $(shell $(GO) env GOOS)-$(shell $(GO) env GOARCH)
build: $(BIN)/mqlift $(patsubst %,$(BIN)/mqlift-%,$(filter-out $(THIS),linux-amd64 linux-arm64))

$(BIN)/mqlift: always
	$(BUILD)
$(BIN)/mqlift-linux-%: always
	GOOS=linux GOARCH=$* $(BUILD)
always:

# The whole case on real brokers on loopback, no root. KEEP=1 leaves the lab up; RELEASE=4.9.7 takes
# another release; JAVA=1 has an application in Java beside the one in Go.
demo: tools build
	$(GO) run ./e2e/demo -mqlift bin/mqlift $(if $(KEEP),-keep) $(if $(RELEASE),-release $(RELEASE)) $(if $(JAVA),-java)

# Unit, command line, and end-to-end tests on real brokers, these a package alone, so that go shows its
# lines as they come, two labs side by side; then every fuzz target with 1500 inputs; last the network lab,
# which needs root and says loudly when it is not run.
test: tools build
	$(GO) vet ./...
	$(GO) test -timeout 10m ./cmd/... ./internal/... ./playbooks/... ./templates/... ./e2e/bench ./e2e/crowd ./e2e/javaclient ./e2e/refcase
	MQLIFT_BINARY=$(CURDIR)/bin/mqlift $(GO) test -timeout 40m -parallel 2 -v ./e2e
	MQLIFT_BINARY=$(CURDIR)/bin/mqlift $(GO) test -timeout 20m -v ./e2e/faults
	$(MAKE) --no-print-directory fuzz FUZZTIME=1500x
	MQLIFT_BINARY=$(CURDIR)/bin/mqlift $(GO) test -timeout 15m -v ./e2e/netlab

# The fault matrix on real brokers, a row for each fault: first on loopback, two labs side by side; then, as
# root, what needs hosts, cables and disks of their own. A row takes about 50 s where nothing else runs.
# ROWS chooses rows of the first by a regular expression, and leaves out the second.
faults: tools build
	$(GO) build -o bin/faults ./e2e/faults
	bin/faults -labs 2 $(if $(ROWS),-rows '$(ROWS)')
	@if [ -n '$(ROWS)' ]; then :; elif [ "$$(id -u)" = 0 ]; then bin/faults -network -rows 'killed and back|disk fills|cable|links|4 MB/s|stalled'; \
	else echo 'NOT RUN: the rows that need hosts of their own, since they need root' >&2; fi

# How long writes and reads are away by hand, with rsync and with mqlift, for applications in Go and in Java,
# what a copy that is bound to a rate does to sends, and how fast stores are copied: on real brokers on
# loopback, alternating, ROUNDS runs of each for stores of SIZES GiB. All samples go to bin/bench.json. Three
# rounds of the default sizes take about an hour and a half and 30 GiB of disk.
SIZES ?= 0.25,1,4
ROUNDS ?= 3
bench: tools build
	$(GO) build -o bin/bench ./e2e/bench
	bin/bench -sizes $(SIZES) -rounds $(ROUNDS) -json bin/bench.json

# What check and plan take of a hundred broker groups on 300 hosts, which this machine plays as well.
scale:
	$(GO) test ./e2e/crowd -run '^$$' -bench . -benchtime 3x

lint:
	$(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.5.0 run

# Every fuzz target for FUZZTIME each (a time, or inputs as in 1500x, which go ends without a false alarm),
# one line for each; a test binary is built once per package. What makes one fail is kept in that package's
# testdata/fuzz, where every later test runs it. An input that is new to it is cut shorter by a few tries
# only: by default go spends up to a minute on each, with no other.
FUZZTIME ?= 20s
fuzz:
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && cache=$$($(GO) env GOCACHE)/fuzz/mqlift && \
	if [ -w /dev/shm ]; then memory=/dev/shm; else memory=$${TMPDIR:-/tmp}; fi && \
	for pkg in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
	  $(GO) test -c -fuzz=. -o "$$dir/fuzz.test" "$$pkg" || exit 1; \
	  for target in $$(cd "$$pkg" && "$$dir/fuzz.test" -test.list '^Fuzz'); do \
	    if (cd "$$pkg" && TMPDIR=$$memory "$$dir/fuzz.test" -test.run '^$$' -test.fuzz "^$$target\$$" -test.fuzztime $(FUZZTIME) \
	        -test.fuzzminimizetime 10x -test.fuzzcachedir "$$cache/$$pkg") >"$$dir/out" 2>&1; \
	    then printf 'ok    fuzz %-24s %-52s %s\n' "$${pkg#./}" "$$target" "$$(sed -n 's/.*execs: \([0-9]*\).*/\1 inputs/p' "$$dir/out" | tail -n1)"; \
	    else cat "$$dir/out"; printf 'FAIL  fuzz %-24s %s\n' "$${pkg#./}" "$$target"; exit 1; fi; \
	  done; \
	done

# What is missing is installed where that is possible without asking, and named otherwise.
.PHONY: tools
tools:
	@command -v java >/dev/null && command -v javac >/dev/null && command -v mvn >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openjdk-17-jdk-headless maven >/dev/null; \
	  else echo "missing: a JDK of 17 or newer and Maven; on Debian: sudo apt-get install openjdk-17-jdk-headless maven" >&2; exit 1; fi; }
	@sh e2e/netlab/tools.sh
