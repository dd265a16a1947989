#include "infer/draft.h"

uint32_t draft_find(const int32_t *ids, uint32_t n, uint32_t most, int32_t *out)
{
    uint32_t found = 0;

    if (n < 3 || most == 0) {
        return 0;
    }
    for (uint32_t i = n - 1; i >= 2; i--) { /* what follows begins at i */
        if (ids[i - 1] != ids[n - 1] || ids[i - 2] != ids[n - 2]) {
            continue;
        }
        if (i >= 3 && n > 3 && ids[i - 3] == ids[n - 3]) {
            found = i;
            break;
        }
        found = found > 0 ? found : i;
    }
    for (uint32_t i = 0; found > 0 && i < most; i++) {
        out[i] = found + i < n ? ids[found + i] : out[found + i - n];
    }
    return found > 0 ? most : 0;
}
