/* OPEN's payload, already out of the worker's reach, becomes a job's fields; so does ASK's. */

#include <string.h>
#include "link/counts.h"
#include "link/link.h"
#include "link/route.h"

static bool valid_name(aiq_str name)
{
    for (size_t i = 0; i < name.len; i++) {
        char c = name.data[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_')) {
            return false;
        }
    }
    return name.len > 0;
}

/* "name: value" */
static bool split_header(aiq_str field, job_header *header)
{
    const char *colon = memchr(field.data, ':', field.len);

    if (colon == NULL) {
        return false;
    }
    const char *value = colon + 1, *end = field.data + field.len;
    while (value < end && *value == ' ') {
        value++;
    }
    header->name = (aiq_str){field.data, (size_t)(colon - field.data)};
    header->value = (aiq_str){value, (size_t)(end - value)};
    return valid_name(header->name) && aiq_text_clean(header->value.data, header->value.len);
}

static aiq_str *place_of(aiq_job *job, uint16_t id)
{
    switch (id) {
    case AIQ_FIELD_URI:
        return &job->uri;
    case AIQ_FIELD_ARGS:
        return &job->args;
    case AIQ_FIELD_METHOD:
        return &job->method_name;
    case AIQ_FIELD_REQUEST_ID:
        return &job->request_id;
    case AIQ_FIELD_TRACEPARENT:
        return &job->traceparent;
    case AIQ_FIELD_TRACESTATE:
        return &job->tracestate;
    case AIQ_FIELD_REMOTE_ADDR:
        return &job->remote_addr;
    case AIQ_FIELD_CONTENT_TYPE:
        return &job->content_type;
    case AIQ_FIELD_ACCEPT:
        return &job->accept;
    case AIQ_FIELD_TENANT:
        return &job->tenant;
    case AIQ_FIELD_USER:
        return &job->user;
    case AIQ_FIELD_ROLE:
        return &job->role;
    case AIQ_FIELD_KEY_ID:
        return &job->key_id;
    default:
        return NULL;
    }
}

/* How many HEADER fields there are; -1 where a length leads outside. */
static int count_headers(aiq_fields fields)
{
    const uint8_t *data;
    uint16_t id, len;
    int n = 0, rc;

    while ((rc = aiq_field_next(&fields, &id, &data, &len)) == 1) {
        n += id == AIQ_FIELD_HEADER;
    }
    return rc < 0 ? -1 : n;
}

/* What is no text. False: it is wrong. */
static bool parse_numbers(aiq_job *job, uint16_t id, const uint8_t *data, size_t len)
{
    if (id == AIQ_FIELD_CONDITIONS) {
        memcpy(&job->conditions, data, len == sizeof(job->conditions) ? len : 0);
        return len == sizeof(job->conditions);
    }
    if (id == AIQ_FIELD_CHARGE) {
        memcpy(&job->charge, data, len == sizeof(job->charge) ? len : 0);
        job->charged = true;
        return len == sizeof(job->charge) && job->charge.tokens >= 0 &&
               job->charge.tokens <= AIQ_CHARGE_TOKENS_MAX && job->charge.nano_usd >= 0 &&
               job->charge.nano_usd <= AIQ_CHARGE_NANO_USD_MAX;
    }
    if (id == AIQ_FIELD_EXPIRES) {
        memcpy(&job->expires_ms, data, len == sizeof(job->expires_ms) ? len : 0);
        return len == sizeof(job->expires_ms) && job->expires_ms > 0;
    }
    if (id == AIQ_FIELD_LIMIT_KEYS) {
        job->limit_keys = data;
        return len == job->location->n_limits * AIQ_LIMIT_KEY;
    }
    uint32_t *hashes = aiq_pool_alloc(job->pool, len); /* for the payload is not aligned */
    memcpy(hashes, data, len);
    job->hashes = hashes;
    job->n_hashes = len / sizeof(uint32_t);
    return len % sizeof(uint32_t) == 0 && job->n_hashes <= AIQ_HASHES_MAX;
}

static bool is_numbers(uint16_t id)
{
    return id == AIQ_FIELD_CONDITIONS || id == AIQ_FIELD_HASHES || id == AIQ_FIELD_LIMIT_KEYS ||
           id == AIQ_FIELD_CHARGE || id == AIQ_FIELD_EXPIRES;
}

static const char *parse_fields(aiq_job *job, aiq_fields fields)
{
    int n = count_headers(fields);
    const uint8_t *data;
    uint16_t id, len;

    if (n < 0) {
        return "OPEN with a field that leads outside";
    }
    job_header *headers = n ? aiq_pool_alloc(job->pool, (size_t)n * sizeof(*headers)) : NULL;
    job->headers = headers;
    while (aiq_field_next(&fields, &id, &data, &len) == 1) {
        aiq_str text = {(const char *)data, len};
        aiq_str *place = place_of(job, id);
        if (is_numbers(id)) {
            if (!parse_numbers(job, id, data, len)) {
                return "OPEN with wrong numbers";
            }
        } else if (place) {
            /* nginx decodes the URI, so any byte may be in it */
            if (id != AIQ_FIELD_URI && !aiq_text_clean(text.data, text.len)) {
                return "OPEN with control characters";
            }
            *place = text;
        } else if (id == AIQ_FIELD_HEADER && !split_header(text, &headers[job->n_headers++])) {
            return "OPEN with an invalid header";
        }
    }
    if (job->location->n_limits && job->limit_keys == NULL) {
        return "OPEN without the keys of its limits";
    }
    return job->uri.len ? NULL : "OPEN without a URI";
}

const char *link_job_parse(link_job *j, const uint8_t *payload, uint32_t len)
{
    aiq_job *job = &j->job;
    aiq_open open;

    if (len < sizeof(open) || len > AIQ_OPEN_MAX) {
        return "OPEN of a wrong length";
    }
    /* one copy; what is parsed and kept is out of the worker's reach */
    const uint8_t *text = (const uint8_t *)aiq_pool_copy(job->pool, payload, len);
    memcpy(&open, text, sizeof(open));
    if (open.method < AIQ_METHOD_GET || open.method > AIQ_METHOD_OTHER ||
        open.body_length < -1) {
        return "OPEN with a wrong method or length";
    }
    if (open.flags & ~AIQ_OPEN_WEBSOCKET || (open.flags && open.body_length)) {
        return "OPEN with wrong flags, or a WebSocket with a body";
    }
    if (open.location >= j->link->policy->n_locations) {
        return "OPEN of an unknown location";
    }
    job->websocket = open.flags & AIQ_OPEN_WEBSOCKET;
    job->method = (aiq_method)open.method;
    job->body_length = open.body_length;
    job->location = &j->link->policy->locations[open.location];
    if (job->websocket && !job->location->websocket) {
        return "OPEN of a WebSocket where the location has none";
    }
    job->budgets = job->location->budgets;
    job->n_budgets = job->location->n_budgets;
    job->limits = job->location->limits;
    job->n_limits = job->location->n_limits;
    job->tenant = AIQ_STR("default");
    job->user = job->key_id = AIQ_STR("");
    job->role = AIQ_STR("user");
    const char *wrong = parse_fields(job, (aiq_fields){text + sizeof(open), text + len});
    if (j->link->admin) {
        /* who came by the admin socket is the operator, whatever the fields say */
        job->tenant = AIQ_STR("default");
        job->user = AIQ_STR("operator");
        job->role = AIQ_STR("admin");
        job->key_id = AIQ_STR("");
    }
    return wrong;
}

bool link_job_route(link_job *j, const char *name, aiq_err *err)
{
    aiq_job *job = &j->job;
    const aiq_service *service = service_find(name);
    uint64_t max = job->location->max_body;

    if (service == NULL) {
        aiq_fail(err, 503, "service_unknown", "This server does not offer this service.");
        aiq_err_detail(err, "aiq_pass names the service \"%s\"", name);
        return false;
    }
    aiq_text text = {service->name, strlen(service->name)};
    job->dialect = aiq_dialect_of(text, (aiq_text){job->uri.data, job->uri.len});
    job->route = service_route(service, job, err);
    if (job->route == NULL) {
        return false;
    }
    j->endpoint = link_counts_endpoint(job->loop->links->counts, service, job->route);
    return max == 0 || job->body_length <= 0 || (uint64_t)job->body_length <= max ||
           aiq_fail(err, 413, "body_too_large", "The request body is larger than %llu bytes.",
                    (unsigned long long)max);
}
