/* Prometheus text: families, labels, histograms and the bound on samples. */

#include "unit.h"
#include <pthread.h>
#include <stdio.h>
#include "core/metrics.h"

static char text[1 << 17];

static const char *render(metrics *m)
{
    aiq_buf out = {0};

    metrics_render(m, &out);
    assert_true(out.len < sizeof(text));
    memcpy(text, out.data, out.len);
    text[out.len] = '\0';
    aiq_buf_free(&out);
    return text;
}

static void test_counter_and_gauge(void **state)
{
    metrics *m = metrics_new();
    metric_family *c = metrics_family(m, METRIC_COUNTER, "a_total", "Help.", "x,y", NULL);
    metric_family *g = metrics_family(m, METRIC_GAUGE, "b", "More.", "", NULL);
    metric *one = metrics_sample(c, (const char *[]){"1", "q\"\\\n"});
    metric *level = metrics_sample(g, NULL);

    (void)state;
    assert_ptr_equal(metrics_sample(c, (const char *[]){"1", "q\"\\\n"}), one);
    metric_add(one, 3);
    metric_set(level, 7);
    metric_add(level, -2);
    assert_string_equal(render(m), "# HELP a_total Help.\n# TYPE a_total counter\n"
                                   "a_total{x=\"1\",y=\"q\\\"\\\\\\n\"} 3\n"
                                   "# HELP b More.\n# TYPE b gauge\nb 5\n");
    metrics_free(m);
}

static void test_histogram(void **state)
{
    static const double bounds[] = {0.1, 1, 0};
    metrics *m = metrics_new();
    metric_family *h = metrics_family(m, METRIC_HISTOGRAM, "h_seconds", "H.", "", bounds);
    metric *s = metrics_sample(h, NULL);

    (void)state;
    metric_observe(s, 0.1);
    metric_observe(s, 0.5);
    metric_observe(s, 20);
    assert_string_equal(render(m), "# HELP h_seconds H.\n# TYPE h_seconds histogram\n"
                                   "h_seconds_bucket{le=\"0.1\"} 1\n"
                                   "h_seconds_bucket{le=\"1\"} 2\n"
                                   "h_seconds_bucket{le=\"+Inf\"} 3\n"
                                   "h_seconds_sum 20.600000\nh_seconds_count 3\n");
    metrics_free(m);
}

static void test_samples_are_bounded(void **state)
{
    metrics *m = metrics_new();
    metric_family *c = metrics_family(m, METRIC_COUNTER, "c_total", "C.", "id", NULL);
    unsigned lines = 0;

    (void)state;
    for (int i = 0; i < 2 * METRICS_SAMPLES_MAX; i++) {
        char id[20];
        snprintf(id, sizeof(id), "%d", i);
        metric_add(metrics_sample(c, (const char *[]){id}), 1);
    }
    render(m);
    for (const char *p = text; (p = strchr(p, '\n')) != NULL; p++) {
        lines++;
    }
    assert_int_equal(lines, METRICS_SAMPLES_MAX + 2);
    assert_non_null(strstr(text, "c_total{id=\"other\"} 513\n"));
    metrics_free(m);
}

static void *count(void *arg)
{
    for (int i = 0; i < 20000; i++) {
        metric_add(arg, 1);
    }
    return NULL;
}

static void test_threads(void **state)
{
    metrics *m = metrics_new();
    metric *s = metrics_sample(metrics_family(m, METRIC_COUNTER, "t", "T.", "", NULL), NULL);
    pthread_t threads[4];

    (void)state;
    for (int i = 0; i < 4; i++) {
        pthread_create(&threads[i], NULL, count, s);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_non_null(strstr(render(m), "\nt 80000\n"));
    metrics_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counter_and_gauge),
        cmocka_unit_test(test_histogram),
        cmocka_unit_test(test_samples_are_bounded),
        cmocka_unit_test(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
