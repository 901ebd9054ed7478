# The project's commands in one place; the work is done by CMake (CMakePresets.json) and scripts/.

PREFIX       ?= /usr/local
JOBS         ?= $(shell nproc 2>/dev/null || sysctl -n hw.logicalcpu 2>/dev/null || echo 2)
FUZZ_SECONDS ?= 30

BINARY := build/release/src/cli/metal-marlin
DEMO   := $(BINARY) mmfp4 generate -m models/GLM-4.7-Flash-Demo-MMFP4

# A newer node that scripts/setup.sh --ci may have installed, and Homebrew's keg-only libedit.
export PATH := $(CURDIR)/build/tools/node_modules/.bin:$(PATH)
ifeq ($(shell uname -s),Darwin)
  export PKG_CONFIG_PATH := $(shell brew --prefix 2>/dev/null)/opt/libedit/lib/pkgconfig:$(PKG_CONFIG_PATH)
endif
export UBSAN_OPTIONS ?= print_stacktrace=1

# $(call build,PRESET,ARGUMENTS of cmake --build)
define build
	@cmake --preset $(1) --log-level=WARNING >/dev/null
	@cmake --build --preset $(1) -j $(JOBS) $(2)
endef

# $(call check,PRESET,ARGUMENTS of ctest): the tests of a preset, then one line for each part that was skipped.
define check
	@python3 scripts/run_tests.py build/$(1) $(2)
endef

.PHONY: help setup build demo test test-long lint asan tsan fuzz arm64 metal metal-check macos portable install clean

help: ## this list
	@echo "usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup:
	@scripts/setup.sh

build: setup ## set up and build the program (build/release)
	$(call build,release,--target metal-marlin)

demo: build ## set up, build, and generate text with the bundled demo model
	$(DEMO) -p "Hello"
	$(DEMO) -p "Tell me a story about a fox." --no-think --temperature 0

test: setup ## set up, build and run the test suite
	$(call build,release)
	$(call check,release,-j 2 -LE long --no-tests=error)

test-long: setup ## everything that takes long: TSan, the tests labelled long, fuzzing for 10 minutes a target, full lint
	$(call build,release)
	$(call check,release,-L long)
	@$(MAKE) --no-print-directory tsan
	@$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=600
	@scripts/lint.sh --all

lint: setup ## clang-format, layers and sizes, Metal shaders, and clang-tidy on changed code (BASE=REV: since REV)
	@scripts/lint.sh

asan: setup ## build and run the tests under AddressSanitizer and UBSan
	$(call build,debug-asan)
	$(call check,debug-asan,-j 2 -LE long --no-tests=error)

tsan: setup ## build and run the tests under ThreadSanitizer
	$(call build,tsan)
	$(call check,tsan,-j 2 -LE long --no-tests=error)

fuzz: setup ## run each fuzz target for FUZZ_SECONDS (30) over its committed corpus
	@command -v clang++-14 >/dev/null || { echo "fuzz: clang++-14 is missing: scripts/setup.sh --ci installs it"; exit 1; }
	$(call build,fuzz)
	@scripts/fuzz.sh $(FUZZ_SECONDS)

arm64: setup ## cross-compile the kernels for 64-bit ARM and run their tests under QEMU
	@command -v aarch64-linux-gnu-g++ >/dev/null || { echo "arm64: the cross compiler is missing: scripts/setup.sh --ci installs it"; exit 1; }
	$(call build,arm64)
	$(call check,arm64,-j 2 -E cpu_invariance_test --no-tests=error)
	@GTEST_FILTER='*neon_i8mm*' python3 scripts/run_tests.py build/arm64 -R cpu_invariance_test --no-tests=error

metal: setup ## build the Metal backend over an emulator, lint its shaders and run its tests
	@command -v clang++-19 >/dev/null || { echo "metal: clang++-19 is missing: scripts/setup.sh --ci installs it"; exit 1; }
	@scripts/metal_lint.sh
	$(call build,metal,--target metal_tests)
	$(call check,metal,-j 2 -R "metal|emulator|checker|fused_layer|ragged" --no-tests=error)

portable: setup ## compile, without linking, with clang-19 and libc++: a gate for macOS
	@scripts/portable.sh

metal-check: setup ## on a Mac: run everything on its GPU and write metal-report.txt, to attach to an issue
	@scripts/metal_check.sh

macos: setup ## compile and link the program for a Mac, here on Linux: a gate, the result cannot run
	@scripts/macos.sh

install: build ## install into PREFIX (/usr/local)
	@cmake --install build/release --prefix $(PREFIX)

clean: ## remove everything that was built
	rm -rf build
