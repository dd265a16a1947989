/*
 * Counters, gauges and histograms in Prometheus' text format. A family is
 * declared once at start-up; a sample of it is found by its label values and
 * then counted without a lock. Samples are bounded per family
 * (METRICS_SAMPLES_MAX); what comes beyond is counted under the label values
 * "other", so no caller can make memory grow.
 */

#ifndef AIQ_METRICS_H
#define AIQ_METRICS_H

#include <stddef.h>
#include <stdint.h>
#include "core/pool.h"

#define METRICS_SAMPLES_MAX 512
#define METRICS_LABELS_MAX  4

typedef enum { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM } metric_type;

typedef struct metrics metrics;             /* the registry */
typedef struct metric_family metric_family; /* a name with help, type and label names */
typedef struct metric metric;               /* one sample; lives as long as the registry */

metrics *metrics_new(void);
void metrics_free(metrics *m);

/* labels: names separated by commas, "" for none. bounds: a histogram's upper
 * bounds in ascending order, ended by 0; NULL otherwise. Names and bounds are
 * borrowed for ever. Main thread, before the loops start. */
metric_family *metrics_family(metrics *m, metric_type type, const char *name, const char *help,
                              const char *labels, const double *bounds);

/* The sample with these label values (as many as the family has). Any thread;
 * takes a lock, so keep the result where it is needed often. */
metric *metrics_sample(metric_family *family, const char *const *values);

/* Any thread, no lock. */
void metric_add(metric *m, int64_t n);        /* counter or gauge */
void metric_set(metric *m, int64_t n);        /* gauge */
void metric_observe(metric *m, double value); /* histogram; to a millionth */

/* Called each time before the text is written, on its thread, to bring what is counted
 * elsewhere up to date. Main thread, before the loops start. */
void metrics_collect(metrics *m, void (*collect)(void *arg), void *arg);

/* The whole text, HELP and TYPE once a family. Any thread. */
void metrics_render(metrics *m, aiq_buf *out);

/* Bounds for durations of requests, in seconds. */
extern const double METRICS_SECONDS[];

#endif
