#include "access/role.h"

int role_rank(aiq_str role)
{
    static const char *const roles[] = {"viewer", "user", "developer", "admin"};

    for (int i = 0; i < 4; i++) {
        if (aiq_str_is(role, roles[i])) {
            return i;
        }
    }
    return -1;
}
