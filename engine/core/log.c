#include "core/log.h"
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "core/json.h"
#include "core/pool.h"

#define LOG_STRING_MAX 2048

/* Set once, before the threads start. */
static aiq_log_level log_level = AIQ_LOG_INFO;

static const char *const names[] = {"debug", "info", "warn", "error"};

void aiq_log_init(aiq_log_level level)
{
    log_level = level;
}

bool aiq_log_parse_level(const char *name, aiq_log_level *level)
{
    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(name, names[i]) == 0) {
            *level = (aiq_log_level)i;
            return true;
        }
    }
    return false;
}

bool aiq_log_enabled(aiq_log_level level)
{
    return level >= log_level;
}

static void add_time(aiq_buf *line)
{
    struct timespec now;
    struct tm tm;

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    aiq_buf_printf(line, "%04d-%02d-%02dT%02d:%02d:%02d.%06ldZ", tm.tm_year + 1900,
                   tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
                   now.tv_nsec / 1000);
}

static void add_string(aiq_buf *line, const char *text)
{
    size_t len = strnlen(text, LOG_STRING_MAX + 1);

    if (len > LOG_STRING_MAX) {
        len = LOG_STRING_MAX;
        while (len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80) {
            len--; /* cut before a character, not inside it */
        }
    }
    json_quote(line, text, len);
}

static void add_field(aiq_buf *line, const aiq_log_field *field)
{
    if (field->kind == AIQ_LOG_STRING && field->string == NULL) {
        return;
    }
    aiq_buf_printf(line, ",\"%s\":", field->name);
    switch (field->kind) {
    case AIQ_LOG_STRING:
        add_string(line, field->string);
        break;
    case AIQ_LOG_INT:
        aiq_buf_printf(line, "%lld", (long long)field->number);
        break;
    default:
        /* JSON knows no infinity and no NaN */
        if (field->real - field->real == 0) {
            aiq_buf_printf(line, "%.6g", field->real);
        } else {
            aiq_buf_text(line, "null");
        }
        break;
    }
}

void aiq_log_write(aiq_log_level level, const char *service, const char *message,
                   const aiq_log_field *fields)
{
    aiq_buf line = {0};

    if (!aiq_log_enabled(level)) {
        return;
    }
    aiq_buf_text(&line, "{\"timestamp\":\"");
    add_time(&line);
    aiq_buf_printf(&line, "\",\"level\":\"%s\",\"service\":\"%s\",\"message\":", names[level],
                   service);
    add_string(&line, message);
    for (; fields->kind != AIQ_LOG_END; fields++) {
        add_field(&line, fields);
    }
    aiq_buf_text(&line, "}\n");

    /* A log that cannot be written has nobody to be told. */
    ssize_t n = write(STDERR_FILENO, line.data, line.len);
    (void)n;
    aiq_buf_free(&line);
}
