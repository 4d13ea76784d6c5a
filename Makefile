# `make help` lists what there is. Needed: a C compiler and make; everything else is optional and reported when
# missing. All output goes to build/.

CC     ?= cc
CXX    ?= c++
CLANG  ?= clang
NVCC   ?= $(or $(shell command -v nvcc),$(wildcard /usr/local/cuda/bin/nvcc),nvcc)
ARM_CC ?= aarch64-linux-gnu-gcc
QEMU   ?= qemu-aarch64
export CC CXX CLANG NVCC ARM_CC QEMU

MAKEFLAGS += -r
.DELETE_ON_ERROR:
.SUFFIXES:

# ok(compiler, flags): the flags if that compiler makes a program with them, else nothing
ok = $(shell mkdir -p build && echo 'int main(void) { return 0; }' | \
       $(1) $(2) -x c - -o build/probe 2>/dev/null && echo '$(2)')

WARN   := -Wall -Wextra -Wundef -Wshadow -Wconversion -Werror
CFLAGS ?= -O2
NATIVE ?= $(call ok,$(CC),-march=native)
OPENMP ?= $(call ok,$(CC),-fopenmp)
LDLIBS += -lm -pthread
NATIVE := $(NATIVE)
OPENMP := $(OPENMP)

# Every program is one .c file, built in several ways: build/VARIANT/program. All instances of the tests are in the
# native build; the others take the core of them (tests/instances.h), or compiling would need an hour.
VARIANTS      := native base avx2 dot dispatch clang cxx asan tsan arm
FLAGS          = -std=c11 $(CFLAGS)
CC.native      = $(CC) $(FLAGS) $(NATIVE) $(OPENMP)
CC.base        = $(CC) $(FLAGS) -DFA_TEST_CORE
CC.avx2        = $(CC) $(FLAGS) -DFA_TEST_CORE -march=haswell $(OPENMP)
CC.dot         = $(CC) $(FLAGS) -DFA_TEST_CORE -DFA_BF16_DOT=1 $(NATIVE) $(OPENMP)
CC.dispatch    = $(CC) $(FLAGS) -DFA_TEST_CORE -DFA_DISPATCH $(OPENMP)
CC.clang       = $(CLANG) $(FLAGS) -DFA_TEST_CORE $(NATIVE) $(call ok,$(CLANG),-fopenmp)
CC.cxx         = $(CXX) -x c++ -std=c++17 $(CFLAGS) -DFA_TEST_CORE -Wno-missing-field-initializers $(NATIVE) $(OPENMP)
CC.asan        = $(CC) $(FLAGS) -DFA_TEST_CORE $(NATIVE) -O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all
CC.tsan        = $(CC) $(FLAGS) -DFA_TEST_CORE $(NATIVE) -O1 -g1 -fsanitize=thread
# gcc 12 for arm64 crashes when it vectorises a loop over fmax() in the tests
CC.arm         = $(ARM_CC) $(FLAGS) -DFA_TEST_CORE -fno-tree-vectorize -static

vpath %.c tests examples bench

define rule
build/$(1)/%: %.c Makefile
	@mkdir -p $$(@D)
	$$(CC.$(1)) $$(WARN) -I. -Itests $$(DEFINES) -MMD -MP -MF $$@.d -MT $$@ -o $$@ $$< $$(LDLIBS)
endef
$(foreach v,$(VARIANTS),$(eval $(call rule,$(v))))

# The PTX machine (tests/ptx/README.md): a CUDA runtime that runs kernels on the CPU. GNU C for its lane loops; no
# contraction, so that fma.rn and mul.rn + add.rn stay what they are on a GPU.
PTX_PARTS   := $(filter-out sass fuzz_%,$(patsubst tests/ptx/%.c,%,$(wildcard tests/ptx/*.c)))
PTX_OBJECTS := $(PTX_PARTS:%=build/ptx/%.o)
PTX_ASAN    := $(PTX_PARTS:%=build/ptx/asan/%.o)
CUDA_HOME   ?= $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
PTX_CC       = $(CC) -std=gnu11 -g -ffp-contract=off -fno-math-errno -fno-strict-aliasing -fvisibility=hidden \
                 -Wall -Wextra -Wundef -Wshadow -Werror -isystem $(CUDA_HOME)/include
PTX_SANITIZE = -O1 -fsanitize=address,undefined -fno-sanitize-recover=all
build/ptx/%.o: tests/ptx/%.c Makefile
	@mkdir -p $(@D)
	$(PTX_CC) -O3 $(NATIVE) -fPIC -MMD -MP -MF $@.d -c -o $@ $<
build/ptx/asan/%.o: tests/ptx/%.c Makefile
	@mkdir -p $(@D)
	$(PTX_CC) $(PTX_SANITIZE) -MMD -MP -MF $@.d -c -o $@ $<
build/libfa_ptx.a: $(PTX_OBJECTS)
build/ptx/asan/libfa_ptx.a: $(PTX_ASAN)
build/libfa_ptx.a build/ptx/asan/libfa_ptx.a:
	ar rcs $@.$$$$ $^ && mv $@.$$$$ $@ # in one piece, for makes side by side
build/ptx/asan/fuzz_%: tests/ptx/fuzz_%.c build/ptx/asan/libfa_ptx.a
	$(PTX_CC) $(PTX_SANITIZE) -MMD -MP -MF $@.d -MT $@ -o $@ $< build/ptx/asan/libfa_ptx.a -lm -lpthread
# the same as a stand-in for libcudart.so, which build/ptx/lib is for LD_LIBRARY_PATH
build/libfa_ptx.so: $(PTX_OBJECTS) tests/ptx/libcudart.map
	$(CC) -shared -Wl,-soname,libcudart.so.13,--version-script,tests/ptx/libcudart.map,-z,nodelete,-z,defs \
	    -o $@ $(PTX_OBJECTS) -lm -lpthread
	@mkdir -p build/ptx/lib && ln -sf ../../libfa_ptx.so build/ptx/lib/libcudart.so.13
# A CUDA program for the machine: PTX only, uncompressed, with source lines. ARCH=80 for another target.
NVCC_ONLY = $(NVCC) -O3 -lineinfo -no-compress -gencode arch=compute_$(or $(ARCH),90a),code=compute_$(or $(ARCH),90a)
NVCC_PTX  = $(NVCC_ONLY) -I. -Itests -Itests/ptx -MMD -MP -MF $@.d -MT $@
build/ptx/%: tests/ptx/%.cu tests/fa_test.h build/libfa_ptx.a
	$(NVCC_PTX) -cudart none -o $@ $< build/libfa_ptx.a -lm -lpthread
build/ptx/sm_80/%: ARCH = 80
build/ptx/sm_80/%: tests/ptx/%.cu tests/fa_test.h build/libfa_ptx.a
	@mkdir -p $(@D)
	$(NVCC_PTX) -cudart none -o $@ $< build/libfa_ptx.a -lm -lpthread
build/ptx/shared/%: tests/ptx/%.cu tests/fa_test.h build/libfa_ptx.so
	@mkdir -p $(@D)
	$(NVCC_PTX) -cudart shared -o $@ $<
# Programs with kernels of flashattn_cuda.cuh, for the machine as an sm_80, 86, 89 or 90: build/cuda80/test_forward. They
# are ordinary CUDA programs: `make gpu` runs them on a GPU.
vpath %.cu tests/cuda examples bench
define cuda_rule
build/cuda$(1)/%: ARCH = $(2)
build/cuda$(1)/%: %.cu build/libfa_ptx.a
	@mkdir -p $$(@D)
	$$(NVCC_PTX) -cudart none -o $$@ $$< $$(filter %.o,$$^) build/libfa_ptx.a -lm -lpthread
endef
$(foreach a,80 86 89,$(eval $(call cuda_rule,$(a),$(a))))
$(eval $(call cuda_rule,90,90a))
# examples/gpt with its attention on the machine, built as for a GPU
build/cuda90/gpt: examples/gpt/gpt.c examples/gpt/attention.cu $(wildcard *.h *.cuh examples/*.h examples/gpt/*.h) build/libfa_ptx.a
	@mkdir -p $(@D)
	$(NVCC_ONLY) $(NATIVE:%=-Xcompiler %) -I. -cudart none -o $@ $(filter %.c %.cu %.a,$^) -lm -lpthread
build/cuda80/test_gpt build/cuda90/test_gpt: build/cuda/gpt_cpu.o
build/cuda/%.o: tests/cuda/%.c Makefile
	@mkdir -p $(@D)
	$(CC) $(FLAGS) $(NATIVE) $(WARN) -I. -MMD -MP -MF $@.d -c -o $@ $<
build/cuda/%: tests/cuda/%.c Makefile
	@mkdir -p $(@D)
	$(CC) $(FLAGS) $(WARN) -I. -Itests -MMD -MP -MF $@.d -MT $@ -o $@ $< $(LDLIBS)
build/ptx/sass: tests/ptx/sass.c Makefile
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -O2 $(WARN) -o $@ $<

%/test_gpt %/gpt: WARN += -Wno-pass-failed # of clang: loops that it cannot vectorise are right all the same
%/no_alloc: OPENMP = # its thread teams allocate; the library does not
EXAMPLES := $(patsubst examples/%.c,build/native/%,$(wildcard examples/*.c))
SOURCES   = $(shell git ls-files -co --exclude-standard '*.[ch]' '*.md' 2>/dev/null || \
                    find . -path ./build -prune -o -name '*.[ch]' -print -o -name '*.md' -print)

.PHONY: all help test test-fast ptx fuzz mutants gpu cuda-model compile-time run why-flash examples bench-cpu bench-readme expand format clean
all: test

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1 \2/p' Makefile | awk '{ printf "  make %-14s", $$2; \
	  $$1 = $$2 = ""; print }'

test: ## every suite that this machine can run (what plain `make` does)
	@sh tests/run.sh

test-fast: ## the test programs in one build, and the tests that must not compile
	@sh tests/run.sh native fail

ptx: build/libfa_ptx.a build/libfa_ptx.so ## the PTX machine: runs and checks CUDA kernels on the CPU (tests/ptx)

fuzz: build/asan/fuzz_args ## random arguments under the sanitizers for FUZZ_SECONDS (600)
	$< --seconds $(or $(FUZZ_SECONDS),600)

mutants: ## break the headers in one line at a time: does a test notice? (two hours)
	@sh tests/mutants.sh
	@sh tests/spec_mutants.sh
	@sh tests/cuda/mutants.sh

gpu: ## on a machine with a GPU: CUDA tests, compute-sanitizer, benchmark next to PyTorch (ten minutes)
	@sh bench/run_gpu.sh

cuda-model: ## what the PTX machine predicts for each CUDA kernel, without a GPU
	@sh bench/cuda_model.sh
	@sh bench/hopper_cost.sh

compile-time: ## seconds that nvcc takes for an instance, by pass
	@sh bench/compile_time.sh

# GPT: a model over bytes that learns from this repository's own text, writes, and decodes speculatively.
build/native/gpt: examples/gpt/gpt.c examples/gpt/attention.c Makefile
	@mkdir -p $(@D)
	$(CC.native) $(WARN) -I. -Iexamples -MMD -MP -MF $@.d -MT $@ -c -o $@.o $<
	$(CC.native) $(WARN) -I. -MMD -MP -MF $@.attention.d -MT $@ -c -o $@.attention.o examples/gpt/attention.c
	$(CC.native) -o $@ $@.o $@.attention.o $(LDLIBS)

run: build/native/gpt ## a GPT trains on this repository's own text, writes, and decodes speculatively (three minutes)
	@$< run $(SOURCES)

readme-run: build/native/gpt ## what `make run` prints, into README.md, between its markers
	@$< run --fresh --dir build/readme $(SOURCES) > build/run.txt
	awk -v mark=run -f bench/splice.awk build/run.txt README.md > build/README.md
	cp build/README.md README.md

why-flash: build/native/why_flash ## what attention costs with and without its matrix: tables, and build/why_flash.svg
	$<

examples: $(EXAMPLES) ## build the examples, into build/native/

bench-cpu: ## speed of the CPU kernels next to other libraries -> build/bench/cpu.csv
	sh bench/run_cpu.sh

bench-readme: ## put that table into README.md, between its markers
	awk -f bench/readme.awk build/bench/cpu.csv README.md > build/README.md
	cp build/README.md README.md

# The instance is what comes after the second include; DEFINES="-DFA_DTYPE=FA_BF16 ..." adds parameters.
expand: ## N=attn64 [D=64] [DEFINES=..]: one instance, preprocessed and formatted, in build/
	@test -n '$(N)' || { echo 'usage: make expand N=attn64 [D=64] [DEFINES=-DFA_DTYPE=FA_BF16]' >&2; exit 2; }
	@mkdir -p build
	@printf '%s\n' '#include "flashattn.h"' '>>instance' '#define FA_NAME $(N)' \
	  '#define FA_HEAD_DIM $(or $(D),$(shell echo '$(N)' | tr -dc 0-9))' '#include "flashattn.h"' > build/expand.c
	$(CC) -std=c11 $(NATIVE) -I. $(DEFINES) -E -P build/expand.c | sed '1,/>>instance/d' > build/$(N).c
	@! command -v clang-format >/dev/null || clang-format -i build/$(N).c
	@wc -l build/$(N).c

format: ## clang-format the C sources in place
	clang-format -i $(wildcard *.h tests/*.[ch] tests/*/*.[ch] examples/*.[ch] examples/*/*.[ch] bench/*.c)

clean: ## remove build/
	rm -rf build

-include $(wildcard build/*/*.d build/ptx/*/*.d)
