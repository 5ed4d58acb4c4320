# make demo   the whole thing in one process, with sample pictures
# make dev    the same without samples, stays up for your own producer
# make test   every check; installs what is missing (scripts/setup)
# make newest the tests of the newest RabbitMQ and Valkey alone
# make matrix each pair of releases of RabbitMQ and of Redis or Valkey; writes docs/tested-with.md
# make arm64  the tests of the hash as arm64 runs them, under qemu
# make violence   twelve minutes of kill -9, restarts, lost rights and time-outs, and an account of every job
# make screenshots   those of the operators' page, into docs/images
# make bench  how fast it is beside Celery's worker; make soak: an hour in which nothing may grow
# make fleet  25 minutes of limits, outages and budgets; make measure says how fast it is
# make s3     uploads on a real server that speaks S3 (versitygw, which it installs)
# make near PHOTOS=folder   what counts as the same picture: the tables of docs/near-duplicates.md
# make near-benchmark PHOTOS=folder   the same beside plain hashes
# make build  bin/onceover, static

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

.PHONY: bench screenshots soak demo dev test test-short newest matrix arm64 celery-suite s3 violence fleet measure near near-benchmark setup modules build image clean

demo:
	go run ./cmd/onceover demo

dev:
	go run ./cmd/onceover dev

test:
	scripts/test

# The tests of some packages: make test-short PKGS="./worker/... ./celery/..."
test-short:
	scripts/test unit

# On the newest servers. FLAGS="-run TestX ./worker" takes other tests than the usual ones.
newest:
	scripts/test newest $(FLAGS)

# PAIRS="4.3+valkey-9" runs one pair and leaves the rows of the others as they are.
matrix:
	scripts/matrix $(if $(PAIRS),-pairs "$(PAIRS)") $(FLAGS)

# On a processor without dot products too, where the resampling is in Go. One test starts a process of its own, which qemu cannot.
arm64: export CGO_ENABLED = 0
arm64: export GOOS = linux
arm64: export GOARCH = arm64
arm64:
	@command -v qemu-aarch64-static >/dev/null || { echo "make arm64: there is no qemu-aarch64-static; Debian has it in qemu-user-static" >&2; exit 1; }
	go test -exec qemu-aarch64-static -timeout 30m -skip '^TestPeakMemory$$' ./phash/...
	QEMU_CPU=cortex-a72 go test -exec qemu-aarch64-static -timeout 30m -run 'Narrower$$|^TestGolden$$' ./phash

# All of Celery's own integration tests, against examples/integration.
celery-suite: setup
	ONCEOVER_TEST_SUITE=all scripts/test unit ./e2e/suite -timeout 30m

# The limits, the budget and the horizon of retries as they are, which takes 25 minutes: CI has
# short forms. Four workers at a limit of 60 a minute, an outage of five minutes, and 100 budgets
# under kill -9.
fleet:
	ONCEOVER_TEST_RUNS=100 scripts/test unit -tags long -timeout 40m -run "^TestLong|^TestBudgetUnderKill" ./e2e ./vision/fleet

# How long 1,000 calls in flight take, and hits between misses that wait.
measure: setup
	CGO_ENABLED=0 go build -buildvcs=false -o .cache/bin/ ./internal/testenv/cmd/withservers
	. .cache/test.env && ONCEOVER_TEST_REQUIRE=1 .cache/bin/withservers go test -tags long -v -timeout 20m -run '^TestMeasure' ./e2e

# versitygw has 66 modules, so it is installed apart from go.mod.
s3:
	GOBIN="$(CURDIR)/.cache/bin" go install github.com/versity/versitygw/cmd/versitygw@v1.0.14
	PATH="$(CURDIR)/.cache/bin:$$PATH" go test -race -tags s3 -count=1 -run '^TestRealS3$$' ./internal/upload

# Everything that is measured beside Celery's Python worker and a bare consumer, in one run of some twenty minutes; writes
# docs/performance.md. FLAGS="-only hits,latency -rounds 5 -program bin/onceover-before -profile cpu.prof"
bench: setup
	. .cache/test.env && go run ./internal/testenv/cmd/bench -page docs/performance.md -plot docs/growth.svg $(FLAGS)

# The screenshots of docs/operators.md. They look as they do with the fonts Inter and Nanum: apt-get install fonts-inter fonts-nanum
screenshots: setup
	CGO_ENABLED=0 go build -buildvcs=false -o .cache/bin/ ./internal/testenv/cmd/withservers
	mkdir -p docs/images
	. .cache/test.env && ONCEOVER_TEST_REQUIRE=1 ONCEOVER_TEST_SCREENSHOTS=$(CURDIR)/docs/images .cache/bin/withservers go test -count=1 -timeout 10m -run '^TestPage$$' ./e2e

# One worker for an hour under changing load, with restarts and cut connections: nothing of it may grow. FLAGS="-for 15m"
soak:
	go run ./internal/testenv/cmd/soak -plot docs/soak.svg $(FLAGS)

# Needs python3 with numpy and Pillow. OUT gets some ten thousand pictures, 2 GB. FLAGS="-half A -only crop" measures a part.
OUT ?= .cache/near
near:
	$(if $(PHOTOS),,$(error got no PHOTOS, want a folder of some hundred photos: make near PHOTOS=$$HOME/Pictures))
	test -f $(OUT)/manifest.tsv || $(or $(PYTHON),python3) phash/testdata/nearpairs.py $(OUT) $(PHOTOS)
	go test -v -tags measure -count=1 -timeout 2h -run '^TestMeasureNear$$' ./phash/verify -args -pairs $(abspath $(OUT)) $(FLAGS)

# Beside pHash 16 and PDQ, by perception's alterations. Needs python3 with numpy, Pillow, imagehash
# and pdqhash. WITHOUT="dark- night-" leaves out photos that are versions of others, by how their
# names begin. Families are asked for if make near has drawn them.
BENCHMARK ?= .cache/near-benchmark
near-benchmark:
	$(if $(PHOTOS),,$(error got no PHOTOS, want a folder of some hundred photos: make near-benchmark PHOTOS=$$HOME/Pictures))
	$(or $(PYTHON),python3) phash/testdata/nearbenchmark.py $(if $(wildcard $(OUT)/manifest.tsv),--families $(OUT)) $(WITHOUT:%=--without %) $(BENCHMARK) $(PHOTOS)
	go test -v -tags measure -count=1 -timeout 2h -run '^TestMeasureNear$$' ./phash/verify -args -pairs $(abspath $(BENCHMARK)) -others $(FLAGS)

# Workers killed at random and at each crash point, servers restarted, killed, full and
# without rights for the workers, connections cut, consumers ended by the broker; then every
# job is accounted for. FLAGS="-seed 7 -rabbitmq 4.3 -redis valkey-9"
violence:
	go run ./internal/testenv/cmd/violence -jobs 6000 $(FLAGS)

setup:
	scripts/setup

# modules and build are all that the Dockerfile runs.
modules:
	go mod download

# No version control stamp: the Docker build has no .git and must give the same binary.
build:
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)" -o bin/onceover ./cmd/onceover

image:
	docker build --build-arg VERSION=$(VERSION) -t onceover:$(VERSION) .

clean:
	rm -rf bin .cache
