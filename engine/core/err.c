#include "core/err.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static bool status_retryable(unsigned status)
{
    return status == 408 || status == 429 || (status >= 500 && status != 501);
}

/* vsnprintf cuts at a byte; a caller must not get half a character. */
static void format_into(char *out, size_t size, const char *format, va_list args)
{
    int n = vsnprintf(out, size, format, args);

    if (n >= 0 && (size_t)n < size) {
        return;
    }
    size_t end = size - 1;
    while (end > 0 && ((unsigned char)out[end - 1] & 0xc0) == 0x80) {
        end--;
    }
    if (end > 0 && (unsigned char)out[end - 1] >= 0xc0) {
        end--;
    }
    out[end] = '\0';
}

static void fill(aiq_err *err, unsigned status, const char *code, const char *param,
                 const char *format, va_list args)
{
    if (err == NULL) {
        return;
    }
    err->status = (uint16_t)status;
    err->retryable = status_retryable(status);
    err->retry_after = 0;
    err->detail[0] = '\0';
    snprintf(err->code, sizeof(err->code), "%s", code);
    snprintf(err->param, sizeof(err->param), "%s", param);
    format_into(err->message, sizeof(err->message), format, args);
}

bool aiq_fail(aiq_err *err, unsigned status, const char *code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fill(err, status, code, "", format, args);
    va_end(args);
    return false;
}

bool aiq_fail_param(aiq_err *err, unsigned status, const char *code, const char *param,
                    const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fill(err, status, code, param, format, args);
    va_end(args);
    return false;
}

void aiq_err_detail(aiq_err *err, const char *format, ...)
{
    va_list args;

    if (err == NULL) {
        return;
    }
    va_start(args, format);
    format_into(err->detail, sizeof(err->detail), format, args);
    va_end(args);
}
