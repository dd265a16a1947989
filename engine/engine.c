#include "engine.h"

void engine_add_health(aiq_engine *engine, health_component *component)
{
    component->next = __atomic_load_n(&engine->health, __ATOMIC_RELAXED);
    /* release: who sees the component sees its fields */
    while (!__atomic_compare_exchange_n(&engine->health, &component->next, component, true,
                                        __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
    }
}

const health_component *engine_health(const aiq_engine *engine)
{
    return __atomic_load_n(&engine->health, __ATOMIC_ACQUIRE);
}

bool engine_leaves(const aiq_engine *engine)
{
    return __atomic_load_n(&engine->leaving, __ATOMIC_RELAXED);
}
