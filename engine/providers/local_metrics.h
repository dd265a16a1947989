/*
 * What local models count, as metrics. A model that was closed and opened again
 * goes on counting.
 */

#ifndef AIQ_LOCAL_METRICS_H
#define AIQ_LOCAL_METRICS_H

#include "core/metrics.h"
#include "infer/infer.h"

typedef struct local_metrics local_metrics;

/* Main thread, before the loops start. */
local_metrics *local_metrics_new(metrics *m);
void local_metrics_free(local_metrics *l);

/* How many replicas of a model compute. Any thread. */
void local_metrics_replicas(const local_metrics *l, const char *model, uint32_t n);

/* told: what was shown of this open model before, all 0 at first; becomes now. One thread at a
 * time for each model. */
void local_metrics_show(const local_metrics *l, const char *model, infer_stats *told,
                        const infer_stats *now);

#endif
