/* The devices of the back end for tests, and what was told of them. */
#ifndef T_FAKE_DEVICES_H
#define T_FAKE_DEVICES_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/devices.h"

/* The names of devices that have failed, and of those that a model went to, each time. */
static pthread_mutex_t telling = PTHREAD_MUTEX_INITIALIZER;
static char failed[1024], taken[1024];

static inline void on_device(void *arg, devices_event event, const char *name, const char *why,
                             const devices_user *user)
{
    char *to = event == DEVICES_FAILED ? failed : taken;

    (void)arg;
    (void)why;
    (void)user;
    if (event == DEVICES_FAILED || event == DEVICES_TAKEN) {
        pthread_mutex_lock(&telling);
        snprintf(to + strlen(to), sizeof(failed) - strlen(to), "%s ", name);
        pthread_mutex_unlock(&telling);
    }
}

/* fake: how they behave, see kernels/fake/fake.c */
static inline devices *open_devices(const char *fake)
{
    setenv("AIQ_FAKE", fake, 1);
    failed[0] = taken[0] = '\0';
    return devices_open("fake", NULL, on_device, NULL);
}

/* Whether these have failed so far. */
static inline bool told(const char *failures)
{
    bool same;

    pthread_mutex_lock(&telling);
    same = strcmp(failed, failures) == 0;
    pthread_mutex_unlock(&telling);
    return same;
}

#endif
