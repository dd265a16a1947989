#include "providers/local_metrics.h"
#include <stdlib.h>

struct local_metrics {
    metric_family *replicas, *pages, *used, *running, *waiting;
    metric_family *prompt, *cached, *preemptions, *drafted, *accepted;
};

local_metrics *local_metrics_new(metrics *m)
{
    local_metrics *l = aiq_zalloc(sizeof(*l));

    l->replicas = metrics_family(m, METRIC_GAUGE, "aiq_local_replicas",
                                 "Devices on which a local model is.", "model", NULL);
    l->pages = metrics_family(m, METRIC_GAUGE, "aiq_local_pages",
                              "Pages of 16 tokens that a local model has for contexts.",
                              "model", NULL);
    l->used = metrics_family(m, METRIC_GAUGE, "aiq_local_pages_used",
                             "Pages of contexts of running requests.", "model", NULL);
    l->running = metrics_family(m, METRIC_GAUGE, "aiq_local_running",
                                "Requests that a local model answers.", "model", NULL);
    l->waiting = metrics_family(m, METRIC_GAUGE, "aiq_local_waiting",
                                "Requests that wait for a local model.", "model", NULL);
    l->prompt = metrics_family(m, METRIC_COUNTER, "aiq_local_prompt_tokens_total",
                               "Tokens of prompts.", "model", NULL);
    l->cached = metrics_family(m, METRIC_COUNTER, "aiq_local_cached_tokens_total",
                               "Tokens of prompts that were not read anew.", "model", NULL);
    l->preemptions = metrics_family(m, METRIC_COUNTER, "aiq_local_preemptions_total",
                                    "Contexts that were taken away for others.", "model", NULL);
    l->drafted = metrics_family(m, METRIC_COUNTER, "aiq_local_drafted_tokens_total",
                                "Tokens that were guessed and read ahead.", "model", NULL);
    l->accepted = metrics_family(m, METRIC_COUNTER, "aiq_local_accepted_tokens_total",
                                 "Guesses that were right.", "model", NULL);
    return l;
}

void local_metrics_free(local_metrics *l)
{
    free(l);
}

static void set(metric_family *family, const char *model, uint32_t value)
{
    metric_set(metrics_sample(family, &model), value);
}

static void count(metric_family *family, const char *model, uint64_t told, uint64_t now)
{
    metric_add(metrics_sample(family, &model), (int64_t)(now - told));
}

void local_metrics_replicas(const local_metrics *l, const char *model, uint32_t n)
{
    set(l->replicas, model, n);
}

void local_metrics_show(const local_metrics *l, const char *model, infer_stats *told,
                        const infer_stats *now)
{
    set(l->pages, model, now->pages);
    set(l->used, model, now->used);
    set(l->running, model, now->running);
    set(l->waiting, model, now->waiting);
    count(l->prompt, model, told->prompt_tokens, now->prompt_tokens);
    count(l->cached, model, told->cached_tokens, now->cached_tokens);
    count(l->preemptions, model, told->preemptions, now->preemptions);
    count(l->drafted, model, told->drafted_tokens, now->drafted_tokens);
    count(l->accepted, model, told->accepted_tokens, now->accepted_tokens);
    *told = *now;
}
