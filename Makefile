# make            build everything into build/
# make run        install what is missing, build, start nginx and the engine, stream
#                 a local model's answer, stay up   (PORT= METRICS_PORT= CONF= RUN_DIR=)
# make test       install what is missing, build, run every test
# make unit       the C unit tests alone
# make fuzz       every fuzz target for FUZZ_SECONDS (60), from FUZZ_SEED (any)
# make lint       clang-format, clang-tidy, cppcheck
# make valgrind   the tests of t/valgrind.list under it
# make bench      the performance table; ROW=id runs one row
# make deps       only install what is missing
# make install    into DESTDIR and PREFIX (/usr/local)
# make nginx      nginx itself, from NGINX_SOURCE_DIR, to run the module in
#
# BUILD=debug     no optimisation;  BUILD=sanitize  AddressSanitizer and UBSan.
# Each BUILD has its own folder. NGINX_SOURCE_DIR is any nginx source >= 1.22;
# the default is what Debian's nginx-dev installs for Debian's nginx. V=1: whole commands.

BUILD ?= release
ifeq ($(filter $(BUILD),release debug sanitize fuzz planted),)
$(error BUILD is release, debug or sanitize, not $(BUILD))
endif
B := build$(if $(filter release,$(BUILD)),,-$(BUILD))

PKGS := libuv jansson libcurl libnghttp2 openssl sqlite3 libpq hiredis
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS := $(shell pkg-config --libs $(PKGS) 2>/dev/null)

ifneq ($(filter fuzz planted,$(BUILD)),)
CC := clang
endif
SANITIZE := -O1 -fno-omit-frame-pointer -fno-sanitize-recover=undefined \
            -fsanitize=address,undefined
WARN := -Wall -Wextra -Wshadow -Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes \
        -Wvla -Wundef -Wwrite-strings -Wno-missing-field-initializers
OPT_release := -O2
OPT_debug := -O0
OPT_sanitize := $(SANITIZE)
OPT_fuzz := $(SANITIZE),fuzzer-no-link
# Arithmetic, the references of its tests included, takes half as long so.
ARITHMETIC := kernels emulated/kernels emulated/t/cuda t/unit/test_kernels t/unit/test_encoder t/unit/test_cuda
$(foreach a,$(ARITHMETIC),$B/obj/$a%): private OPT_sanitize += -O2
OPT_planted := $(OPT_fuzz) -DAIQ_PLANT_BUG
CFLAGS_ALL = -std=gnu11 -D_GNU_SOURCE -g -fPIC -fvisibility=hidden -pthread $(OPT_$(BUILD)) $(WARN) \
             $(if $(CI),-Werror) -Iengine -Iengine/include -I$B/gen -I. $(PKG_CFLAGS) $(CFLAGS)
LDLIBS_ALL = $(PKG_LIBS) -pthread -ldl -lm $(LDLIBS)

# Rooms. A new file needs no line here.
LIB_SRC := $(wildcard engine/engine.c engine/core/*.c engine/access/*.c engine/link/*.c engine/services/*.c engine/services/*/*.c \
             engine/providers/*.c engine/infer/*.c engine/cache/*.c engine/vectors/*.c engine/limits/*.c engine/ledger/*.c engine/redis/*.c engine/store/*.c engine/streams/*.c kernels/*.c kernels/cpu/*.c)
ENGINE_SRC := engine/main.c
CLI_SRC := $(wildcard engine/cli/*.c)
UNIT_SRC := $(wildcard t/unit/test_*.c)
FUZZ_SRC := $(wildcard t/fuzz/fuzz_*.c)
BENCH_SRC := $(wildcard t/bench/*.c)
C_SRC := $(LIB_SRC) $(ENGINE_SRC) $(CLI_SRC) $(UNIT_SRC) $(FUZZ_SRC) $(BENCH_SRC) $(wildcard t/bench/mock/*.c kernels/fake/*.c) t/unit/fake_nvml.c

UNIT := $(UNIT_SRC:t/unit/%.c=$B/t/%)
FUZZ := $(FUZZ_SRC:t/fuzz/%.c=$B/%)
BENCH := $(BENCH_SRC:t/bench/%.c=$B/bench/%)

all: $B/ngx_http_aiq_module.so $B/aiq-engine $B/aiq compile_commands.json

say = $(if $(V),set -x;,echo '  $1 $@';)

# Objects are never mixed: other flags, other objects.
$B/flags: FORCE
	@pkg-config --print-errors --exists $(PKGS) || { echo 'something to build with is missing: make deps'; exit 1; }
	@mkdir -p $(@D)
	@echo '$(CC) $(CFLAGS_ALL) $(LDFLAGS)' | cmp -s - $@ || echo '$(CC) $(CFLAGS_ALL) $(LDFLAGS)' >$@

$B/obj/%.o: %.c $B/flags
	@mkdir -p $(@D); $(call say,CC) $(CC) $(CFLAGS_ALL) -MMD -MP -c $< -o $@

# The store's schema, built in.
MIGRATIONS := $(sort $(wildcard engine/store/migrations/*.sql))
$B/gen/store_migrations.h: $(MIGRATIONS)
	@mkdir -p $(@D)
	@{ echo 'static const char *const store_migrations[] = {'; \
	  for f in $^; do sed 's/\\/\\\\/g; s/"/\\"/g; s/.*/    "&\\n"/' $$f; echo '    ,'; done; \
	  echo '};'; } >$@
$B/obj/engine/store/migrate.o: $B/gen/store_migrations.h

# What Redis runs, built in.
$B/gen/%_lua.h: engine/limits/%.lua
	@mkdir -p $(@D)
	@{ echo 'static const char $*_lua[] ='; sed 's/\\/\\\\/g; s/"/\\"/g; s/.*/    "&\\n"/' $<; echo '    ;'; } >$@
$B/gen/%_lua.h: engine/streams/%.lua
	@mkdir -p $(@D)
	@{ echo 'static const char $*_lua[] ='; sed 's/\\/\\\\/g; s/"/\\"/g; s/.*/    "&\\n"/' $<; echo '    ;'; } >$@
$B/obj/engine/streams/topics.o: $B/gen/topics_lua.h
$B/obj/engine/limits/rates.o: $B/gen/rates_lua.h
$B/obj/engine/limits/shared_tokens.o: $B/gen/tokens_lua.h

# The planted bug is in the ring, which is engine/link's alone: all else is that of BUILD=fuzz.
LIB_OBJ := $(LIB_SRC:%.c=$B/obj/%.o)
ifeq ($(BUILD),planted)
LIB_OBJ := $(patsubst %.c,build-fuzz/obj/%.o,$(filter-out engine/link/%,$(LIB_SRC))) \
           $(patsubst %.c,$B/obj/%.o,$(filter engine/link/%,$(LIB_SRC)))
endif
$B/libaiq.a: $(LIB_OBJ)
	@rm -f $@; $(call say,AR) ar rcs $@ $^

LINK = @mkdir -p $(@D); $(call say,LD) $(CC) $(CFLAGS_ALL) $(LDFLAGS) $^ -o $@

$B/aiq-engine: $(ENGINE_SRC:%.c=$B/obj/%.o) $B/libaiq.a
	$(LINK) $(LDLIBS_ALL)

$B/aiq: $(CLI_SRC:%.c=$B/obj/%.o) $B/libaiq.a
	$(LINK) $(LDLIBS_ALL)

# of the module, where it is nginx's build that links it
$B/t/test_ws_inflate $B/fuzz_ws_inflate: LDLIBS += -lz

$(UNIT): $B/t/%: $B/obj/t/unit/%.o $B/libaiq.a
	$(LINK) -lcmocka $(LDLIBS_ALL)

$(FUZZ): $B/%: $B/obj/t/fuzz/%.o $B/libaiq.a
	$(LINK) -fsanitize=fuzzer $(LDLIBS_ALL)

$(BENCH): $B/bench/%: $B/obj/t/bench/%.o
	$(LINK) $(LDLIBS_ALL)
$B/bench/mock_provider: $B/obj/t/bench/mock/answers.o
$B/bench/embed $B/bench/gpu $B/bench/store $B/bench/topk $B/bench/pairs: $B/libaiq.a

# What make finds behind a name in the list is deleted, not kept for the next run.
.SECONDARY:

include tools/module.mk
include tools/kernels.mk

# Remade when a file comes or goes, too.
$B/sources: FORCE
	@mkdir -p $(@D)
	@echo '$(C_SRC) $(MODULE_SRC)' | cmp -s - $@ || echo '$(C_SRC) $(MODULE_SRC)' >$@

compile_commands.json: tools/compile_commands.sh $B/flags $B/nginx.flags $B/sources
	@tools/compile_commands.sh '$(CC) $(CFLAGS_ALL)' '$(C_SRC)' '$(NGINX_CFLAGS)' '$(MODULE_SRC)' >$@

deps:
	@tools/deps.sh build test lint

run:
	@tools/deps.sh build
	@$(MAKE) --no-print-directory all || { echo >&2; \
	  echo 'The build failed, see above. After an update of the tree or the system: make clean, then again.' >&2; \
	  exit 1; }
	@AIQ_BUILD_DIR=$B exec tools/run

# One summary for both: a unit test is a program that prints TAP.
# Files at once: they mostly wait, and none of them measures time. Sanitized ones compute more.
TEST_JOBS ?= $(if $(filter release,$(BUILD)),4,3)
test:
	@tools/deps.sh build test
	@$(MAKE) --no-print-directory all test-programs t/npm/node_modules/.package-lock.json
	AIQ_BUILD_DIR=$B $(TEST_ENV) tools/prove.sh -r -j$(TEST_JOBS) $(or $(T),$(UNIT) t)

# Node, SDKs and llama.cpp for the tests, as the lockfile says. Not npm ci: it wants every
# optional package of llama.cpp to be in the registry.
%/node_modules/.package-lock.json: %/package-lock.json
	cd $* && npm install --no-save --loglevel=error
	@touch $@

unit: $(UNIT)
	tools/prove.sh $(UNIT)

test-programs: $(UNIT) $(BENCH) $B/t/libaiq_fake.so $B/t/nvml/libnvidia-ml.so.1

FUZZ_SECONDS ?= 60
fuzz:
	@$(MAKE) --no-print-directory BUILD=fuzz fuzz-programs
	@$(MAKE) --no-print-directory BUILD=planted fuzz-link-programs
	tools/fuzz.sh $(FUZZ_SECONDS) $(FUZZ_SEED)

fuzz-programs: $(FUZZ)
fuzz-link-programs: $(filter $B/fuzz_link_%,$(FUZZ))

lint: compile_commands.json $B/gen/store_migrations.h $B/gen/topics_lua.h $B/gen/rates_lua.h $B/gen/tokens_lua.h
	tools/lint.sh

# Programs of t/unit and files of t. AIQ::Test wraps what it starts.
VALGRIND := valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite
VALGRIND_LIST := $(shell sed '/^\#/d' t/valgrind.list)
valgrind: all test-programs
	TEST_EXEC='$(VALGRIND)' AIQ_VALGRIND=1 AIQ_BUILD_DIR=$B tools/prove.sh -j3 \
	  $(filter t/%,$(VALGRIND_LIST)) $(addprefix $B/t/,$(filter test_%,$(VALGRIND_LIST)))

bench: all $(BENCH) $(GPU_PEERS) t/npm/node_modules/.package-lock.json t/bench/npm/node_modules/.package-lock.json
	AIQ_BUILD_DIR=$B t/bench/run $(ROW)

# Streams through cuts, reloads, killed workers and engines, for so long; make test has it
# for seconds.
SOAK_SECONDS ?= 1200
soak: all test-programs t/npm/node_modules/.package-lock.json
	AIQ_BUILD_DIR=$B SOAK_SECONDS=$(SOAK_SECONDS) prove -v t/stream_soak.t

PREFIX ?= /usr/local
MODULES_DIR ?= $(shell $(NGINX) -V 2>&1 | sed -n 's/.*--modules-path=\([^ ]*\).*/\1/p')
install: all
	install -d $(addprefix $(DESTDIR),$(PREFIX)/bin $(PREFIX)/share/aiq $(MODULES_DIR) \
	  $(PREFIX)/lib/systemd/system $(PREFIX)/lib/sysusers.d $(PREFIX)/lib/tmpfiles.d)
	install -m 755 $B/aiq-engine $B/aiq $(DESTDIR)$(PREFIX)/bin
	install -m 644 $B/ngx_http_aiq_module.so $(DESTDIR)$(MODULES_DIR)
	$(if $(CUDA),install -D -m 644 $B/libaiq_cuda.so $(DESTDIR)$(PREFIX)/lib/aiq/libaiq_cuda.so)
	install -m 644 demo/demo.gguf conf.examples/*.conf conf.examples/*.jwks $(DESTDIR)$(PREFIX)/share/aiq
	sed 's|@PREFIX@|$(PREFIX)|' systemd/aiq-engine.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/aiq-engine.service
	install -m 644 systemd/aiq.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/aiq.conf
	install -m 644 systemd/aiq.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/aiq.conf

clean:
	rm -rf build build-debug build-sanitize build-fuzz build-planted compile_commands.json

FORCE:
.PHONY: all deps run test unit test-programs fuzz fuzz-programs fuzz-link-programs lint valgrind bench soak install nginx clean FORCE
-include $(shell find $B/obj -name '*.d' 2>/dev/null)
