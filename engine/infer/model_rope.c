#include "infer/model_rope.h"

#include <math.h>

/* Turns that a frequency makes over the original context: above the first it is fast, below
 * the second slow. The paper's. */
#define FAST_TURNS 32
#define SLOW_TURNS 1

static void divide_by_tensor(model_reader *r, const char *name, float *factors, uint32_t n)
{
    const float *f = model_vector(r, name, n);

    for (uint32_t i = 0; f != NULL && i < n; i++) {
        if (!(f[i] > 0)) {
            model_fail(r, "%s has a divisor that is not positive", name);
            return;
        }
        factors[i] *= f[i];
    }
}

/* What it was trained for first; c->n_ctx may be less than the model's. */
static uint32_t original_context(model_reader *r, const kern_config *c)
{
    uint32_t whole = model_number(r, "context_length", c->n_ctx, MODEL_MAX_CTX);

    return model_number(r, "rope.scaling.original_context_length", whole, MODEL_MAX_CTX);
}

/* Both have been read then, whichever is used. */
static void long_or_short(model_reader *r, const kern_config *c, float *factors)
{
    const char *used = "rope_factors_short.weight", *other = "rope_factors_long.weight";
    uint32_t n = c->rope_dim / 2;

    if (c->n_ctx > original_context(r, c)) {
        used = "rope_factors_long.weight";
        other = "rope_factors_short.weight";
    }
    divide_by_tensor(r, used, factors, n);
    model_vector(r, other, n);
}

/* Of which pair a frequency makes so many turns over n tokens: a real number. */
static double pair_of(const kern_config *c, double turns, uint32_t n)
{
    return c->rope_dim * log(n / (turns * 2 * M_PI)) / (2 * log((double)c->rope_base));
}

static void yarn(model_reader *r, kern_config *c, double factor, float *factors)
{
    uint32_t n = original_context(r, c);
    double fast = model_real(r, "rope.scaling.yarn_beta_fast", FAST_TURNS, 1e6);
    double slow = model_real(r, "rope.scaling.yarn_beta_slow", SLOW_TURNS, 1e6);
    double first = fmax(0, floor(pair_of(c, fast, n)));
    double last = fmin(c->rope_dim - 1, ceil(pair_of(c, slow, n)));

    for (uint32_t i = 0; i < c->rope_dim / 2; i++) {
        double ramp = (i - first) / fmax(0.001, last - first);
        double kept = 1 - fmin(1, fmax(0, ramp)); /* of the frequency as it was */

        factors[i] /= (float)((1 - kept) / factor + kept);
    }
    c->rope_scale *= (float)(1 + 0.1 * log(factor));
}

static void scale(model_reader *r, kern_config *c, float *factors)
{
    const gguf_kv *kv = model_find(r, "rope.scaling.type");
    gguf_str type = {.p = "linear", .len = 6};
    /* without a type, and by an older key, too, it is linear; no factor is none */
    double factor = model_real(r, "rope.scale_linear", 1, 1e6);

    factor = model_real(r, "rope.scaling.factor", (float)factor, 1e6);
    if (kv != NULL && !gguf_as_str(kv, &type)) {
        type.len = 0;
    }
    if (r->failed || model_str_is(type, "none") || model_str_is(type, "longrope")) {
        return;
    }
    if (model_str_is(type, "linear")) {
        for (uint32_t i = 0; i < c->rope_dim / 2; i++) {
            factors[i] *= (float)factor;
        }
    } else if (model_str_is(type, "yarn") && factor >= 1) {
        yarn(r, c, factor, factors);
    } else {
        char shown[GGUF_SHOWN];

        model_fail(r, "rotary positions scaled by \"%s\" are not supported",
                   gguf_show(type, shown));
    }
}

void model_rope(model_reader *r, kern_config *c, float *factors)
{
    for (uint32_t i = 0; i < c->rope_dim / 2; i++) {
        factors[i] = 1;
    }
    c->rope_scale = model_real(r, "rope.scaling.attn_factor", 1, 1e3);
    if (gguf_find_tensor(r->g, "rope_freqs.weight") != NULL) {
        divide_by_tensor(r, "rope_freqs.weight", factors, c->rope_dim / 2);
    }
    if (gguf_find_tensor(r->g, "rope_factors_long.weight") != NULL) {
        long_or_short(r, c, factors);
    }
    scale(r, c, factors);
    c->rope_scale = c->rope_scale == 1 ? 0 : c->rope_scale;
}
