/*
 * What a caller of the control service sends: the body as every kind of field, and the
 * arguments of a list.
 *
 *     up to the first NUL: arguments; the rest: a body
 */

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "services/control/fields.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_body(aiq_str body)
{
    control_value v[9] = {0};
    const control_field fields[] = {
        {"tenant", FIELD_TENANT, false, &v[0]}, {"user", FIELD_USER, false, &v[1]},
        {"role", FIELD_ROLE, false, &v[2]},     {"disabled", FIELD_BOOL, false, &v[3]},
        {"models", FIELD_MODELS, false, &v[4]}, {"expires_at", FIELD_TIME, false, &v[5]},
        {"scope", FIELD_SCOPE, false, &v[6]},   {"amount", FIELD_AMOUNT, false, &v[7]},
        {"limits", FIELD_LIMITS, false, &v[8]},
    };
    aiq_pool *pool = aiq_pool_new();
    json_error error;
    aiq_err err;

    if (!control_fields(pool, body, fields, 9, &err)) {
        assert(err.status == 400 && err.code[0] && err.message[0]);
        aiq_pool_free(pool);
        return;
    }
    assert(v[8].requests >= 0 && v[8].requests <= CONTROL_LIMIT_MAX);
    assert(v[8].tokens >= 0 && v[8].tokens <= CONTROL_LIMIT_MAX);
    if (v[4].given) {
        /* it goes into the store and back to callers as it is */
        assert(json_valid(v[4].text.data, v[4].text.len, &error));
    }
    aiq_pool_free(pool);
}

static void read_args(aiq_str text)
{
    control_args args = {.limit = 1, .limit_max = 200, .usage = true};
    aiq_pool *pool = aiq_pool_new();
    aiq_err err;

    if (control_read_args(pool, text, &args, &err)) {
        assert(args.limit >= 1 && args.limit <= 200);
        assert(args.tenant.len <= 63 && args.after.len <= 128);
    } else {
        assert(err.status == 400 && err.code[0] && err.message[0]);
    }
    aiq_pool_free(pool);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* in memory of their own, so that a read beyond the end is seen */
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t n = nul ? (size_t)(nul - data) : size;
    char *args = malloc(n + 1), *body = malloc(size - n + 1);

    memcpy(args + 1, data, n);
    read_args((aiq_str){args + 1, n});
    if (nul) {
        memcpy(body, nul + 1, size - n - 1);
        read_body((aiq_str){body, size - n - 1});
    }
    free(args);
    free(body);
    return 0;
}
