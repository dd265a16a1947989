
/*
 * What the values of directives must look like, where they become part of the
 * policy document.
 */


#include "ngx_http_aiq.h"


#define NGX_HTTP_AIQ_TIME_MAX    (24 * 3600 * 1000)
#define NGX_HTTP_AIQ_BUFFER_MIN  (16 * 1024)
#define NGX_HTTP_AIQ_BUFFER_MAX  (64 * 1024 * 1024)


char *
ngx_http_aiq_check_url(ngx_str_t *value, ngx_str_t *url)
{
    size_t   scheme;
    u_char  *p, *host, *last;

    if (ngx_strncmp(value->data, "https://", 8) == 0) {
        scheme = 8;

    } else if (ngx_strncmp(value->data, "http://", 7) == 0) {
        scheme = 7;

    } else {
        return "must begin with \"http://\" or \"https://\"";
    }

    host = value->data + scheme;
    last = value->data + value->len;

    while (last > host && last[-1] == '/') {
        last--;
    }

    if (last == host || *host == '/' || *host == ':') {
        return "has no host";
    }

    for (p = host; p < last; p++) {

        if (*p <= 0x20 || *p >= 0x7f || *p == '"' || *p == '\\') {
            return "has characters that a URL must encode";
        }

        if (*p == '?' || *p == '#') {
            return "cannot have arguments or a fragment, "
                   "the path of the request is appended to it";
        }
    }

    for (p = host; p < last && *p != '/'; p++) {
        if (*p == '@') {
            return "cannot have credentials, use \"key\"";
        }
    }

    url->data = value->data;
    url->len = last - value->data;

    return NGX_CONF_OK;
}


char *
ngx_http_aiq_check_secret(ngx_str_t *value)
{
    ngx_str_t  name;

    if (ngx_strncmp(value->data, "env:", 4) == 0) {
        name.data = value->data + 4;
        name.len = value->len - 4;

        if (ngx_http_aiq_check_word(&name, "_") != NGX_OK) {
            return "has an invalid name of an environment variable";
        }

    } else if (ngx_strncmp(value->data, "file:", 5) == 0) {
        name.data = value->data + 5;
        name.len = value->len - 5;

        if (ngx_http_aiq_check_word(&name, "._-") != NGX_OK
            || name.data[0] == '.')
        {
            return "has an invalid name of a file, it must be a plain name "
                   "below the engine's folder of secrets";
        }

    } else {
        /* might be the key itself, which must not get into logs */
        return "cannot be written here, it is named: \"env:NAME\" is an "
               "environment variable of the engine, \"file:NAME\" a file in "
               "its folder of secrets";
    }

    return NGX_CONF_OK;
}


/* The engine reads it, as its user and where it runs. */

char *
ngx_http_aiq_set_file(ngx_conf_t *cf, ngx_str_t *value, ngx_str_t *file)
{
    if (file->data) {
        return "is duplicate";
    }

    if (ngx_http_aiq_check_name(cf, "file", value) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    *file = *value;

    if (ngx_conf_full_name(cf->cycle, file, 1) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


char *
ngx_http_aiq_set_time(ngx_conf_t *cf, ngx_str_t *value, size_t prefix,
    ngx_msec_t *time)
{
    ngx_int_t  ms;
    ngx_str_t  s;

    if (*time != NGX_CONF_UNSET_MSEC) {
        return "is duplicate";
    }

    s.data = value->data + prefix;
    s.len = value->len - prefix;

    ms = ngx_parse_time(&s, 0);

    if (ms == NGX_ERROR || ms < 1 || ms > NGX_HTTP_AIQ_TIME_MAX) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid time in \"%V\", "
                           "it must be between 1ms and 1d", value);
        return NGX_CONF_ERROR;
    }

    *time = (ngx_msec_t) ms;

    return NGX_CONF_OK;
}


/* What becomes a string of the document must be UTF-8 without controls. */

ngx_int_t
ngx_http_aiq_check_name(ngx_conf_t *cf, char *what, ngx_str_t *name)
{
    aiq_text  text;

    text.data = (const char *) name->data;
    text.len = name->len;

    if (name->len == 0
        || !aiq_text_clean(name->data, name->len)
        || !ngx_http_aiq_frames_utf8(text))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid %s \"%V\"",
                           what, name);
        return NGX_ERROR;
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_aiq_check_word(ngx_str_t *s, char *more)
{
    u_char  ch;
    size_t  i;

    for (i = 0; i < s->len; i++) {
        ch = s->data[i];

        if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z')
              || (ch >= '0' && ch <= '9') || ngx_strchr(more, ch)))
        {
            return NGX_ERROR;
        }
    }

    return s->len ? NGX_OK : NGX_ERROR;
}


/* post handlers of ngx_conf_set_msec_slot() and ngx_conf_set_size_slot() */

char *
ngx_http_aiq_check_time(ngx_conf_t *cf, void *post, void *data)
{
    ngx_msec_t  *time = data;

    if (*time > NGX_HTTP_AIQ_TIME_MAX) {
        return "must be at most 1d";
    }

    return NGX_CONF_OK;
}


char *
ngx_http_aiq_check_buffer(ngx_conf_t *cf, void *post, void *data)
{
    size_t  *size = data;

    if (*size && (*size < NGX_HTTP_AIQ_BUFFER_MIN
                  || *size > NGX_HTTP_AIQ_BUFFER_MAX))
    {
        return "must be 0 or from 16k to 64m";
    }

    return NGX_CONF_OK;
}
