/*
 * Metrics of calls of models: llm_… for each attempt, and for requests that were
 * answered the histograms of OpenTelemetry's semantic conventions for generative AI, by
 * the names that Prometheus gives them.
 *
 * A loop has its own table of samples, found by name without a lock. Names come from
 * policies alone, so their number is bounded; across reloads they stay the same texts,
 * not the same pointers.
 */

#ifndef AIQ_GATEWAY_COUNTS_H
#define AIQ_GATEWAY_COUNTS_H

#include "core/metrics.h"
#include "core/policy.h"
#include "providers/provider.h"

typedef struct counts counts;
typedef struct counts_family counts_family;

/* Main thread, at start-up; lives as long as the process. */
counts_family *counts_families(metrics *m);

/* One for each loop. */
counts *counts_new(const counts_family *families);
void counts_free(counts *c);

/* An attempt has ended. model: the client's name. On the loop. */
void counts_attempt(counts *c, const policy_target *target, const char *model, unsigned status,
                    double seconds);

/* A request was answered. On the loop. */
typedef struct {
    provider_tokens tokens;
    double seconds, first; /* since it came; to its end, to its first token */
} counts_answer;
void counts_answered(counts *c, const policy_target *target, const char *model,
                     const counts_answer *answer);

#endif
