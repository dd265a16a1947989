#include "providers/provider.h"
#include <string.h>

static const provider_dialect *const providers[] = {&provider_openai, &provider_local};

const provider_dialect *provider_find(const char *dialect)
{
    for (size_t i = 0; i < sizeof(providers) / sizeof(providers[0]); i++) {
        if (strcmp(providers[i]->dialect, dialect) == 0) {
            return providers[i];
        }
    }
    return NULL;
}
