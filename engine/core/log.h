/*
 * Structured logs: one JSON object a line on stderr, written with one write(2).
 * Fields of every line: timestamp (RFC 3339, UTC, microseconds), level,
 * service, message; then what the caller adds. Lines about a request carry
 * request_id and trace_id. Any thread.
 *
 * Strings are escaped here, invalid UTF-8 becomes U+FFFD, long ones are cut at
 * 2 KB; so no caller can break the format. Secrets are never passed in.
 */

#ifndef AIQ_LOG_H
#define AIQ_LOG_H

#include <stdbool.h>
#include <stdint.h>

typedef enum { AIQ_LOG_DEBUG, AIQ_LOG_INFO, AIQ_LOG_WARN, AIQ_LOG_ERROR } aiq_log_level;

typedef enum { AIQ_LOG_END, AIQ_LOG_STRING, AIQ_LOG_INT, AIQ_LOG_REAL } aiq_log_kind;

typedef struct {
    const char *name;
    aiq_log_kind kind;
    const char *string; /* NULL: the field is left out */
    int64_t number;
    double real;
} aiq_log_field;

#define AIQ_S(n, v) ((aiq_log_field){.name = (n), .kind = AIQ_LOG_STRING, .string = (v)})
#define AIQ_I(n, v) ((aiq_log_field){.name = (n), .kind = AIQ_LOG_INT, .number = (v)})
#define AIQ_R(n, v) ((aiq_log_field){.name = (n), .kind = AIQ_LOG_REAL, .real = (v)})

/* Before the threads start. */
void aiq_log_init(aiq_log_level level);
bool aiq_log_parse_level(const char *name, aiq_log_level *level);
bool aiq_log_enabled(aiq_log_level level);

/* service: the room that speaks ("link", "gateway", …). */
void aiq_log_write(aiq_log_level level, const char *service, const char *message,
                   const aiq_log_field *fields);

/* aiq_log(AIQ_LOG_INFO, "link", "worker connected", AIQ_I("pid", pid));
 * The array begins with an empty field because there may be no other. */
#define aiq_log(level, service, message, ...)                                                  \
    do {                                                                                       \
        if (aiq_log_enabled(level)) {                                                          \
            aiq_log_write(level, service, message,                                             \
                          &(const aiq_log_field[]){{0}, ##__VA_ARGS__, {0}}[1]);               \
        }                                                                                      \
    } while (0)

#endif
