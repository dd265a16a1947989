# The module, built by nginx's own scripts in a copy of nginx's source.

# Debian's nginx-dev has what a module needs of the source, and in conf_flags how
# Debian's nginx was configured. A sanitized module needs a sanitized nginx.
SANITIZE_SOURCE := build/source/bookworm/nginx
NGINX_SOURCE_DIR ?= $(if $(filter sanitize,$(BUILD)),$(SANITIZE_SOURCE),/usr/share/nginx/src)
NGINX ?= $(firstword $(shell command -v nginx) /usr/sbin/nginx)

MODULE_SRC := $(wildcard ngx_aiq_module/*.c)
MODULE_DEPS := config $(MODULE_SRC) $(wildcard ngx_aiq_module/*.h engine/include/*.h)
NGINX_INCLUDES := $(addprefix -I$B/nginx/,src/core src/event src/event/modules src/event/quic src/os/unix \
                    src/http src/http/modules src/http/v2 src/http/v3 objs) -Iengine/include

# Warnings are errors where nginx's configure says so, but for contributors' other compilers.
NGINX_CC_OPT_release := -O2
NGINX_CC_OPT_debug := -O0
NGINX_CC_OPT_sanitize := -O1 -fno-omit-frame-pointer -fsanitize=address -DNGX_DEBUG_PALLOC=1
NGINX_CC_OPT := -g $(NGINX_CC_OPT_$(BUILD)) $(if $(CI),,-Wno-error)
NGINX_LD_OPT := $(if $(filter sanitize,$(BUILD)),-fsanitize=address)
NGINX_FLAGS := --error-log-path=stderr --with-compat --with-debug --with-threads --with-http_ssl_module --with-http_v2_module \
               --with-http_realip_module --with-http_auth_request_module --with-http_stub_status_module

# Configured anew for another source, other options, and a file that came or went.
NGINX_STAMP = $(NGINX_SOURCE_DIR) $(NGINX_FLAGS) $(NGINX_CC_OPT) $(NGINX_LD_OPT) $(sort $(MODULE_DEPS)) \
              $(shell cat config $(NGINX_SOURCE_DIR)/src/core/nginx.h $(wildcard $(NGINX_SOURCE_DIR)/conf_flags) | cksum)
$B/nginx.flags: $(filter $(SANITIZE_SOURCE),$(NGINX_SOURCE_DIR)) FORCE
	@test -f $(NGINX_SOURCE_DIR)/src/core/nginx.h || { \
	  echo 'no source of nginx in $(NGINX_SOURCE_DIR): make deps, or set NGINX_SOURCE_DIR'; exit 1; }
	@mkdir -p $(@D)
	@echo '$(NGINX_STAMP)' | cmp -s - $@ || echo '$(NGINX_STAMP)' >$@

$B/nginx/objs/Makefile: $B/nginx.flags
	@rm -rf $B/nginx && cp -r $(NGINX_SOURCE_DIR) $B/nginx && rm -rf $B/nginx/objs
	@$(call say,configure) cd $B/nginx && bash -c '. ./conf_flags 2>/dev/null || NGX_CONF_FLAGS=($(NGINX_FLAGS)); \
	  exec ./configure "$${NGX_CONF_FLAGS[@]}" --with-cc-opt="$(NGINX_CC_OPT)" --with-ld-opt="$(NGINX_LD_OPT)" \
	    --add-dynamic-module=$(CURDIR)' >configure.log 2>&1 || { tail -5 configure.log; exit 1; }
	@touch $@

# nginx itself is not clean under UBSan, so only the module has it.
MODULE_MAKE_sanitize = CFLAGS="$$(sed -n 's/^CFLAGS = *//p' $B/nginx/objs/Makefile) -fsanitize=undefined \
                         -fno-sanitize-recover=undefined" LINK='$(CC) -fsanitize=undefined'
$B/ngx_http_aiq_module.so: $B/nginx/objs/Makefile $(MODULE_DEPS)
	+@$(call say,CC) $(MAKE) -s -C $B/nginx -f objs/Makefile modules $(MODULE_MAKE_$(BUILD))
	@install $B/nginx/objs/ngx_http_aiq_module.so $@ # another file: a nginx that runs has the old one mapped

nginx: $B/nginx/objs/nginx
$B/nginx/objs/nginx: $B/nginx/objs/Makefile
	+@$(call say,CC) $(MAKE) -s -C $B/nginx -f objs/Makefile binary

$(SANITIZE_SOURCE):
	tools/nginx-source.sh bookworm

# Under sanitizers the tests run in the nginx that was built for it. Every dynamic
# module has an ngx_module_names, which ASan takes for a violation.
ifeq ($(BUILD),sanitize)
test: nginx
TEST_ENV = AIQ_NGINX=$(CURDIR)/$B/nginx/objs/nginx ASAN_OPTIONS=detect_odr_violation=0 \
           LSAN_OPTIONS=suppressions=$(CURDIR)/t/lsan.supp:print_suppressions=0 UBSAN_OPTIONS=print_stacktrace=1
endif
