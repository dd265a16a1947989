#include "services/ws/ws_message.h"

#include <string.h>

typedef enum {
    FIELD_TYPE,
    FIELD_ID,
    FIELD_BODY,
    FIELD_HEADERS,
    FIELD_STREAM,
    FIELD_TOPIC,
    FIELD_AFTER,
    FIELD_TOKEN,
    N_FIELDS
} field;

static const struct {
    const char *name;
    json_type type;
    const char *what;
    unsigned must, may; /* of which kinds, a bit each */
} fields[N_FIELDS] = {
    [FIELD_TYPE] = {"type", JSON_STRING, "a string", ~0u, 0},
    [FIELD_ID] = {"id", JSON_STRING, "a string", ~(1u << WS_PING | 1u << WS_AUTH),
                  1u << WS_PING | 1u << WS_AUTH},
    [FIELD_BODY] = {"body", JSON_OBJECT, "an object", 1u << WS_CHAT, 0},
    [FIELD_HEADERS] = {"headers", JSON_OBJECT, "an object", 0, 1u << WS_CHAT},
    [FIELD_STREAM] = {"stream", JSON_STRING, "a string", 1u << WS_RESUME, 0},
    [FIELD_TOPIC] = {"topic", JSON_STRING, "a string", 1u << WS_SUBSCRIBE, 0},
    [FIELD_AFTER] = {"after", JSON_NUMBER, "a number", 0, 1u << WS_RESUME | 1u << WS_SUBSCRIBE},
    [FIELD_TOKEN] = {"token", JSON_STRING, "a string", 1u << WS_AUTH, 0},
};

static const char *const kinds[] = {[WS_CHAT] = "chat",
                                    [WS_CANCEL] = "cancel",
                                    [WS_RESUME] = "resume",
                                    [WS_SUBSCRIBE] = "subscribe",
                                    [WS_UNSUBSCRIBE] = "unsubscribe",
                                    [WS_PING] = "ping",
                                    [WS_AUTH] = "auth"};

/* Between the quotes. */
static aiq_str raw(const json_value *value)
{
    return (aiq_str){value->text.data + 1, value->text.len - 2};
}

static bool invalid(aiq_err *err, const char *name, const char *what)
{
    return aiq_fail_param(err, 400, "invalid_value", name, "'%s' must be %s.", name, what);
}

static bool take_name(const json_value *value, field f, aiq_str *out, aiq_err *err)
{
    aiq_str text = raw(value);

    for (size_t i = 0; i < text.len; i++) {
        char c = text.data[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '.' || c == '_' || c == '-')) {
            text.len = 0;
        }
    }
    if (text.len == 0 || text.len > WS_NAME_MAX) {
        return invalid(err, fields[f].name, "1 to 64 of A-Z a-z 0-9 . _ -");
    }
    *out = text;
    return true;
}

static bool take_kind(ws_message *m, const json_value *type, aiq_err *err)
{
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (type->type == JSON_STRING && json_string_is(type, kinds[i])) {
            m->kind = (ws_kind)i;
            return true;
        }
    }
    if (type->type == JSON_NONE) {
        return aiq_fail_param(err, 400, "missing_required_parameter", "type",
                              "'type' is missing.");
    }
    return invalid(err, "type", "chat, cancel, resume, subscribe, unsubscribe, ping or auth");
}

static bool check_fields(const ws_message *m, const json_value values[N_FIELDS], aiq_err *err)
{
    for (int f = 0; f < N_FIELDS; f++) {
        const char *name = fields[f].name;
        unsigned kind = 1u << m->kind;
        if (values[f].type == JSON_NONE && (fields[f].must & kind)) {
            return aiq_fail_param(err, 400, "missing_required_parameter", name,
                                  "'%s' is missing.", name);
        }
        if (values[f].type == JSON_NONE) {
            continue;
        }
        if (!((fields[f].must | fields[f].may) & kind)) {
            return aiq_fail_param(err, 400, "unknown_parameter", name,
                                  "There is no field '%s' in a message '%s'.", name,
                                  kinds[m->kind]);
        }
        if (values[f].type != fields[f].type) {
            return aiq_fail_param(err, 400, "invalid_type", name, "'%s' must be %s.", name,
                                  fields[f].what);
        }
    }
    return true;
}

static bool check_names(aiq_str text, aiq_err *err)
{
    const json_value whole = json_root(text);
    json_value value;
    size_t cursor = 0;
    aiq_str name;

    while (json_each(&whole, &cursor, &name, &value)) {
        int f = 0;
        while (f < N_FIELDS && !aiq_str_is(name, fields[f].name)) {
            f++;
        }
        if (f == N_FIELDS) {
            return aiq_fail(err, 400, "unknown_parameter",
                            "A message has the fields type, id, body, headers, stream, "
                            "topic, after and token, and no others.");
        }
    }
    return true;
}

/* What a request may say in headers to the gateway, and no other. */
static bool is_header(aiq_str name)
{
    for (size_t i = 0; i < name.len; i++) {
        char c = name.data[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-')) {
            return false;
        }
    }
    return (name.len > 6 && memcmp(name.data, "x-aiq-", 6) == 0) ||
           aiq_str_is(name, "cache-control");
}

/* Without escapes, so as it stands. */
static bool is_header_value(aiq_str value)
{
    for (size_t i = 0; i < value.len; i++) {
        if (value.data[i] < ' ' || value.data[i] > '~' || value.data[i] == '\\') {
            return false;
        }
    }
    return value.len <= WS_HEADER_MAX;
}

static bool take_headers(ws_message *m, const json_value *headers, aiq_err *err)
{
    json_value value;
    size_t cursor = 0;
    aiq_str name;

    if (headers->type == JSON_NONE) {
        return true;
    }
    if (headers->count > WS_HEADERS_MAX) {
        return invalid(err, "headers", "at most 16 headers");
    }
    while (json_each(headers, &cursor, &name, &value)) {
        if (!is_header(name)) {
            return invalid(err, "headers",
                           "of cache-control and names that begin with x-aiq-, in lower case");
        }
        if (value.type != JSON_STRING || !is_header_value(raw(&value))) {
            return invalid(err, "headers", "of strings of ASCII without a backslash");
        }
        m->headers[m->n_headers++] = (job_header){name, raw(&value)};
    }
    return true;
}

/* What nginx finds in it is nginx's affair. */
static bool take_token(ws_message *m, const json_value *token, aiq_err *err)
{
    if (token->type == JSON_NONE) {
        return true;
    }
    m->token = raw(token);
    return (m->token.len > 0 && m->token.len <= AIQ_TOKEN_MAX) ||
           invalid(err, "token", "1 to 16384 bytes");
}

static bool take_after(ws_message *m, const json_value *after, aiq_err *err)
{
    int64_t n = 0;

    if (after->type != JSON_NONE && (!json_int(after, &n) || n < 0)) {
        return invalid(err, "after", "the number of an event");
    }
    m->after = (uint64_t)n;
    m->says_after = after->type != JSON_NONE;
    return true;
}

bool ws_message_parse(ws_message *m, aiq_str text, aiq_err *err)
{
    json_value values[N_FIELDS];
    json_want wants[N_FIELDS];
    json_error wrong;

    *m = (ws_message){.kind = WS_PING};
    for (int f = 0; f < N_FIELDS; f++) {
        wants[f] = (json_want){fields[f].name, &values[f]};
    }
    if (!json_scan(text.data, text.len, wants, N_FIELDS, &wrong)) {
        return aiq_fail(err, 400, "invalid_json", "A message is a JSON object: %s at byte %zu.",
                        wrong.reason, wrong.offset);
    }
    const json_value *id = &values[FIELD_ID], *stream = &values[FIELD_STREAM],
                     *topic = &values[FIELD_TOPIC];
    m->body = values[FIELD_BODY];
    return (id->type != JSON_STRING || take_name(id, FIELD_ID, &m->id, err)) &&
           take_kind(m, &values[FIELD_TYPE], err) && check_names(text, err) &&
           check_fields(m, values, err) &&
           (stream->type == JSON_NONE || take_name(stream, FIELD_STREAM, &m->source, err)) &&
           (topic->type == JSON_NONE || take_name(topic, FIELD_TOPIC, &m->source, err)) &&
           take_after(m, &values[FIELD_AFTER], err) &&
           take_token(m, &values[FIELD_TOKEN], err) &&
           take_headers(m, &values[FIELD_HEADERS], err);
}

void ws_message_chat(const ws_message *m, aiq_buf *out)
{
    aiq_str text = m->body.text;
    json_value stream = json_member(&m->body, "stream");

    if (stream.type == JSON_NONE) {
        aiq_buf_text(out, "{\"stream\":true");
        aiq_buf_text(out, m->body.count ? "," : "");
        aiq_buf_add(out, text.data + 1, text.len - 1);
        return;
    }
    size_t before = (size_t)(stream.text.data - text.data);
    size_t behind = text.len - before - stream.text.len;
    aiq_buf_add(out, text.data, before);
    aiq_buf_text(out, "true");
    aiq_buf_add(out, stream.text.data + stream.text.len, behind);
}
