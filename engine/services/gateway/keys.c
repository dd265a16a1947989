/*
 * Whether providers have their keys, as /health tells it. A missing key makes
 * its provider useless, not the engine: degraded. The newest policy counts.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/log.h"
#include "services/gateway/gateway.h"

/* A provider that once had a key to have. */
struct key_health {
    struct key_health *next;
    char *title;
    bool missing; /* atomic */
    health_component health;
};

static health_status check(void *arg, char *reason, size_t size)
{
    struct key_health *k = arg;

    if (!__atomic_load_n(&k->missing, __ATOMIC_RELAXED)) {
        return HEALTH_OK;
    }
    snprintf(reason, size, "a key is missing");
    return HEALTH_DEGRADED;
}

static struct key_health *find(gateway *g, const char *provider)
{
    char title[256];
    struct key_health *k = g->keys;

    snprintf(title, sizeof(title), "provider %s", provider);
    while (k && strcmp(k->title, title) != 0) {
        k = k->next;
    }
    if (k == NULL) {
        k = aiq_zalloc(sizeof(*k));
        k->title = strcpy(aiq_alloc(strlen(title) + 1), title);
        k->health = (health_component){.name = k->title, .check = check, .arg = k};
        k->next = g->keys;
        g->keys = k;
        engine_add_health(g->engine, &k->health);
    }
    return k;
}

static void set_missing(struct key_health *k, bool missing)
{
    __atomic_store_n(&k->missing, missing, __ATOMIC_RELAXED);
}

static bool any_missing(secrets *s, const policy_provider *p)
{
    bool missing = false;

    for (size_t i = 0; i < p->n_keys; i++) {
        aiq_err err;
        aiq_str key;
        if (!secrets_get(s, p->keys[i], &key, &err)) {
            missing = true;
            aiq_log(AIQ_LOG_WARN, "gateway", "a provider's key is missing",
                    AIQ_S("provider", p->name), AIQ_S("detail", err.detail));
        }
    }
    return missing;
}

void gateway_check_keys(gateway *g, const aiq_policy *policy)
{
    secrets *s = secrets_new(g->engine->options.secrets);

    for (struct key_health *k = g->keys; k; k = k->next) {
        set_missing(k, false); /* what this policy does not name is nobody's concern */
    }
    for (size_t i = 0; i < policy->n_providers; i++) {
        const policy_provider *p = &policy->providers[i];
        if (p->n_keys) {
            set_missing(find(g, p->name), any_missing(s, p));
        }
    }
    secrets_free(s);
}

void gateway_free_keys(gateway *g)
{
    while (g->keys) {
        struct key_health *k = g->keys;
        g->keys = k->next;
        free(k->title);
        free(k);
    }
}
