/* The roles, from the least to the most: viewer, user, developer, admin. */

#ifndef AIQ_ROLE_H
#define AIQ_ROLE_H

#include "core/pool.h"

/* 0 for viewer … 3 for admin; -1: no role. */
int role_rank(aiq_str role);

#endif
