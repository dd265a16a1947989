#include "services/gateway/counts.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 64

struct counts_family {
    metric_family *requests, *latency;
    metric_family *usage, *operation, *request, *first, *token;
};

typedef struct sample {
    struct sample *next;
    uint32_t hash;
    unsigned status;
    char *provider, *model;
    metric *requests, *latency;
    metric *in, *out, *operation, *request, *first, *token;
} sample;

struct counts {
    const counts_family *families;
    sample *samples[BUCKETS];
};

counts_family *counts_families(metrics *m)
{
    static const double usage[] = {1,       4,       16,       64,       256,
                                   1024,    4096,    16384,    65536,    262144,
                                   1048576, 4194304, 16777216, 67108864, 0};
    static const double seconds[] = {0.01, 0.02, 0.04,  0.08,  0.16,  0.32,  0.64, 1.28,
                                     2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 0};
    static const char labels[] =
        "gen_ai_operation_name,gen_ai_provider_name,gen_ai_request_model";
    counts_family *f = aiq_zalloc(sizeof(*f));

    f->requests = metrics_family(m, METRIC_COUNTER, "llm_requests_total", "Calls of models.",
                                 "provider,model,status", NULL);
    f->latency = metrics_family(m, METRIC_HISTOGRAM, "llm_latency_seconds",
                                "From the call of a model to its end.", "provider,model",
                                METRICS_SECONDS);
    f->usage = metrics_family(
        m, METRIC_HISTOGRAM, "gen_ai_client_token_usage", "Tokens of answered requests.",
        "gen_ai_operation_name,gen_ai_provider_name,gen_ai_request_model,gen_ai_token_type",
        usage);
    f->operation =
        metrics_family(m, METRIC_HISTOGRAM, "gen_ai_client_operation_duration_seconds",
                       "From the call of a model to its end.", labels, seconds);
    f->request = metrics_family(m, METRIC_HISTOGRAM, "gen_ai_server_request_duration_seconds",
                                "From a request to the end of its answer.", labels, seconds);
    f->first = metrics_family(m, METRIC_HISTOGRAM, "gen_ai_server_time_to_first_token_seconds",
                              "From a request to its first token.", labels, seconds);
    f->token =
        metrics_family(m, METRIC_HISTOGRAM, "gen_ai_server_time_per_output_token_seconds",
                       "Of the tokens after the first one.", labels, seconds);
    return f;
}

counts *counts_new(const counts_family *families)
{
    counts *c = aiq_zalloc(sizeof(*c));

    c->families = families;
    return c;
}

void counts_free(counts *c)
{
    for (size_t i = 0; i < BUCKETS; i++) {
        while (c->samples[i]) {
            sample *s = c->samples[i];
            c->samples[i] = s->next;
            free(s->provider);
            free(s->model);
            free(s);
        }
    }
    free(c);
}

static uint32_t hash_text(uint32_t hash, const char *text)
{
    for (; *text; text++) {
        hash = (hash ^ (uint8_t)*text) * 16777619u; /* FNV-1a */
    }
    return hash;
}

static sample *sample_new(const counts_family *f, const char *provider, const char *model,
                          unsigned status)
{
    const char *const names[] = {"chat", provider, model};
    sample *s = aiq_zalloc(sizeof(*s));
    char code[12];

    snprintf(code, sizeof(code), "%u", status);
    s->status = status;
    s->provider = strcpy(aiq_alloc(strlen(provider) + 1), provider);
    s->model = strcpy(aiq_alloc(strlen(model) + 1), model);
    s->requests = metrics_sample(f->requests, (const char *[]){provider, model, code});
    s->latency = metrics_sample(f->latency, names + 1);
    s->in = metrics_sample(f->usage, (const char *[]){"chat", provider, model, "input"});
    s->out = metrics_sample(f->usage, (const char *[]){"chat", provider, model, "output"});
    s->operation = metrics_sample(f->operation, names);
    s->request = metrics_sample(f->request, names);
    s->first = metrics_sample(f->first, names);
    s->token = metrics_sample(f->token, names);
    return s;
}

static sample *find(counts *c, const char *provider, const char *model, unsigned status)
{
    uint32_t hash = hash_text(hash_text(2166136261u ^ status, provider), model);
    sample **first = &c->samples[hash % BUCKETS], *s = *first;

    while (s && (s->hash != hash || s->status != status || strcmp(s->provider, provider) != 0 ||
                 strcmp(s->model, model) != 0)) {
        s = s->next;
    }
    if (s == NULL) {
        s = sample_new(c->families, provider, model, status);
        s->hash = hash;
        s->next = *first;
        *first = s;
    }
    return s;
}

void counts_attempt(counts *c, const policy_target *target, const char *model, unsigned status,
                    double seconds)
{
    sample *s = find(c, target->provider->name, model, status);

    metric_add(s->requests, 1);
    metric_observe(s->latency, seconds);
    metric_observe(s->operation, seconds);
}

void counts_answered(counts *c, const policy_target *target, const char *model,
                     const counts_answer *answer)
{
    sample *s = find(c, target->provider->name, model, 200);

    if (answer->tokens.in >= 0) {
        metric_observe(s->in, (double)answer->tokens.in);
    }
    if (answer->tokens.out >= 0) {
        metric_observe(s->out, (double)answer->tokens.out);
    }
    metric_observe(s->request, answer->seconds);
    metric_observe(s->first, answer->first);
    if (answer->tokens.out > 1 && answer->seconds > answer->first) {
        metric_observe(s->token,
                       (answer->seconds - answer->first) / (double)(answer->tokens.out - 1));
    }
}
