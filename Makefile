# make            build everything into build/
# make test       install what is missing, build, run every test
# make bench      the performance table; ROW=id runs one row
# BUILD=debug     no optimisation;  BUILD=sanitize  AddressSanitizer and UBSan

BUILD ?= release
B := build$(if $(filter release,$(BUILD)),,-$(BUILD))

CC ?= cc
PKGS := libuv jansson libcurl openssl sqlite3
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS := $(shell pkg-config --libs $(PKGS) 2>/dev/null)

WARN := -Wall -Wextra -Wshadow -Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes \
        -Wvla -Wundef -Wwrite-strings -Wno-missing-field-initializers
OPT_release := -O2
OPT_debug := -O0
OPT_sanitize := -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
CFLAGS_ALL = -std=gnu11 -D_GNU_SOURCE -g -fPIC -fvisibility=hidden -pthread $(OPT_$(BUILD)) $(WARN) \
             $(if $(CI),-Werror) -Iengine -Iengine/include -I$B/gen -I. $(PKG_CFLAGS) $(CFLAGS)
LDLIBS_ALL = $(PKG_LIBS) -pthread -ldl -lm $(LDLIBS)

# Rooms. A new file needs no line here.
KERNELS := $(wildcard kernels/*.c kernels/cpu/*.c)
LIB_SRC := $(wildcard engine/engine.c engine/core/*.c engine/link/*.c engine/services/*.c engine/services/*/*.c \
             engine/providers/*.c engine/infer/*.c engine/store/*.c) $(KERNELS)
ENGINE_SRC := $(wildcard engine/main.c)
CLI_SRC := $(wildcard engine/cli/*.c)
LIB_OBJ := $(LIB_SRC:%.c=$B/obj/%.o)

all: $B/ngx_http_aiq_module.so $(if $(ENGINE_SRC),$B/aiq-engine) $(if $(CLI_SRC),$B/aiq)

$B/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -MMD -MP -c $< -o $@

# The store's schema, built in.
MIGRATIONS := $(sort $(wildcard engine/store/migrations/*.sql))
$B/gen/store_migrations.h: $(MIGRATIONS)
	@mkdir -p $(@D)
	{ echo 'static const char *const store_migrations[] = {'; \
	  for f in $^; do sed 's/\\/\\\\/g; s/"/\\"/g; s/.*/    "&\\n"/' $$f; echo '    ,'; done; \
	  echo '};'; } >$@
$B/obj/engine/store/sqlite.o: $B/gen/store_migrations.h

$B/libaiq.a: $(LIB_OBJ)
	@rm -f $@
	ar rcs $@ $^

$B/aiq-engine: $(ENGINE_SRC:%.c=$B/obj/%.o) $B/libaiq.a
	$(CC) $(CFLAGS_ALL) $(LDFLAGS) $^ -o $@ $(LDLIBS_ALL)

$B/aiq: $(CLI_SRC:%.c=$B/obj/%.o) $B/libaiq.a
	$(CC) $(CFLAGS_ALL) $(LDFLAGS) $^ -o $@ $(LDLIBS_ALL)

# The module. Debian's nginx-dev has the headers that fit Debian's nginx; any
# nginx source >= 1.22 works: NGINX_SOURCE_DIR=/path/to/nginx-1.26.3
NGINX_SOURCE_DIR ?= /usr/share/nginx/src
MODULE_DEPS := config $(wildcard ngx_aiq_module/*.[ch] engine/include/*.h)
NGINX_CC_OPT_sanitize := -fsanitize=address,undefined -fno-omit-frame-pointer
NGINX_OPT := $(if $(CI),,-Wno-error) -g -O$(if $(filter debug,$(BUILD)),0,2) $(NGINX_CC_OPT_$(BUILD))

$B/nginx/objs/Makefile: config $(wildcard ngx_aiq_module/*.c)
	@mkdir -p $B && rm -rf $B/nginx && cp -r $(NGINX_SOURCE_DIR) $B/nginx
	cd $B/nginx && bash -c '. ./conf_flags 2>/dev/null || NGX_CONF_FLAGS=(--with-compat --with-debug \
	  --with-http_ssl_module --with-http_v2_module); exec ./configure "$${NGX_CONF_FLAGS[@]}" \
	  --with-cc-opt="$(NGINX_OPT)" --add-dynamic-module=$(CURDIR)' >configure.log 2>&1 \
	  || { tail -5 configure.log; exit 1; }

$B/ngx_http_aiq_module.so: $B/nginx/objs/Makefile $(MODULE_DEPS)
	+$(MAKE) -s -C $B/nginx -f objs/Makefile modules
	cp $B/nginx/objs/ngx_http_aiq_module.so $@

# Unit tests: one program a file, cmocka.
UNIT := $(patsubst t/unit/%.c,$B/t/%,$(wildcard t/unit/test_*.c))
$B/t/%: t/unit/%.c $B/libaiq.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -It/unit $(LDFLAGS) $< $B/libaiq.a -o $@ -lcmocka $(LDLIBS_ALL)

unit: $(UNIT)
	@set -e; for u in $^; do echo "# $$u"; $$u; done

# The benchmarks: docs/benchmarks.md. make bench ROW=chat.rps runs one row.
BENCH := $(patsubst t/bench/%.c,$B/bench/%,$(wildcard t/bench/*.c))
$B/bench/%: t/bench/%.c t/bench/measure.h $(wildcard engine/include/*.h)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(LDFLAGS) $< -o $@

bench: all $(BENCH)
	AIQ_BUILD_DIR=$B t/bench/run $(ROW)

clean:
	rm -rf build build-debug build-sanitize

.PHONY: all unit bench clean
-include $(shell find $B/obj -name '*.d' 2>/dev/null)
