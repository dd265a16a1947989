#include "providers/local_embed.h"
#include <math.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#define DIGITS 10 /* behind the point: of numbers up to 1 that is all that a float holds */

static const char *param_of(const local_embed_request *request, uint32_t input, char name[32])
{
    snprintf(name, 32, request->single ? "input" : "input[%u]", input);
    return name;
}

/* Reading. */

static bool not_inputs(aiq_err *err)
{
    return aiq_fail_param(err, 400, "invalid_type", "input",
                          "'input' must be a string, an array of strings, an array of token "
                          "ids, or an array of such arrays.");
}

/* An array of numbers. */
static bool read_ids(const json_value *list, aiq_pool *pool, embed_input *out, aiq_err *err)
{
    int32_t *ids = aiq_pool_alloc(pool, (list->count + 1) * sizeof(*ids));
    json_value id;
    size_t cursor = 0;
    int64_t n;

    while (json_each(list, &cursor, NULL, &id)) {
        if (id.type != JSON_NUMBER) {
            return not_inputs(err);
        }
        /* what is none of the model's becomes one that no model has */
        ids[out->n_ids++] = json_int(&id, &n) && n >= 0 && n <= INT32_MAX ? (int32_t)n : -1;
    }
    out->ids = ids;
    return true;
}

static bool read_input(const json_value *value, aiq_pool *pool, embed_input *out, aiq_err *err)
{
    if (value->type == JSON_STRING) {
        aiq_str text = json_string(pool, value);

        *out = (embed_input){.text = text.data, .len = text.len};
        return true;
    }
    *out = (embed_input){0};
    return value->type == JSON_ARRAY ? read_ids(value, pool, out, err) : not_inputs(err);
}

static bool read_inputs(const json_value *input, aiq_pool *pool, local_embed_request *out,
                        aiq_err *err)
{
    json_value first = {0}, each;
    size_t cursor = 0;

    if (input->type == JSON_NONE) {
        return aiq_fail_param(err, 400, "missing_required_parameter", "input",
                              "The parameter 'input' is missing.");
    }
    if (input->type != JSON_STRING && input->type != JSON_ARRAY) {
        return not_inputs(err);
    }
    if (input->type == JSON_ARRAY) {
        json_each(input, &cursor, NULL, &first);
        cursor = 0;
    }
    out->single = input->type == JSON_STRING || first.type == JSON_NUMBER;
    if (out->single) {
        out->n = 1;
        out->inputs = aiq_pool_alloc(pool, sizeof(*out->inputs));
        return read_input(input, pool, out->inputs, err);
    }
    if (input->count < 1 || input->count > EMBED_MAX_INPUTS) {
        return aiq_fail_param(err, 400, "invalid_value", "input",
                              "'input' must have 1 to %d elements.", EMBED_MAX_INPUTS);
    }
    out->inputs = aiq_pool_alloc(pool, input->count * sizeof(*out->inputs));
    while (json_each(input, &cursor, NULL, &each)) {
        if (!read_input(&each, pool, &out->inputs[out->n++], err)) {
            return false;
        }
    }
    return true;
}

static bool absent(const json_value *value)
{
    return value->type == JSON_NONE || value->type == JSON_NULL;
}

bool local_embed_read(const chat_request *chat, aiq_pool *pool, uint32_t dimensions,
                      local_embed_request *out, aiq_err *err)
{
    const json_value body = json_root(chat->body);
    json_value format, size;
    const json_want wants[] = {{"encoding_format", &format}, {"dimensions", &size}};
    int64_t n;

    *out = (local_embed_request){0};
    json_members(&body, wants, 2);
    out->base64 = json_string_is(&format, "base64");
    if (!absent(&format) && !out->base64 && !json_string_is(&format, "float")) {
        return aiq_fail_param(err, 400, "invalid_value", "encoding_format",
                              "'encoding_format' must be float or base64.");
    }
    /* shorter vectors mean something only where a model was trained for them, and files don't
     * say whether it was */
    if (!absent(&size) &&
        (size.type != JSON_NUMBER || !json_int(&size, &n) || n != dimensions)) {
        return aiq_fail_param(err, 400, "invalid_value", "dimensions",
                              "'dimensions' must be %u with this model.", dimensions);
    }
    return read_inputs(&chat->input, pool, out, err);
}

/* Writing. */

/* A number from -1 to 1; printf takes ten times as long. */
static size_t write_number(char *out, float v)
{
    const char *start = out;
    uint64_t n = (uint64_t)(fabs((double)v) * 1e10 + 0.5);

    if (n == 0) {
        *out = '0';
        return 1;
    }
    if (v < 0) {
        *out++ = '-';
    }
    *out++ = (char)('0' + n / 10000000000);
    *out++ = '.';
    for (size_t i = DIGITS; i-- > 0; n /= 10) {
        out[i] = (char)('0' + n % 10);
    }
    return (size_t)(out - start) + DIGITS;
}

static void write_numbers(aiq_buf *out, const float *v, uint32_t n)
{
    char text[1024];
    size_t len = 0;

    aiq_buf_text(out, "[");
    for (uint32_t i = 0; i < n; i++) {
        if (len + DIGITS + 4 > sizeof(text)) {
            aiq_buf_add(out, text, len);
            len = 0;
        }
        if (i > 0) {
            text[len++] = ',';
        }
        len += write_number(text + len, v[i]);
    }
    aiq_buf_add(out, text, len);
    aiq_buf_text(out, "]");
}

/* The floats as they lie in memory, which is little endian as a GGUF file. */
static void write_base64(aiq_buf *out, const float *v, uint32_t n)
{
    enum { PART = 192 }; /* floats, a multiple of 3: only the last part is padded */
    unsigned char text[PART * 4 / 3 * 4 + 1];

    aiq_buf_text(out, "\"");
    for (uint32_t i = 0; i < n; i += PART) {
        uint32_t some = n - i < PART ? n - i : PART;
        int len =
            EVP_EncodeBlock(text, (const unsigned char *)(v + i), (int)(some * sizeof(float)));

        aiq_buf_add(out, text, (size_t)len);
    }
    aiq_buf_text(out, "\"");
}

void local_embed_write(aiq_buf *out, const local_embed_request *request, aiq_str model,
                       const embed_event *event)
{
    aiq_buf_text(out, "{\"object\":\"list\",\"data\":[");
    for (uint32_t i = 0; i < request->n; i++) {
        const float *v = event->vectors + (size_t)i * event->dimensions;

        aiq_buf_printf(out, "%s{\"object\":\"embedding\",\"index\":%u,\"embedding\":",
                       i > 0 ? "," : "", i);
        (request->base64 ? write_base64 : write_numbers)(out, v, event->dimensions);
        aiq_buf_text(out, "}");
    }
    aiq_buf_text(out, "],\"model\":");
    aiq_buf_add(out, model.data, model.len);
    aiq_buf_printf(out, ",\"usage\":{\"prompt_tokens\":%llu,\"total_tokens\":%llu}}",
                   (unsigned long long)event->n_tokens, (unsigned long long)event->n_tokens);
}

bool local_embed_failed(aiq_err *err, const local_embed_request *request, embed_rc rc,
                        uint32_t input, const char *why)
{
    char param[32];

    switch (rc) {
    case EMBED_TOO_LONG:
        return aiq_fail_param(err, 400, "context_length_exceeded",
                              param_of(request, input, param),
                              "'%s' is too long for this model: %s.", param, why);
    case EMBED_INVALID:
        return aiq_fail_param(err, 400, "invalid_value", param_of(request, input, param),
                              "The model cannot take '%s': %s.", param, why);
    case EMBED_BUSY:
        aiq_fail(err, 429, "model_busy", "The model is busy. Try again later.");
        err->retry_after = 1;
        return false;
    case EMBED_NOMEM:
        aiq_fail(err, 503, "model_unavailable", "The model has no memory for this request.");
        return false;
    default:
        aiq_fail(err, 500, "model_failed", "The model failed.");
        aiq_err_detail(err, "%s", why);
        return false;
    }
}
