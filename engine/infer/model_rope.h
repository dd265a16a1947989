/*
 * Rotary positions beyond the length that a model was first trained for: what its file says
 * about them becomes one divisor for each frequency, and a scale for what is turned. Files say
 * it in one of four ways, or not at all:
 *
 *  - rope_freqs.weight: the divisors (Llama 3.1);
 *  - rope_factors_short.weight and rope_factors_long.weight: likewise, the long ones where the
 *    context is longer than the original one (Phi-3);
 *  - rope.scaling.type "linear": the same divisor for all;
 *  - "yarn": that divisor for the slow frequencies, none for the fast ones, a ramp between
 *    ("YaRN: Efficient Context Window Extension", Peng et al., 2023).
 */
#ifndef INFER_MODEL_ROPE_H
#define INFER_MODEL_ROPE_H

#include "infer/model_reader.h"

/* Writes factors, [rope_dim / 2], and c->rope_scale. */
void model_rope(model_reader *r, kern_config *c, float *factors);

#endif
