/* Policy documents: no input may crash the reader or break its invariants. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/policy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    aiq_err err = {0};
    const aiq_policy *p = policy_parse((const char *)data, size, &err);

    if (p != NULL) {
        for (size_t i = 0; i < p->n_models; i++) {
            const policy_model *m = &p->models[i];

            if (policy_find_model(p, m->name, strlen(m->name)) != m) {
                __builtin_trap();
            }
        }
        policy_unref(p);
    }
    return 0;
}
