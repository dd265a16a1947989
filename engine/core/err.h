/*
 * Errors as values. A function that can fail fills an aiq_err and returns
 * false (or NULL); whoever handles it logs it, once. What a caller of the API
 * may see (status, code, message, param) and what only the log may see
 * (detail) are kept apart, so that nothing internal leaks by accident.
 */

#ifndef AIQ_ERR_H
#define AIQ_ERR_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint16_t status;      /* HTTP; 0: no error */
    bool retryable;       /* another attempt may succeed */
    uint32_t retry_after; /* seconds; 0: not known */
    char code[48];        /* a stable word */
    char param[64];       /* the request's field at fault, or empty */
    char message[320];    /* a sentence for the caller, UTF-8 */
    char detail[320];     /* for the log only */
} aiq_err;

/* Sets everything but param, retry_after and detail; retryable follows from the
 * status (408, 429, 5xx but 501). Always returns false, so that
 * `return aiq_fail(err, …)` reads well. err may be NULL. */
bool aiq_fail(aiq_err *err, unsigned status, const char *code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The same, naming the request's field at fault. */
bool aiq_fail_param(aiq_err *err, unsigned status, const char *code, const char *param,
                    const char *format, ...) __attribute__((format(printf, 5, 6)));

/* Adds what only the log may see. */
void aiq_err_detail(aiq_err *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
