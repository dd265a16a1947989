
#include "ngx_http_aiq.h"

#include <openssl/evp.h>


#define NGX_HTTP_AIQ_POLICIES  16


typedef struct {
    u_char       sha256[2 * 32];
    int64_t      mtime;        /* nanoseconds */
} ngx_http_aiq_policy_file_t;


static ngx_int_t ngx_http_aiq_policy_document(ngx_conf_t *cf,
    ngx_http_aiq_main_conf_t *amcf, ngx_str_t *document);
static size_t ngx_http_aiq_policy_size(ngx_http_aiq_main_conf_t *amcf);
static u_char *ngx_http_aiq_policy_provider(u_char *p,
    ngx_http_aiq_provider_t *provider);
static u_char *ngx_http_aiq_policy_string(u_char *p, char *key,
    ngx_str_t *value);
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

    if (ngx_http_aiq_check_targets(cf, amcf) != NGX_OK) {
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
        p = ngx_http_aiq_policy_string(p, "name", &model[i].name);
        p = ngx_sprintf(p, ",\"targets\":[{");
        p = ngx_http_aiq_policy_string(p, "provider", &model[i].provider);
        *p++ = ',';
        p = ngx_http_aiq_policy_string(p, "model", &model[i].model);
        p = ngx_sprintf(p, "}]}");
    }

    p = ngx_sprintf(p, "],\n\"locations\":[");

    pass = amcf->passes.elts;

    for (i = 0; i < amcf->passes.nelts; i++) {
        p = ngx_sprintf(p, i ? ",\n{" : "\n{");
        p = ngx_http_aiq_policy_string(p, "service", &pass[i]->service);
        p = ngx_sprintf(p, ",\"max_body\":%O}", pass[i]->conf->max_body_size);
    }

    p = ngx_sprintf(p, "]}\n");

    document->len = p - document->data;

    return NGX_OK;
}


/* An upper bound; 256 bytes cover what surrounds the strings of a record. */

static size_t
ngx_http_aiq_policy_size(ngx_http_aiq_main_conf_t *amcf)
{
    size_t                       size, n;
    ngx_uint_t                   i, k;
    ngx_http_aiq_model_t        *model;
    ngx_http_aiq_provider_t     *provider;
    ngx_http_aiq_local_model_t  *local;

    n = 1 + amcf->providers.nelts + amcf->models.nelts + amcf->passes.nelts;
    size = 0;

    provider = amcf->providers.elts;

    for (i = 0; i < amcf->providers.nelts; i++) {
        size += provider[i].name.len + provider[i].url.len
                + provider[i].key.len;

        local = provider[i].models.elts;
        n += provider[i].models.nelts;

        for (k = 0; k < provider[i].models.nelts; k++) {
            size += local[k].name.len + local[k].path.len;
        }
    }

    model = amcf->models.elts;

    for (i = 0; i < amcf->models.nelts; i++) {
        size += model[i].name.len + model[i].provider.len
                + model[i].model.len;
    }

    for (i = 0; i < amcf->passes.nelts; i++) {
        size += ((ngx_http_aiq_pass_t **) amcf->passes.elts)[i]->service.len;
    }

    /* an escaped character takes at most 6 bytes */

    return n * 256 + size * 6;
}


static u_char *
ngx_http_aiq_policy_provider(u_char *p, ngx_http_aiq_provider_t *provider)
{
    ngx_uint_t                   i;
    ngx_http_aiq_local_model_t  *model;

    p = ngx_http_aiq_policy_string(p, "name", &provider->name);
    *p++ = ',';
    p = ngx_http_aiq_policy_string(p, "dialect", &provider->dialect);

    if (provider->url.len) {
        *p++ = ',';
        p = ngx_http_aiq_policy_string(p, "url", &provider->url);

        if (provider->key.len) {
            *p++ = ',';
            p = ngx_http_aiq_policy_string(p, "key", &provider->key);
        }

        return ngx_sprintf(p, ",\"connect_ms\":%M,\"first_byte_ms\":%M,"
                           "\"idle_ms\":%M",
                           provider->connect, provider->first_byte,
                           provider->idle);
    }

    p = ngx_sprintf(p, ",\"models\":[");

    model = provider->models.elts;

    for (i = 0; i < provider->models.nelts; i++) {
        p = ngx_sprintf(p, i ? ",{" : "{");
        p = ngx_http_aiq_policy_string(p, "name", &model[i].name);
        *p++ = ',';
        p = ngx_http_aiq_policy_string(p, "path", &model[i].path);
        *p++ = '}';
    }

    *p++ = ']';

    return p;
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
