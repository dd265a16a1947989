
#include "ngx_http_aiq.h"

#include <openssl/evp.h>


#define NGX_HTTP_AIQ_POLICIES  16


typedef struct {
    u_char       sha256[2 * 32];
    int64_t      mtime;        /* nanoseconds */
} ngx_http_aiq_policy_file_t;


static ngx_int_t ngx_http_aiq_policy_document(ngx_conf_t *cf,
    ngx_http_aiq_main_conf_t *amcf, ngx_str_t *document);
static ngx_int_t ngx_http_aiq_policy_check_files(ngx_conf_t *cf,
    ngx_http_aiq_main_conf_t *amcf);
static size_t ngx_http_aiq_policy_size(ngx_http_aiq_main_conf_t *amcf);
static u_char *ngx_http_aiq_policy_provider(u_char *p,
    ngx_http_aiq_provider_t *provider);
static u_char *ngx_http_aiq_policy_remote(u_char *p,
    ngx_http_aiq_provider_t *provider);
static u_char *ngx_http_aiq_policy_model(u_char *p,
    ngx_http_aiq_model_t *model);
static u_char *ngx_http_aiq_policy_target(u_char *p,
    ngx_http_aiq_target_t *target);
static u_char *ngx_http_aiq_policy_option(u_char *p, char *key,
    ngx_str_t *value);
static u_char *ngx_http_aiq_policy_string(u_char *p, char *key,
    ngx_str_t *value);
static u_char *ngx_http_aiq_policy_number(u_char *p, char *key,
    uint64_t value);
static ngx_int_t ngx_http_aiq_policy_write(ngx_conf_t *cf,
    ngx_http_aiq_main_conf_t *amcf, ngx_str_t *document);
static ngx_int_t ngx_http_aiq_policy_failed(ngx_conf_t *cf, char *what,
    u_char *name);
static ngx_int_t ngx_libc_cdecl ngx_http_aiq_policy_cmp(const void *one,
    const void *two);


/*
 * The document is written here and not in init_module: there a failure would
 * end the master, here it keeps the configuration that runs.
 */

ngx_int_t
ngx_http_aiq_policy_init(ngx_conf_t *cf, ngx_http_aiq_main_conf_t *amcf)
{
    ngx_str_t  document;

    if (ngx_http_aiq_check_models(cf, amcf) != NGX_OK
        || ngx_http_aiq_policy_check_files(cf, amcf) != NGX_OK
        || ngx_http_aiq_cache_check(cf, amcf) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (amcf->engine.len == 0 || ngx_test_config
        || ngx_process == NGX_PROCESS_SIGNALLER)
    {
        return NGX_OK;
    }

    if (ngx_http_aiq_policy_document(cf, amcf, &document) != NGX_OK) {
        return NGX_ERROR;
    }

    if (EVP_Digest(document.data, document.len, amcf->sha256, NULL,
                   EVP_sha256(), NULL)
        != 1)
    {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0, "EVP_Digest() failed");
        return NGX_ERROR;
    }

    return ngx_http_aiq_policy_write(cf, amcf, &document);
}


static ngx_int_t
ngx_http_aiq_policy_document(ngx_conf_t *cf, ngx_http_aiq_main_conf_t *amcf,
    ngx_str_t *document)
{
    u_char                    *p;
    ngx_uint_t                 i;
    struct timeval             tv;
    ngx_http_aiq_model_t      *model;
    ngx_http_aiq_pass_t      **pass;
    ngx_http_aiq_provider_t   *provider;

    p = ngx_pnalloc(cf->pool, ngx_http_aiq_policy_size(amcf));
    if (p == NULL) {
        return NGX_ERROR;
    }

    document->data = p;

    ngx_gettimeofday(&tv);

    p = ngx_sprintf(p, "{\"aiq\":1,\"epoch\":%uL,\"providers\":[",
                    (uint64_t) tv.tv_sec * 1000000 + tv.tv_usec);

    provider = amcf->providers.elts;

    for (i = 0; i < amcf->providers.nelts; i++) {
        p = ngx_sprintf(p, i ? ",\n{" : "\n{");
        p = ngx_http_aiq_policy_provider(p, &provider[i]);
        *p++ = '}';
    }

    p = ngx_sprintf(p, "],\n\"models\":[");

    model = amcf->models.elts;

    for (i = 0; i < amcf->models.nelts; i++) {
        p = ngx_sprintf(p, i ? ",\n{" : "\n{");
        p = ngx_http_aiq_policy_model(p, &model[i]);
        *p++ = '}';
    }

    p = ngx_sprintf(p, "],\n\"locations\":[");

    pass = amcf->passes.elts;

    for (i = 0; i < amcf->passes.nelts; i++) {
        p = ngx_sprintf(p, i ? ",\n{" : "\n{");
        p = ngx_http_aiq_policy_string(p, "service", &pass[i]->service);
        p = ngx_sprintf(p, ",\"max_body\":%O", pass[i]->conf->max_body_size);

        p = ngx_http_aiq_policy_number(p, "cache_ttl_ms",
                                       pass[i]->conf->cache_ttl);
        p = ngx_http_aiq_cache_document(p, pass[i]->conf->semantic);
        p = ngx_http_aiq_policy_number(p, "stream_buffer",
                                       pass[i]->conf->stream_buffer);
        p = ngx_http_aiq_policy_number(p, "stream_grace_ms",
                                       pass[i]->conf->stream_grace);
        p = ngx_http_aiq_policy_number(p, "abort_drain_ms",
                                       pass[i]->conf->abort_drain);

        if (pass[i]->websocket) {
            p = ngx_sprintf(p, ",\"websocket\":true");
        }

        p = ngx_http_aiq_budget_document(p, pass[i]->conf->budgets);
        p = ngx_http_aiq_limit_document(p, pass[i]->conf->limits);

        if (pass[i]->conf->files) {
            p = ngx_http_aiq_policy_option(p, "files",
                                           &pass[i]->conf->files->provider);
        }

        *p++ = '}';
    }

    p = ngx_sprintf(p, "]}\n");

    document->len = p - document->data;

    return NGX_OK;
}


/* "aiq_files" may name a provider that comes after it */

static ngx_int_t
ngx_http_aiq_policy_check_files(ngx_conf_t *cf, ngx_http_aiq_main_conf_t *amcf)
{
    ngx_uint_t                i, n;
    ngx_http_aiq_pass_t     **pass;
    ngx_http_aiq_files_t     *files;
    ngx_http_aiq_provider_t  *provider;

    pass = amcf->passes.elts;
    provider = amcf->providers.elts;

    for (i = 0; i < amcf->passes.nelts; i++) {

        files = pass[i]->conf->files;

        if (files == NULL) {
            continue;
        }

        for (n = 0; n < amcf->providers.nelts; n++) {
            if (provider[n].name.len == files->provider.len
                && ngx_strncmp(provider[n].name.data, files->provider.data,
                               files->provider.len)
                   == 0
                && provider[n].dialect.len == sizeof("openai") - 1
                && ngx_strncmp(provider[n].dialect.data, "openai",
                               sizeof("openai") - 1)
                   == 0)
            {
                break;
            }
        }

        if (n == amcf->providers.nelts) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"%V\" is no provider of the dialect \"openai\" "
                          "in %s:%ui",
                          &files->provider, files->file, files->line);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* An upper bound; 768 bytes cover what stands around the strings of a record. */

static size_t
ngx_http_aiq_policy_size(ngx_http_aiq_main_conf_t *amcf)
{
    size_t                       size, n, limits;
    ngx_str_t                   *key;
    ngx_uint_t                   i, k;
    ngx_keyval_t                *header;
    ngx_http_aiq_pass_t        **pass;
    ngx_http_aiq_model_t        *model;
    ngx_http_aiq_target_t       *target;
    ngx_http_aiq_provider_t     *provider;
    ngx_http_aiq_local_model_t  *local;

    n = 1 + amcf->providers.nelts + amcf->models.nelts + amcf->passes.nelts;
    size = 0;

    provider = amcf->providers.elts;

    for (i = 0; i < amcf->providers.nelts; i++) {
        size += provider[i].name.len + provider[i].url.len
                + provider[i].key_header.len + provider[i].query.len
                + provider[i].ca.len + provider[i].certificate.len
                + provider[i].certificate_key.len + provider[i].proxy.len
                + provider[i].check_uri.len;

        n += provider[i].models.nelts + provider[i].keys.nelts
             + provider[i].headers.nelts;

        local = provider[i].models.elts;

        for (k = 0; k < provider[i].models.nelts; k++) {
            size += local[k].name.len + local[k].path.len;
        }

        key = provider[i].keys.elts;

        for (k = 0; k < provider[i].keys.nelts; k++) {
            size += key[k].len;
        }

        header = provider[i].headers.elts;

        for (k = 0; k < provider[i].headers.nelts; k++) {
            size += header[k].key.len + header[k].value.len;
        }
    }

    model = amcf->models.elts;

    for (i = 0; i < amcf->models.nelts; i++) {
        size += model[i].name.len + model[i].context.len
                + model[i].content.len;

        n += model[i].targets.nelts;
        target = model[i].targets.elts;

        for (k = 0; k < model[i].targets.nelts; k++) {
            size += target[k].provider.len + target[k].model.len;
        }
    }

    pass = amcf->passes.elts;
    limits = 0;

    for (i = 0; i < amcf->passes.nelts; i++) {
        size += pass[i]->service.len;
        limits += ngx_http_aiq_limit_document_len(pass[i]->conf->limits);

        if (pass[i]->conf->files) {
            size += pass[i]->conf->files->provider.len;
        }

        if (pass[i]->conf->semantic) {
            size += pass[i]->conf->semantic->embed.len;
        }
    }

    /* an escaped character takes at most 6 bytes */

    return n * 768 + size * 6 + limits
           + amcf->passes.nelts * NGX_HTTP_AIQ_BUDGETS_LEN;
}


static u_char *
ngx_http_aiq_policy_provider(u_char *p, ngx_http_aiq_provider_t *provider)
{
    ngx_uint_t                   i;
    ngx_http_aiq_local_model_t  *model;

    p = ngx_http_aiq_policy_string(p, "name", &provider->name);
    *p++ = ',';
    p = ngx_http_aiq_policy_string(p, "dialect", &provider->dialect);

    p = ngx_sprintf(p, ",\"attempts\":%ui,\"backoff_ms\":%M"
                    ",\"breaker_failures\":%ui,\"breaker_open_ms\":%M",
                    provider->attempts, provider->backoff,
                    provider->failures, provider->open);

    if (provider->url.len) {
        return ngx_http_aiq_policy_remote(p, provider);
    }

    p = ngx_sprintf(p, ",\"models\":[");

    model = provider->models.elts;

    for (i = 0; i < provider->models.nelts; i++) {
        p = ngx_sprintf(p, i ? ",{" : "{");
        p = ngx_http_aiq_policy_string(p, "name", &model[i].name);
        *p++ = ',';
        p = ngx_http_aiq_policy_string(p, "path", &model[i].path);

        if (model[i].replicas) {
            p = ngx_sprintf(p, ",\"replicas\":%ui", model[i].replicas);
        }

        *p++ = '}';
    }

    *p++ = ']';

    return p;
}


static u_char *
ngx_http_aiq_policy_remote(u_char *p, ngx_http_aiq_provider_t *provider)
{
    ngx_str_t     *key;
    ngx_uint_t     i;
    ngx_keyval_t  *header;

    p = ngx_http_aiq_policy_option(p, "url", &provider->url);

    p = ngx_sprintf(p, ",\"keys\":[");

    key = provider->keys.elts;

    for (i = 0; i < provider->keys.nelts; i++) {
        p = ngx_sprintf(p, i ? ",\"" : "\"");
        p = (u_char *) ngx_escape_json(p, key[i].data, key[i].len);
        *p++ = '"';
    }

    p = ngx_sprintf(p, "],\"headers\":[");

    header = provider->headers.elts;

    for (i = 0; i < provider->headers.nelts; i++) {
        p = ngx_sprintf(p, i ? ",{" : "{");
        p = ngx_http_aiq_policy_string(p, "name", &header[i].key);
        *p++ = ',';
        p = ngx_http_aiq_policy_string(p, "value", &header[i].value);
        *p++ = '}';
    }

    *p++ = ']';

    p = ngx_http_aiq_policy_option(p, "key_header", &provider->key_header);
    p = ngx_http_aiq_policy_option(p, "query", &provider->query);

    if (provider->no_stream_options) {
        p = ngx_sprintf(p, ",\"no_stream_options\":true");
    }

    if (provider->no_max_completion_tokens) {
        p = ngx_sprintf(p, ",\"no_max_completion_tokens\":true");
    }

    p = ngx_http_aiq_policy_option(p, "ca", &provider->ca);
    p = ngx_http_aiq_policy_option(p, "certificate", &provider->certificate);
    p = ngx_http_aiq_policy_option(p, "certificate_key",
                                   &provider->certificate_key);
    p = ngx_http_aiq_policy_option(p, "proxy", &provider->proxy);

    if (provider->http_version == 2) {
        p = ngx_sprintf(p, ",\"http2\":true");
    }

    if (provider->check_uri.len) {
        p = ngx_sprintf(p, ",\"check\":{");
        p = ngx_http_aiq_policy_string(p, "uri", &provider->check_uri);
        p = ngx_sprintf(p, ",\"interval_ms\":%M,\"timeout_ms\":%M,"
                        "\"fails\":%ui,\"passes\":%ui}",
                        provider->check_interval, provider->check_timeout,
                        provider->check_fails, provider->check_passes);
    }

    return ngx_sprintf(p, ",\"connect_ms\":%M,\"first_byte_ms\":%M,"
                       "\"idle_ms\":%M,\"total_ms\":%M",
                       provider->connect, provider->first_byte,
                       provider->idle, provider->total);
}


static u_char *
ngx_http_aiq_policy_model(u_char *p, ngx_http_aiq_model_t *model)
{
    ngx_uint_t              i;
    ngx_http_aiq_target_t  *target;

    p = ngx_http_aiq_policy_string(p, "name", &model->name);
    *p++ = ',';
    p = ngx_http_aiq_policy_string(p, "policy", &model->policy);

    if (model->key >= 0) {
        p = ngx_sprintf(p, ",\"key\":%i", model->key);
    }

    p = ngx_http_aiq_policy_option(p, "context_fallback", &model->context);
    p = ngx_http_aiq_policy_option(p, "content_fallback", &model->content);

    if (model->hedge) {
        p = ngx_sprintf(p, ",\"hedge_ms\":%M", model->hedge);
    }

    p = ngx_sprintf(p, ",\"retry_timeout_ms\":%M,\"targets\":[",
                    model->retry_timeout);

    target = model->targets.elts;

    for (i = 0; i < model->targets.nelts; i++) {
        p = ngx_sprintf(p, i ? ",{" : "{");
        p = ngx_http_aiq_policy_target(p, &target[i]);
        *p++ = '}';
    }

    *p++ = ']';

    return p;
}


static u_char *
ngx_http_aiq_policy_target(u_char *p, ngx_http_aiq_target_t *target)
{
    p = ngx_http_aiq_policy_string(p, "provider", &target->provider);
    *p++ = ',';
    p = ngx_http_aiq_policy_string(p, "model", &target->model);

    p = ngx_sprintf(p, ",\"weight\":%ui", target->weight);

    if (target->input != NGX_CONF_UNSET) {
        p = ngx_sprintf(p, ",\"input\":%L", target->input);
    }

    if (target->cached != NGX_CONF_UNSET) {
        p = ngx_sprintf(p, ",\"cached\":%L", target->cached);
    }

    if (target->output != NGX_CONF_UNSET) {
        p = ngx_sprintf(p, ",\"output\":%L", target->output);
    }

    if (target->characters != NGX_CONF_UNSET) {
        p = ngx_sprintf(p, ",\"characters\":%L", target->characters);
    }

    if (target->image != NGX_CONF_UNSET) {
        p = ngx_sprintf(p, ",\"image\":%L", target->image);
    }

    if (target->minute != NGX_CONF_UNSET) {
        p = ngx_sprintf(p, ",\"minute\":%L", target->minute);
    }

    if (target->condition >= 0) {
        p = ngx_sprintf(p, ",\"condition\":%i", target->condition);
    }

    if (target->max_body) {
        p = ngx_sprintf(p, ",\"max_body\":%O", target->max_body);
    }

    if (target->backup) {
        p = ngx_sprintf(p, ",\"backup\":true");
    }

    if (target->noncritical) {
        p = ngx_sprintf(p, ",\"noncritical\":true");
    }

    return p;
}


/* A member that is not the first, if there is anything in it. */

static u_char *
ngx_http_aiq_policy_option(u_char *p, char *key, ngx_str_t *value)
{
    if (value->len == 0) {
        return p;
    }

    *p++ = ',';

    return ngx_http_aiq_policy_string(p, key, value);
}


/* the engine takes what is not there as 0 */

static u_char *
ngx_http_aiq_policy_number(u_char *p, char *key, uint64_t value)
{
    if (value == 0) {
        return p;
    }

    return ngx_sprintf(p, ",\"%s\":%uL", key, value);
}


static u_char *
ngx_http_aiq_policy_string(u_char *p, char *key, ngx_str_t *value)
{
    p = ngx_sprintf(p, "\"%s\":\"", key);
    p = (u_char *) ngx_escape_json(p, value->data, value->len);
    *p++ = '"';

    return p;
}


static ngx_int_t
ngx_http_aiq_policy_write(ngx_conf_t *cf, ngx_http_aiq_main_conf_t *amcf,
    ngx_str_t *document)
{
    u_char    *p, *folder, *temp;
    size_t     len;
    ssize_t    n;
    ngx_fd_t   fd;

    len = amcf->engine.len + sizeof(".policy/") + 2 * 32 + sizeof(".json");

    folder = ngx_pnalloc(cf->pool, len);
    temp = ngx_pnalloc(cf->pool, len + sizeof(".") + NGX_INT64_LEN);
    p = ngx_pnalloc(cf->pool, len);

    if (folder == NULL || temp == NULL || p == NULL) {
        return NGX_ERROR;
    }

    ngx_sprintf(folder, "%V.policy%Z", &amcf->engine);

    amcf->policy.data = p;
    p = ngx_sprintf(p, "%s/", folder);
    p = ngx_hex_dump(p, amcf->sha256, 32);
    p = ngx_sprintf(p, ".json%Z");
    amcf->policy.len = p - amcf->policy.data - 1;

    ngx_sprintf(temp, "%V.%P%Z", &amcf->policy, ngx_pid);

    if (ngx_create_dir(folder, 0755) == NGX_FILE_ERROR
        && ngx_errno != NGX_EEXIST)
    {
        return ngx_http_aiq_policy_failed(cf, "make the folder", folder);
    }

    fd = ngx_open_file(temp, NGX_FILE_WRONLY, NGX_FILE_TRUNCATE, 0644);

    if (fd == NGX_INVALID_FILE) {
        return ngx_http_aiq_policy_failed(cf, "write", temp);
    }

    n = ngx_write_fd(fd, document->data, document->len);

    /* the engine's user reads it, whatever our umask is */

    if (n == (ssize_t) document->len && fchmod(fd, 0644) == 0
        && ngx_rename_file(temp, amcf->policy.data) != NGX_FILE_ERROR)
    {
        ngx_close_file(fd);
        return NGX_OK;
    }

    (void) ngx_http_aiq_policy_failed(cf, "write", amcf->policy.data);

    ngx_close_file(fd);
    (void) ngx_delete_file(temp);

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_aiq_policy_failed(ngx_conf_t *cf, char *what, u_char *name)
{
    ngx_log_error(NGX_LOG_EMERG, cf->log, ngx_errno,
                  "cannot %s \"%s\" of the policy for the engine; the folder "
                  "of the engine's socket must exist and nginx's master must "
                  "be allowed to write there",
                  what, name);

    return NGX_ERROR;
}


/*
 * Old workers that still serve may have to connect anew, so documents of the
 * last configurations stay.
 */

void
ngx_http_aiq_policy_prune(ngx_cycle_t *cycle, ngx_http_aiq_main_conf_t *amcf)
{
    u_char                      *name;
    ngx_dir_t                    dir;
    ngx_str_t                    folder;
    ngx_uint_t                   i;
    ngx_array_t                  files;
    ngx_pool_t                  *pool;
    ngx_http_aiq_policy_file_t  *file;

    pool = ngx_create_pool(NGX_DEFAULT_POOL_SIZE, cycle->log);
    if (pool == NULL) {
        return;
    }

    folder.len = amcf->policy.len - (sizeof("/.json") - 1 + 2 * 32);
    folder.data = ngx_pnalloc(pool, folder.len + 1);
    name = ngx_pnalloc(pool, amcf->policy.len + 1);

    if (folder.data == NULL || name == NULL
        || ngx_array_init(&files, pool, 2 * NGX_HTTP_AIQ_POLICIES,
                          sizeof(ngx_http_aiq_policy_file_t))
           != NGX_OK)
    {
        goto done;
    }

    ngx_cpystrn(folder.data, amcf->policy.data, folder.len + 1);

    if (ngx_open_dir(&folder, &dir) == NGX_ERROR) {
        goto done;
    }

    while (ngx_read_dir(&dir) == NGX_OK) {

        if (ngx_de_namelen(&dir) != 2 * 32 + sizeof(".json") - 1
            || ngx_strcmp(ngx_de_name(&dir) + 2 * 32, ".json") != 0)
        {
            continue;
        }

        ngx_sprintf(name, "%V/%s%Z", &folder, ngx_de_name(&dir));

        if (ngx_de_info(name, &dir) == NGX_FILE_ERROR) {
            continue;
        }

        file = ngx_array_push(&files);
        if (file == NULL) {
            break;
        }

        ngx_memcpy(file->sha256, ngx_de_name(&dir), 2 * 32);
        file->mtime = (int64_t) dir.info.st_mtim.tv_sec * 1000000000
                      + dir.info.st_mtim.tv_nsec;
    }

    ngx_close_dir(&dir);

    ngx_sort(files.elts, files.nelts, sizeof(ngx_http_aiq_policy_file_t),
             ngx_http_aiq_policy_cmp);

    file = files.elts;

    for (i = NGX_HTTP_AIQ_POLICIES; i < files.nelts; i++) {

        ngx_sprintf(name, "%V/%*s.json%Z", &folder, (size_t) 2 * 32,
                    file[i].sha256);

        if (ngx_strcmp(name, amcf->policy.data) != 0) {
            (void) ngx_delete_file(name);
        }
    }

done:

    ngx_destroy_pool(pool);
}


static ngx_int_t ngx_libc_cdecl
ngx_http_aiq_policy_cmp(const void *one, const void *two)
{
    ngx_http_aiq_policy_file_t  *first, *second;

    first = (ngx_http_aiq_policy_file_t *) one;
    second = (ngx_http_aiq_policy_file_t *) two;

    return (first->mtime < second->mtime) - (first->mtime > second->mtime);
}


void
ngx_http_aiq_policy_remove(ngx_http_aiq_main_conf_t *amcf)
{
    (void) ngx_delete_file(amcf->policy.data);
}
