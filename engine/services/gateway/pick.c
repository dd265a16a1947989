/* Which of a model's targets comes next: one function a policy. */

#include <math.h>
#include "services/gateway/targets.h"

typedef struct {
    const target_question *q;
    uint32_t able; /* a bit for each target that may be picked */
} choice;

/* Whether to look at backups, and at targets all of whose keys rest. */
typedef struct {
    bool backup, resting;
} tier;

static bool is_able(const target_question *q, size_t i, tier now)
{
    const policy_target *t = &q->model->targets[i];

    return !(q->excluded >> i & 1) && t->backup == now.backup && target_well(target_of(t)) &&
           breaker_admits(&target_of(t)->breaker, q->now_ns) &&
           (now.resting || target_rested(t->provider, q->now_ns));
}

static bool can(const choice *c, size_t i)
{
    return c->able >> i & 1;
}

static int pick_first(const choice *c)
{
    return __builtin_ctz(c->able);
}

static int pick_by_weight(const choice *c)
{
    const policy_model *m = c->q->model;
    size_t i = (size_t)pick_first(c);
    uint64_t sum = m->targets[i].weight, at;

    for (size_t n = i + 1; n < m->n_targets; n++) {
        sum += can(c, n) ? m->targets[n].weight : 0;
    }
    at = c->q->random % sum;
    while (!can(c, i) || at >= m->targets[i].weight) {
        at -= can(c, i) ? m->targets[i].weight : 0;
        i++;
    }
    return (int)i;
}

/* The n-th that may be picked. */
static int nth(uint32_t able, unsigned n)
{
    for (; n; n--) {
        able &= able - 1;
    }
    return __builtin_ctz(able);
}

/* The better of two drawn at random, which spreads load far better than one, and
 * never sends everybody to the same target as the best of all would. */
static int pick_by_latency(const choice *c)
{
    const target_question *q = c->q;
    unsigned n = (unsigned)__builtin_popcount(c->able);

    if (n == 1) {
        return pick_first(c);
    }
    unsigned a = (unsigned)(q->random % n), b = (unsigned)(q->random / n % (n - 1));
    int one = nth(c->able, a), two = nth(c->able, b + (b >= a));
    return target_latency(target_of(&q->model->targets[two]), q->now_ns) <
                   target_latency(target_of(&q->model->targets[one]), q->now_ns)
               ? two
               : one;
}

/* Without a price it is our own machine's, and costs nothing more. */
static int64_t cost(const policy_target *t)
{
    const policy_price *p = &t->price;
    const int64_t prices[] = {p->input, p->output, p->characters, p->image, p->minute};
    int64_t sum = 0;

    for (size_t i = 0; i < sizeof(prices) / sizeof(prices[0]); i++) {
        sum += prices[i] > 0 ? prices[i] : 0;
    }
    return sum;
}

static int pick_by_cost(const choice *c)
{
    const policy_model *m = c->q->model;
    int best = pick_first(c);

    for (size_t i = (size_t)best + 1; i < m->n_targets; i++) {
        if (can(c, i) && cost(&m->targets[i]) < cost(&m->targets[best])) {
            best = (int)i;
        }
    }
    return best;
}

/* The same bits for the same target, whatever stands before it in the configuration. */
static uint64_t hash_target(uint64_t hash, const policy_target *t)
{
    for (const char *p = t->provider->name; *p; p++) {
        hash = (hash ^ (uint8_t)*p) * 0x100000001b3u; /* FNV-1a */
    }
    hash = (hash ^ '/') * 0x100000001b3u;
    for (const char *p = t->model; *p; p++) {
        hash = (hash ^ (uint8_t)*p) * 0x100000001b3u;
    }
    hash = (hash ^ hash >> 30) * 0xbf58476d1ce4e5b9u; /* splitmix64's last steps */
    hash = (hash ^ hash >> 27) * 0x94d049bb133111ebu;
    return hash ^ hash >> 31;
}

/* Weighted rendezvous hashing (Thaler and Ravishankar 1998): every target draws for the
 * key, and the lowest wins. When one goes its keys are spread over all others, and no
 * other key moves. */
static int pick_by_hash(const choice *c)
{
    const policy_model *m = c->q->model;
    int best = -1;
    double least = INFINITY;

    for (size_t i = 0; i < m->n_targets; i++) {
        if (!can(c, i)) {
            continue;
        }
        uint64_t bits = hash_target(0xcbf29ce484222325u ^ c->q->hash, &m->targets[i]);
        double drawn = -log(((double)(bits >> 11) + 1) / 0x1p53) / m->targets[i].weight;
        if (drawn < least) {
            least = drawn;
            best = (int)i;
        }
    }
    return best;
}

int target_pick(const target_question *q)
{
    static int (*const policies[])(const choice *) = {
        [POLICY_ORDER] = pick_first,        [POLICY_WEIGHT] = pick_by_weight,
        [POLICY_LATENCY] = pick_by_latency, [POLICY_COST] = pick_by_cost,
        [POLICY_HASH] = pick_by_hash,
    };
    static const tier tiers[] = {{false, false}, {true, false}, {false, true}, {true, true}};

    for (size_t n = 0; n < sizeof(tiers) / sizeof(tiers[0]); n++) {
        choice c = {.q = q};
        for (size_t i = 0; i < q->model->n_targets; i++) {
            c.able |= is_able(q, i, tiers[n]) ? 1u << i : 0;
        }
        if (c.able) {
            return policies[q->model->order](&c);
        }
    }
    return -1;
}

uint32_t target_wait(const policy_model *model, uint64_t now_ns)
{
    uint64_t least = UINT64_MAX;

    for (size_t i = 0; i < model->n_targets; i++) {
        uint64_t wait = breaker_wait_ns(&target_of(&model->targets[i])->breaker, now_ns);
        least = wait < least ? wait : least;
    }
    return (uint32_t)((least + 999999999) / 1000000000) + (least == 0);
}
