#include "core/metrics.h"
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define BOUNDS_MAX 24

const double METRICS_SECONDS[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5,
                                  1,     2.5,    5,     10,   30,    60,   120, 300, 0};

struct metric {
    const metric_family *family;
    char *labels;      /* as rendered: method="GET",endpoint="/x"; or empty */
    int64_t value;     /* counter, gauge */
    int64_t sum_us;    /* histogram; in microseconds int64 lasts 292,000 years */
    int64_t buckets[]; /* histogram: one for each bound, one for what lies above */
};

struct metric_family {
    metric_family *next;
    metric_type type;
    const char *name, *help, *labels;
    const double *bounds;
    unsigned n_bounds, n_labels;

    pthread_mutex_t lock; /* guards what follows, not the samples' numbers */
    metric *samples[METRICS_SAMPLES_MAX];
    unsigned n_samples;
};

#define COLLECTORS_MAX 4

struct metrics {
    metric_family *first, **last;
    struct {
        void (*collect)(void *arg);
        void *arg;
    } collectors[COLLECTORS_MAX];
    unsigned n_collectors;
};

metrics *metrics_new(void)
{
    metrics *m = aiq_zalloc(sizeof(*m));

    m->last = &m->first;
    return m;
}

void metrics_free(metrics *m)
{
    while (m->first) {
        metric_family *family = m->first;
        m->first = family->next;
        for (unsigned i = 0; i < family->n_samples; i++) {
            free(family->samples[i]->labels);
            free(family->samples[i]);
        }
        pthread_mutex_destroy(&family->lock);
        free(family);
    }
    free(m);
}

static metric *sample_new(const metric_family *family, char *labels)
{
    metric *m = aiq_zalloc(sizeof(*m) + (family->n_bounds + 1) * sizeof(m->buckets[0]));

    m->family = family;
    m->labels = labels;
    return m;
}

metric_family *metrics_family(metrics *m, metric_type type, const char *name, const char *help,
                              const char *labels, const double *bounds)
{
    metric_family *family = aiq_zalloc(sizeof(*family));

    *family = (metric_family){
        .type = type, .name = name, .help = help, .labels = labels, .bounds = bounds};
    pthread_mutex_init(&family->lock, NULL);
    while (bounds && bounds[family->n_bounds] > 0) {
        family->n_bounds++;
    }
    for (const char *p = labels; p && *p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
        family->n_labels++;
    }
    assert(family->n_bounds <= BOUNDS_MAX && family->n_labels <= METRICS_LABELS_MAX);
    *m->last = family;
    m->last = &family->next;
    return family;
}

/* name="value",… with the escapes of the text format; in fresh memory. */
static char *render_labels(const metric_family *family, const char *const *values)
{
    const char *name = family->labels;
    aiq_buf out = {0};

    for (unsigned i = 0; i < family->n_labels; i++) {
        size_t len = strcspn(name, ",");
        aiq_buf_printf(&out, "%s%.*s=\"", i ? "," : "", (int)len, name);
        for (const char *p = values[i]; *p; p++) {
            if (*p == '\n') {
                aiq_buf_text(&out, "\\n");
                continue;
            }
            if (*p == '"' || *p == '\\') {
                aiq_buf_text(&out, "\\");
            }
            aiq_buf_add(&out, p, 1);
        }
        aiq_buf_text(&out, "\"");
        name += len + 1;
    }
    aiq_buf_add(&out, "", 1);
    return (char *)out.base;
}

static metric *find(const metric_family *family, const char *labels)
{
    for (unsigned i = 0; i < family->n_samples; i++) {
        if (strcmp(family->samples[i]->labels, labels) == 0) {
            return family->samples[i];
        }
    }
    return NULL;
}

metric *metrics_sample(metric_family *family, const char *const *values)
{
    static const char *const other[METRICS_LABELS_MAX] = {"other", "other", "other", "other"};
    char *labels = render_labels(family, values);

    pthread_mutex_lock(&family->lock);
    metric *m = find(family, labels);
    /* the last place is kept for "other" */
    if (m == NULL && family->n_samples >= METRICS_SAMPLES_MAX - 1) {
        free(labels);
        labels = render_labels(family, other);
        m = find(family, labels);
    }
    if (m == NULL) {
        m = sample_new(family, labels);
        labels = NULL;
        family->samples[family->n_samples++] = m;
    }
    pthread_mutex_unlock(&family->lock);
    free(labels);
    return m;
}

/* The numbers are independent of one another, so relaxed order is enough: a
 * scrape may see one observation's bucket and not yet its sum. */

void metric_add(metric *m, int64_t n)
{
    __atomic_fetch_add(&m->value, n, __ATOMIC_RELAXED);
}

void metric_set(metric *m, int64_t n)
{
    __atomic_store_n(&m->value, n, __ATOMIC_RELAXED);
}

void metric_observe(metric *m, double seconds)
{
    const metric_family *family = m->family;
    unsigned i = 0;

    while (i < family->n_bounds && seconds > family->bounds[i]) {
        i++;
    }
    __atomic_fetch_add(&m->buckets[i], 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&m->sum_us, (int64_t)(seconds * 1e6 + 0.5), __ATOMIC_RELAXED);
}

static void render_histogram(const metric *m, aiq_buf *out)
{
    const metric_family *family = m->family;
    const char *comma = *m->labels ? "," : "";
    int64_t total = 0;

    for (unsigned i = 0; i <= family->n_bounds; i++) {
        total += __atomic_load_n(&m->buckets[i], __ATOMIC_RELAXED);
        aiq_buf_printf(out, "%s_bucket{%s%sle=\"", family->name, m->labels, comma);
        if (i < family->n_bounds) {
            aiq_buf_printf(out, "%g", family->bounds[i]);
        } else {
            aiq_buf_text(out, "+Inf");
        }
        aiq_buf_printf(out, "\"} %lld\n", (long long)total);
    }
    const char *open = *m->labels ? "{" : "", *close = *m->labels ? "}" : "";
    double sum = (double)__atomic_load_n(&m->sum_us, __ATOMIC_RELAXED) / 1e6;
    aiq_buf_printf(out, "%s_sum%s%s%s %.6f\n", family->name, open, m->labels, close, sum);
    aiq_buf_printf(out, "%s_count%s%s%s %lld\n", family->name, open, m->labels, close,
                   (long long)total);
}

static void render_family(metric_family *family, aiq_buf *out)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};

    aiq_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", family->name, family->help,
                   family->name, types[family->type]);
    pthread_mutex_lock(&family->lock);
    for (unsigned i = 0; i < family->n_samples; i++) {
        const metric *m = family->samples[i];
        if (family->type == METRIC_HISTOGRAM) {
            render_histogram(m, out);
        } else {
            const char *open = *m->labels ? "{" : "", *close = *m->labels ? "}" : "";
            aiq_buf_printf(out, "%s%s%s%s %lld\n", family->name, open, m->labels, close,
                           (long long)__atomic_load_n(&m->value, __ATOMIC_RELAXED));
        }
    }
    pthread_mutex_unlock(&family->lock);
}

void metrics_collect(metrics *m, void (*collect)(void *arg), void *arg)
{
    assert(m->n_collectors < COLLECTORS_MAX);
    m->collectors[m->n_collectors].collect = collect;
    m->collectors[m->n_collectors++].arg = arg;
}

void metrics_render(metrics *m, aiq_buf *out)
{
    for (unsigned i = 0; i < m->n_collectors; i++) {
        m->collectors[i].collect(m->collectors[i].arg);
    }
    for (metric_family *family = m->first; family; family = family->next) {
        render_family(family, out);
    }
}
