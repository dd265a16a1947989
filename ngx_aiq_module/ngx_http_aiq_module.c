#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <aiq_link.h>
#include <aiq_frame.h>
#include <aiq_error.h>

static ngx_http_module_t ngx_http_aiq_module_ctx = { NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL };
static ngx_command_t ngx_http_aiq_commands[] = { ngx_null_command };
ngx_module_t ngx_http_aiq_module = { NGX_MODULE_V1, &ngx_http_aiq_module_ctx, ngx_http_aiq_commands, NGX_HTTP_MODULE,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NGX_MODULE_V1_PADDING };
