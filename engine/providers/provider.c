#include "providers/provider.h"
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

/* Seconds; whoever asks for more is not asked again before that. */
#define RETRY_AFTER_MAX 86400

static const provider_dialect *const providers[] = {&provider_openai, &provider_anthropic,
                                                    &provider_local_embeddings,
                                                    &provider_local_counting, &provider_local};

const provider_dialect *provider_find(const char *dialect, const char *path)
{
    for (size_t i = 0; i < sizeof(providers) / sizeof(providers[0]); i++) {
        const provider_dialect *p = providers[i];

        if (strcmp(p->dialect, dialect) == 0 &&
            (p->path == NULL || (path && strcmp(p->path, path) == 0))) {
            return p;
        }
    }
    return NULL;
}

int64_t provider_count(const json_value *value)
{
    int64_t n;

    if (value->type != JSON_NUMBER || !json_int(value, &n) || n < 0) {
        return -1;
    }
    return n < INT32_MAX ? n : INT32_MAX;
}

bool provider_key(const provider_request *request, aiq_str *key, aiq_err *err)
{
    *key = (aiq_str){0};
    if (request->key && !secrets_get(request->secrets, request->key, key, err)) {
        snprintf(err->message, sizeof(err->message), "The key of provider '%.100s' is missing.",
                 request->target->provider->name);
        return false;
    }
    return true;
}

static char *add_field(char *p, const char *name, const char *separator, aiq_str value)
{
    p = stpcpy(stpcpy(p, name), separator);
    p = mempcpy(p, value.data, value.len);
    return stpcpy(p, "\r\n");
}

/* By hand, for printf costs as much as all else that a request's head takes. */
aiq_str provider_headers(const provider_request *request, const char *key_line, aiq_str key,
                         aiq_str lines)
{
    const policy_provider *provider = request->target->provider;
    const char *name = provider->key_header;
    aiq_str type = request->chat->content_type;
    size_t size =
        128 + strlen(key_line) + (name ? strlen(name) : 0) + key.len + lines.len + type.len;

    for (size_t i = 0; i < provider->n_headers; i++) {
        const policy_header *h = &provider->headers[i];
        size += strlen(h->name) + strlen(h->value) + 4;
    }
    char *out = aiq_pool_alloc(request->pool, size), *p = out;
    p = add_field(p, "Content-Type", ": ", type.len ? type : AIQ_STR("application/json"));
    p = stpcpy(p, request->chat->raw      ? "Accept: */*\r\n"
                  : request->chat->stream ? "Accept: text/event-stream\r\n"
                                          : "Accept: application/json\r\n");
    p = mempcpy(p, lines.data, lines.len);
    if (key.len) {
        p = add_field(p, name ? name : key_line, name ? ": " : "", key);
    }
    for (size_t i = 0; i < provider->n_headers; i++) {
        const policy_header *h = &provider->headers[i];
        p = add_field(p, h->name, ": ", (aiq_str){h->value, strlen(h->value)});
    }
    return (aiq_str){out, (size_t)(p - out)};
}

http_call provider_call(const policy_provider *p, const char *path)
{
    return (http_call){
        .method = "POST",
        .url = p->url,
        .via = {p->ca, p->certificate, p->certificate_key, p->proxy, p->http2},
        .path = path,
        .query = p->query,
        .connect_ms = p->connect_ms,
        .first_byte_ms = p->first_byte_ms,
        .idle_ms = p->idle_ms,
        .total_ms = p->total_ms,
    };
}

const char *provider_query(const provider_request *request)
{
    const char *own = request->target->provider->query;
    aiq_str args = request->chat->args;

    if (args.len == 0) {
        return own;
    }
    return aiq_pool_printf(request->pool, "%.*s%s%s", (int)args.len, args.data, own ? "&" : "",
                           own ? own : "");
}

void provider_cancel(void *call)
{
    http_request **http = call;

    if (*http) {
        http_cancel(*http);
        *http = NULL;
    }
}

void provider_pause(void *call)
{
    http_request **http = call;

    if (*http) {
        http_pause(*http);
    }
}

void provider_resume(void *call)
{
    http_request **http = call;

    if (*http) {
        http_resume(*http);
    }
}

bool provider_check_headers(const policy_provider *provider, const char *name, secrets *s,
                            aiq_pool *pool, aiq_str *lines, aiq_err *err)
{
    static const chat_request nothing;
    const provider_dialect *dialect = provider_find(provider->dialect, NULL);
    const policy_target target = {.provider = provider};
    const provider_request request = {
        .pool = pool,
        .target = &target,
        .key = name,
        .chat = &nothing,
        .secrets = s,
    };
    aiq_str key;

    if (!provider_key(&request, &key, err)) {
        return false;
    }
    *lines = provider_headers(&request, dialect->key_line, key,
                              (aiq_str){dialect->lines, strlen(dialect->lines)});
    return true;
}

bool provider_is_type(const http_head *head, const char *type)
{
    aiq_str value = http_head_get(head, "content-type");
    size_t n = strlen(type);

    return value.len >= n && strncasecmp(value.data, type, n) == 0 &&
           (value.len == n || value.data[n] == ';' || value.data[n] == ' ');
}

/* RFC 9110 10.2.3: seconds, or a date. */
uint32_t provider_retry_after(const http_head *head)
{
    aiq_str value = http_head_get(head, "retry-after");
    char text[64], *end;

    if (value.len == 0 || value.len >= sizeof(text)) {
        return 0;
    }
    memcpy(text, value.data, value.len);
    text[value.len] = '\0';
    long long n = strtoll(text, &end, 10);
    if (*end) {
        n = (long long)curl_getdate(text, NULL) - (long long)time(NULL);
    }
    if (n <= 0) {
        return 0;
    }
    return n < RETRY_AFTER_MAX ? (uint32_t)n : RETRY_AFTER_MAX;
}
