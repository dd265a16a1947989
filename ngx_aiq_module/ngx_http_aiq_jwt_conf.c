
#include "ngx_http_aiq_jwt.h"

#include <openssl/sha.h>


/* the directives, and the keys that they name, read into the configuration */


static ngx_http_complex_value_t *ngx_http_aiq_jwt_value(ngx_conf_t *cf,
    ngx_str_t *value);
static ngx_http_aiq_jwt_set_t *ngx_http_aiq_jwt_create_set(ngx_conf_t *cf);
static void ngx_http_aiq_jwt_set_cleanup(void *data);
static ngx_int_t ngx_http_aiq_jwt_read_file(ngx_conf_t *cf, ngx_str_t *name,
    ngx_str_t *text);


char *
ngx_http_aiq_jwt(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_jwt_loc_conf_t *jlcf = conf;

    ngx_str_t                     *value, token;
    ngx_http_aiq_jwt_main_conf_t  *jmcf;

    if (jlcf->realm != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    jlcf->token = NULL;
    jlcf->message = 0;

    if (ngx_strcmp(value[1].data, "off") == 0 && cf->args->nelts == 2) {
        jlcf->realm = NULL;
        return NGX_CONF_OK;
    }

    if (cf->args->nelts == 3
        && ngx_strcmp(value[2].data, "token=message") == 0)
    {
        jlcf->message = 1;

    } else if (cf->args->nelts == 3) {

        if (ngx_strncmp(value[2].data, "token=$", 7) != 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\"", &value[2]);
            return NGX_CONF_ERROR;
        }

        token.data = value[2].data + 6;
        token.len = value[2].len - 6;

        jlcf->token = ngx_http_aiq_jwt_value(cf, &token);
        if (jlcf->token == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    jlcf->realm = ngx_http_aiq_jwt_value(cf, &value[1]);
    if (jlcf->realm == NULL) {
        return NGX_CONF_ERROR;
    }

    jlcf->file = cf->conf_file->file.name.data;
    jlcf->line = cf->conf_file->line;

    jmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_aiq_jwt_module);
    jmcf->enabled = 1;

    return NGX_CONF_OK;
}


static ngx_http_complex_value_t *
ngx_http_aiq_jwt_value(ngx_conf_t *cf, ngx_str_t *value)
{
    ngx_http_complex_value_t          *cv;
    ngx_http_compile_complex_value_t   ccv;

    cv = ngx_pcalloc(cf->pool, sizeof(ngx_http_complex_value_t));
    if (cv == NULL) {
        return NULL;
    }

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = value;
    ccv.complex_value = cv;

    return ngx_http_compile_complex_value(&ccv) == NGX_OK ? cv : NULL;
}


char *
ngx_http_aiq_jwt_key_file(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_jwt_loc_conf_t *jlcf = conf;

    int          rc;
    ngx_str_t   *value, text;
    const char  *error;

    value = cf->args->elts;

    if (ngx_conf_full_name(cf->cycle, &value[1], 1) != NGX_OK
        || ngx_http_aiq_jwt_read_file(cf, &value[1], &text) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (jlcf->set == NULL) {
        jlcf->set = ngx_http_aiq_jwt_create_set(cf);
        if (jlcf->set == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    rc = ngx_http_aiq_jwt_keys_add(jlcf->set->keys, (char *) text.data,
                                   text.len, 1, &error);

    ngx_http_aiq_jwt_chain(jlcf->set->digest, &text);
    ngx_explicit_memzero(text.data, text.len);

    if (rc != 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "the key file \"%V\" %s",
                           &value[1], error);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static ngx_http_aiq_jwt_set_t *
ngx_http_aiq_jwt_create_set(ngx_conf_t *cf)
{
    ngx_pool_cleanup_t             *cln;
    ngx_http_aiq_jwt_set_t         *set, **sets;
    ngx_http_aiq_jwt_main_conf_t   *jmcf;

    jmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_aiq_jwt_module);

    cln = ngx_pool_cleanup_add(cf->pool, sizeof(ngx_http_aiq_jwt_set_t));
    if (cln == NULL) {
        return NULL;
    }

    set = cln->data;
    ngx_memzero(set, sizeof(ngx_http_aiq_jwt_set_t));

    set->keys = ngx_http_aiq_jwt_keys_create();
    if (set->keys == NULL) {
        return NULL;
    }

    cln->handler = ngx_http_aiq_jwt_set_cleanup;

    sets = ngx_array_push(&jmcf->sets);
    if (sets == NULL) {
        return NULL;
    }

    *sets = set;

    return set;
}


static void
ngx_http_aiq_jwt_set_cleanup(void *data)
{
    ngx_http_aiq_jwt_set_t *set = data;

    ngx_http_aiq_jwt_keys_free(set->keys);
}


static ngx_int_t
ngx_http_aiq_jwt_read_file(ngx_conf_t *cf, ngx_str_t *name, ngx_str_t *text)
{
    off_t            size;
    ssize_t          n;
    ngx_file_t       file;
    ngx_file_info_t  fi;

    ngx_memzero(&file, sizeof(ngx_file_t));

    file.name = *name;
    file.log = cf->log;
    file.fd = ngx_open_file(name->data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (file.fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_open_file_n " \"%V\" failed", name);
        return NGX_ERROR;
    }

    n = -1;

    if (ngx_fd_info(file.fd, &fi) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_fd_info_n " \"%V\" failed", name);
        goto done;
    }

    size = ngx_file_size(&fi);

    if (size > NGX_HTTP_AIQ_JWT_KEYSET_MAX) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the key file \"%V\" is too large", name);
        goto done;
    }

    text->data = ngx_pnalloc(cf->temp_pool, size + 1);
    if (text->data == NULL) {
        goto done;
    }

    n = ngx_read_file(&file, text->data, size, 0);

    if (n == NGX_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_read_file_n " \"%V\" failed", name);
        goto done;
    }

    text->len = n;

done:

    if (ngx_close_file(file.fd) == NGX_FILE_ERROR) {
        ngx_log_error(NGX_LOG_ALERT, cf->log, ngx_errno,
                      ngx_close_file_n " \"%V\" failed", name);
    }

    return n < 0 ? NGX_ERROR : NGX_OK;
}


char *
ngx_http_aiq_jwt_key_request(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_jwt_loc_conf_t *jlcf = conf;

    ngx_str_t                     *value;
    ngx_http_aiq_jwt_main_conf_t  *jmcf;

    if (jlcf->remote) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (value[1].len == 0 || value[1].data[0] != '/') {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid URI \"%V\", it must begin with \"/\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    jlcf->remote = ngx_http_aiq_jwt_remote_create(cf, &value[1]);
    if (jlcf->remote == NULL) {
        return NGX_CONF_ERROR;
    }

    jmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_aiq_jwt_module);
    jmcf->remote = 1;

    return NGX_CONF_OK;
}


char *
ngx_http_aiq_jwt_names(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char  *p = conf;

    ngx_str_t     *value, *name;
    ngx_uint_t     i;
    ngx_array_t  **names;

    names = (ngx_array_t **) (p + cmd->offset);

    if (*names != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    *names = ngx_array_create(cf->pool, cf->args->nelts, sizeof(ngx_str_t));
    if (*names == NULL) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (value[i].len == 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "empty name");
            return NGX_CONF_ERROR;
        }

        name = ngx_array_push(*names);
        if (name == NULL) {
            return NGX_CONF_ERROR;
        }

        *name = value[i];
    }

    return NGX_CONF_OK;
}


char *
ngx_http_aiq_jwt_require(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_jwt_loc_conf_t *jlcf = conf;

    ngx_str_t                   *value;
    ngx_uint_t                   i, n, error;
    ngx_http_complex_value_t    *cv, *compiled;
    ngx_http_aiq_jwt_require_t  *require;

    value = cf->args->elts;
    n = cf->args->nelts;
    error = NGX_HTTP_FORBIDDEN;

    if (ngx_strncmp(value[n - 1].data, "error=", 6) == 0) {
        n--;

        if (ngx_strcmp(value[n].data, "error=401") == 0) {
            error = NGX_HTTP_UNAUTHORIZED;

        } else if (ngx_strcmp(value[n].data, "error=403") != 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\", it must be "
                               "\"error=401\" or \"error=403\"", &value[n]);
            return NGX_CONF_ERROR;
        }
    }

    if (jlcf->require == NGX_CONF_UNSET_PTR) {
        jlcf->require = ngx_array_create(cf->pool, 2,
                                         sizeof(ngx_http_aiq_jwt_require_t));
        if (jlcf->require == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    require = ngx_array_push(jlcf->require);
    if (require == NULL) {
        return NGX_CONF_ERROR;
    }

    require->error = error;
    require->values = ngx_array_create(cf->pool, n,
                                       sizeof(ngx_http_complex_value_t));
    if (require->values == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 1; i < n; i++) {

        /* what is no variable is always true */

        if (value[i].len < 2 || value[i].data[0] != '$') {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid variable name \"%V\"", &value[i]);
            return NGX_CONF_ERROR;
        }

        cv = ngx_array_push(require->values);
        compiled = ngx_http_aiq_jwt_value(cf, &value[i]);

        if (cv == NULL || compiled == NULL) {
            return NGX_CONF_ERROR;
        }

        *cv = *compiled;
    }

    if (require->values->nelts == 0) {
        return "has nothing to require";
    }

    return NGX_CONF_OK;
}


char *
ngx_http_aiq_jwt_identity(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_jwt_loc_conf_t *jlcf = conf;

    ngx_str_t   *value, *claim;
    ngx_uint_t   i, skip;

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "tenant=", 7) == 0) {
            claim = &jlcf->tenant;
            skip = 7;

        } else if (ngx_strncmp(value[i].data, "user=", 5) == 0) {
            claim = &jlcf->user;
            skip = 5;

        } else if (ngx_strncmp(value[i].data, "role=", 5) == 0) {
            claim = &jlcf->role;
            skip = 5;

        } else {
            claim = NULL;
            skip = 0;
        }

        if (claim == NULL || value[i].len == skip) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\"", &value[i]);
            return NGX_CONF_ERROR;
        }

        if (claim->data) {
            return "is duplicate";
        }

        claim->data = value[i].data + skip;
        claim->len = value[i].len - skip;
    }

    return NGX_CONF_OK;
}


void
ngx_http_aiq_jwt_chain(u_char *digest, ngx_str_t *text)
{
    u_char  both[2 * NGX_HTTP_AIQ_AUTH_DIGEST];

    ngx_memcpy(both, digest, NGX_HTTP_AIQ_AUTH_DIGEST);
    SHA256(text->data, text->len, both + NGX_HTTP_AIQ_AUTH_DIGEST);
    SHA256(both, sizeof(both), digest);
}
